//! The names of all objects in the store; nothing else makes or reads one.

use forkpoint_domain::ids::{CheckpointId, OrgId};
use std::fmt;

/// The object that says what the store is, and with which master key.
pub(crate) const FORMAT: &str = "format";
/// All organisations.
pub(crate) const ORGS: &str = "orgs/";
/// All marks of packs that once gave wrong bytes.
pub(crate) const SUSPECTS: &str = "suspects/";
/// Where damaged objects are moved.
pub(crate) const QUARANTINE: &str = "quarantine/";

/// Names one stored checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotRef {
    /// Whose it is.
    pub org: OrgId,
    /// Which.
    pub checkpoint: CheckpointId,
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.checkpoint, self.org)
    }
}

/// Names one pack: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackId(pub(crate) [u8; 16]);

impl PackId {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an object's key says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ObjectKey {
    Format,
    OrgKey(OrgId),
    Record(SnapshotRef),
    Pack(OrgId, PackId),
    Condemned(OrgId, PackId),
    Suspect(OrgId, PackId),
    Lease(OrgId, Lease),
    Upkeep(OrgId, Lease),
    Quarantined,
}

/// Names one writer, or one who looks after the store: when it began, and 8 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Milliseconds since 1970.
    pub(crate) began_ms: u64,
    pub(crate) nonce: u64,
}

/// Everything of one organisation.
pub(crate) fn org(org: OrgId) -> String {
    format!("{ORGS}{org}/")
}

/// All packs of an organisation.
pub(crate) fn packs(org: OrgId) -> String {
    format!("{ORGS}{org}/packs/")
}

/// All checkpoints of an organisation.
pub(crate) fn records(org: OrgId) -> String {
    format!("{ORGS}{org}/checkpoints/")
}

/// All marks of packs that are to go.
pub(crate) fn condemned(org: OrgId) -> String {
    format!("{ORGS}{org}/condemned/")
}

/// Marks of an organisation's packs that once gave wrong bytes.
pub(crate) fn suspects(org: OrgId) -> String {
    format!("{SUSPECTS}{org}/")
}

/// All writers at work.
pub(crate) fn leases(org: OrgId) -> String {
    format!("{ORGS}{org}/leases/")
}

/// Those who collect or mend, one at a time.
pub(crate) fn upkeep(org: OrgId) -> String {
    format!("{ORGS}{org}/upkeep/")
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}-{:016x}", self.began_ms, self.nonce)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => f.write_str(FORMAT),
            Self::OrgKey(org) => write!(f, "{ORGS}{org}/key"),
            Self::Record(name) => write!(f, "{}{}", records(name.org), name.checkpoint),
            Self::Pack(org, pack) => write!(f, "{}{pack}", packs(*org)),
            Self::Condemned(org, pack) => write!(f, "{}{pack}", condemned(*org)),
            Self::Suspect(org, pack) => write!(f, "{}{pack}", suspects(*org)),
            Self::Lease(org, lease) => write!(f, "{}{lease}", leases(*org)),
            Self::Upkeep(org, lease) => write!(f, "{}{lease}", upkeep(*org)),
            Self::Quarantined => f.write_str(QUARANTINE),
        }
    }
}

impl ObjectKey {
    /// What `key` names; `None` if the vault makes no such key.
    pub(crate) fn parse(key: &str) -> Option<Self> {
        if key == FORMAT {
            return Some(Self::Format);
        }
        if key.starts_with(QUARANTINE) {
            return Some(Self::Quarantined);
        }
        if let Some(rest) = key.strip_prefix(SUSPECTS) {
            let (org, pack) = rest.split_once('/')?;
            let parsed = Self::Suspect(org.parse().ok()?, parse_pack(pack)?);
            return (parsed.to_string() == key).then_some(parsed);
        }
        let mut parts = key.strip_prefix(ORGS)?.splitn(3, '/');
        let org: OrgId = parts.next()?.parse().ok()?;
        let (kind, name) = (parts.next()?, parts.next());
        let parsed = match (kind, name) {
            ("key", None) => Self::OrgKey(org),
            ("checkpoints", Some(name)) => Self::Record(SnapshotRef { org, checkpoint: name.parse().ok()? }),
            ("packs", Some(name)) => Self::Pack(org, parse_pack(name)?),
            ("condemned", Some(name)) => Self::Condemned(org, parse_pack(name)?),
            ("leases", Some(name)) => Self::Lease(org, parse_lease(name)?),
            ("upkeep", Some(name)) => Self::Upkeep(org, parse_lease(name)?),
            _ => return None,
        };
        // One object has one spelling.
        (parsed.to_string() == key).then_some(parsed)
    }
}

fn parse_pack(name: &str) -> Option<PackId> {
    let mut id = [0; 16];
    hex::decode_to_slice(name, &mut id).ok()?;
    Some(PackId(id))
}

fn parse_lease(name: &str) -> Option<Lease> {
    let (began, nonce) = name.split_once('-')?;
    Some(Lease { began_ms: began.parse().ok()?, nonce: u64::from_str_radix(nonce, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back_and_strangers_do_not() {
        let org: OrgId = "org_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let checkpoint = "cp-01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap();
        let pack = PackId([7; 16]);
        let lease = Lease { began_ms: 1_700_000_000_000, nonce: 5 };
        for key in [
            ObjectKey::Format,
            ObjectKey::OrgKey(org),
            ObjectKey::Record(SnapshotRef { org, checkpoint }),
            ObjectKey::Pack(org, pack),
            ObjectKey::Condemned(org, pack),
            ObjectKey::Suspect(org, pack),
            ObjectKey::Lease(org, lease),
            ObjectKey::Upkeep(org, lease),
        ] {
            assert_eq!(ObjectKey::parse(&key.to_string()), Some(key));
        }
        for stranger in
            ["", "orgs/", "orgs/x/key", "orgs/../key", "format/", &format!("{}AA", packs(org)), "suspects/x/y", "tmp/x"]
        {
            assert_eq!(ObjectKey::parse(stranger), None, "{stranger}");
        }
    }
}
