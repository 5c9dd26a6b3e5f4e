//! Seals small secrets (environments) under the master key.
//!
//! Format: one version byte (1), a random 96-bit nonce, then AES-256-GCM ciphertext and tag. The context
//! (the id of the row) is authenticated with it, so sealed bytes moved to another row do not open.

use crate::MasterKey;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use forkpoint_engine::ports::sealer::{CannotOpen, Sealed, Sealer};
use std::fmt;

const VERSION: u8 = 1;

/// Seals under a key derived from the master key.
pub struct MasterKeySealer {
    key: LessSafeKey,
}

impl MasterKeySealer {
    /// Derives the sealing key.
    pub fn new(master: &MasterKey) -> Self {
        let key = master.derive("environment");
        let key = UnboundKey::new(&AES_256_GCM, &*key).map(LessSafeKey::new);
        // A key of exactly 32 bytes is the one thing AES-256 asks for.
        let Ok(key) = key else { unreachable!("AES-256 takes 32 bytes") };
        Self { key }
    }
}

impl Sealer for MasterKeySealer {
    fn seal(&self, context: &str, clear: &[u8]) -> Sealed {
        let mut nonce = [0; NONCE_LEN];
        let mut body = clear.to_vec();
        let sealed = aws_lc_rs::rand::fill(&mut nonce).and_then(|()| {
            self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut body)
        });
        // No random bytes or 2^36 bytes of input: going on would write a secret in clear.
        let Ok(()) = sealed else { panic!("the system gives no random bytes") };
        let mut bytes = Vec::with_capacity(1 + NONCE_LEN + body.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&nonce);
        bytes.append(&mut body);
        Sealed(bytes)
    }

    fn open(&self, context: &str, sealed: &Sealed) -> Result<Vec<u8>, CannotOpen> {
        let (version, rest) = sealed.0.split_first().ok_or(CannotOpen)?;
        if *version != VERSION || rest.len() < NONCE_LEN {
            return Err(CannotOpen);
        }
        let (nonce, body) = rest.split_at(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CannotOpen)?;
        let mut body = body.to_vec();
        let clear = self.key.open_in_place(nonce, Aad::from(context), &mut body).map_err(|_| CannotOpen)?.len();
        body.truncate(clear);
        Ok(body)
    }
}

impl fmt::Debug for MasterKeySealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKeySealer(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer() -> MasterKeySealer {
        let folder = tempfile::tempdir().unwrap();
        MasterKeySealer::new(&MasterKey::open_or_create(&folder.path().join("key")).unwrap())
    }

    #[test]
    fn what_is_sealed_opens_only_for_its_row_and_key() {
        let sealer = sealer();
        let sealed = sealer.seal("sb-1", b"API_KEY=s3cret");
        assert_eq!(sealer.open("sb-1", &sealed).unwrap(), b"API_KEY=s3cret");
        assert_eq!(sealer.open("sb-2", &sealed), Err(CannotOpen));
        assert_eq!(self::sealer().open("sb-1", &sealed), Err(CannotOpen));
        assert!(!sealed.0.windows(6).any(|window| window == b"s3cret"));
    }

    #[test]
    fn changed_or_short_bytes_do_not_open() {
        let sealer = sealer();
        let sealed = sealer.seal("x", b"hello");
        for index in 0..sealed.0.len() {
            let mut changed = sealed.clone();
            changed.0[index] ^= 1;
            assert!(sealer.open("x", &changed).is_err(), "byte {index}");
            assert!(sealer.open("x", &Sealed(sealed.0[..index].to_vec())).is_err());
        }
    }
}
