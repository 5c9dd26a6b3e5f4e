//! The object that says what a store is, and with which master key it was made.

use crate::{
    VaultError,
    crypto::{MasterSeal, random},
    error::Result,
    object_keys::{FORMAT, ORGS},
    store::{Store, StoreError},
};

const MAGIC: &[u8; 8] = b"FPVAULT1";
const VERSION: u32 = 1;
/// How often the object is looked for while somebody else seems to make it.
const ROUNDS: usize = 5;
const CHECK: &[u8] = b"forkpoint vault key check";

/// Identity of a vault: 16 random bytes, which organisation keys are bound to.
pub(crate) type VaultId = [u8; 16];

/// Reads the format object, or makes one in a store that has none. Refuses another master key.
pub(crate) fn open_or_create(store: &dyn Store, name: &str, seal: &MasterSeal) -> Result<VaultId> {
    for _ in 0..ROUNDS {
        match store.get(FORMAT, None) {
            Ok(bytes) => return read(&bytes, name, seal),
            Err(StoreError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut is_empty = true;
        store.list(ORGS, &mut |_| is_empty = false)?;
        if !is_empty {
            // Another server may have made it and more since our read.
            match store.get(FORMAT, None) {
                Ok(bytes) => return read(&bytes, name, seal),
                // With a new identity nothing in it could be opened any more.
                Err(StoreError::Missing { .. }) => {
                    return Err(VaultError::corrupt(FORMAT, "it is missing from a store that holds checkpoints"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut id = [0; 16];
        random(&mut id)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&id);
        bytes.extend(seal.seal(&id, CHECK)?);
        if store.put_new(FORMAT, bytes.into())? {
            return Ok(id);
        }
        // Another server made it at the same moment: its object counts.
    }
    Err(VaultError::corrupt(FORMAT, "the store says that it is there, and that it is not"))
}

fn read(bytes: &[u8], name: &str, seal: &MasterSeal) -> Result<VaultId> {
    let corrupt = |problem: &str| VaultError::corrupt(FORMAT, problem);
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| corrupt("it is not a vault's"))?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt("it is too short"))?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(VaultError::Version { object: FORMAT.into(), found: version, known: VERSION });
    }
    let (id, check) = rest.split_first_chunk::<16>().ok_or_else(|| corrupt("it is too short"))?;
    match seal.open(id, check) {
        Some(clear) if *clear == CHECK => Ok(*id),
        _ => Err(VaultError::WrongKey { store: name.into() }),
    }
}
