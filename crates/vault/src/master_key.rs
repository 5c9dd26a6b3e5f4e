//! The server's master key: 32 bytes in a file that only root reads.

use aws_lc_rs::{hkdf, rand};
use rustix::fs::{Mode, OFlags};
use std::{
    fmt,
    fs::File,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use zeroize::{Zeroize, Zeroizing};

/// Length of a master key in bytes.
pub const KEY_BYTES: usize = 32;

/// The key under which everything else is sealed. Wiped when dropped; never printed.
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

/// Why there is no usable master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file cannot be read or made.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file is not what a key file must be.
    #[error("master key file {path} {problem}")]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
}

impl MasterKey {
    /// Reads the key file, or makes one with a fresh key (mode 0600, written beside, synced, renamed).
    pub fn open_or_create(path: &Path) -> Result<Self, MasterKeyError> {
        match Self::open(path) {
            Err(MasterKeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Self::create(path)
            }
            other => other,
        }
    }

    /// Reads the key file; refuses one that others may read or that has another length.
    pub fn open(path: &Path) -> Result<Self, MasterKeyError> {
        let io = |action| move |source: std::io::Error| MasterKeyError::Io { action, path: path.into(), source };
        let unfit = |problem| MasterKeyError::Unfit { path: path.into(), problem };
        let mut file = File::open(path).map_err(io("open"))?;
        let metadata = file.metadata().map_err(io("look at"))?;
        if metadata.mode() & 0o077 != 0 {
            return Err(unfit("may be read by others; its mode must be 0600"));
        }
        if metadata.len() != KEY_BYTES as u64 {
            return Err(unfit("does not have 32 bytes"));
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        file.read_exact(&mut *key).map_err(io("read"))?;
        Ok(Self(key))
    }

    fn create(path: &Path) -> Result<Self, MasterKeyError> {
        let io = |action| move |source: std::io::Error| MasterKeyError::Io { action, path: path.into(), source };
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *key).map_err(|_| MasterKeyError::NoRandom)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let beside = path.with_extension("new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file: File =
            rustix::fs::open(&beside, flags, Mode::from_raw_mode(0o600)).map_err(|e| io("make")(e.into()))?.into();
        file.write_all(&*key).and_then(|()| file.sync_all()).map_err(io("write"))?;
        std::fs::rename(&beside, path).map_err(io("put in place"))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync folder of"))?;
        Ok(Self(key))
    }

    /// A key of its own for one purpose (HKDF-SHA256 with the purpose as info).
    pub(crate) fn derive(&self, purpose: &str) -> Zeroizing<[u8; KEY_BYTES]> {
        struct Length;
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                KEY_BYTES
            }
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let info = [purpose.as_bytes()];
        let filled = hkdf::Salt::new(hkdf::HKDF_SHA256, b"forkpoint")
            .extract(&*self.0)
            .expand(&info, Length)
            .and_then(|okm| okm.fill(&mut *key));
        if filled.is_err() {
            // HKDF fails only for lengths over 255 hash lengths; ours is one.
            key.zeroize();
            unreachable!("HKDF gives 32 bytes");
        }
        key
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let first = MasterKey::open_or_create(&path).unwrap();
        let second = MasterKey::open_or_create(&path).unwrap();
        assert_eq!(*first.0, *second.0);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(*first.derive("a"), *first.derive("b"));
    }

    #[test]
    fn a_key_that_others_may_read_or_of_another_length_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        std::fs::write(&path, [1; KEY_BYTES]).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(MasterKey::open(&path), Err(MasterKeyError::Unfit { .. })));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(MasterKey::open(&path).is_ok());
        std::fs::write(&path, [1; 16]).unwrap();
        assert!(matches!(MasterKey::open_or_create(&path), Err(MasterKeyError::Unfit { .. })));
    }
}
