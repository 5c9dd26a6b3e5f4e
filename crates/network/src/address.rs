//! Arithmetic of addresses: the pool, its /22 subnets, and what belongs to which slot.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Slots of one hub are numbered 1 to this. 0 is the subnet's own address, the last two are the link
/// between hub and host.
pub(crate) const LAST_SLOT: u16 = 1021;
/// At most this many hubs, and so data directories, on one host: their uid ranges have to fit below 2^31.
const MAX_HUBS: u32 = 16;
const SUBNET_PREFIX: u8 = 22;
const SUBNET_SIZE: u32 = 1024;
const UID_START: u32 = 0x1000_0000;
const UIDS_PER_SLOT: u32 = 65_536;

/// An IPv4 prefix such as `10.213.0.0/18`, with no bit set outside the prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

impl Cidr {
    /// The prefix that `address` lies in.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { base: u32::from(address) & mask(prefix), prefix }
    }

    /// First address.
    pub fn base(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    /// Number of leading bits that are fixed.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.base & shorter == other.base & shorter
    }

    /// Whether `address` lies in this prefix.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Setting {
            field: "network_pool",
            value: text.to_owned(),
            expected: "an IPv4 prefix such as 10.213.0.0/18, with no bits set behind the prefix".into(),
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let cidr = Self::new(address, prefix);
        if prefix > 32 || cidr.base() != address {
            return Err(wrong());
        }
        Ok(cidr)
    }
}

/// The subnets that hubs may take out of `pool`, each with its index.
///
/// # Errors
/// A pool that is smaller than one subnet, unreasonably large, or contains the inner addresses.
pub(crate) fn plans(pool: Cidr) -> Result<Vec<Plan>> {
    let wrong =
        |expected: &str| Error::Setting { field: "network_pool", value: pool.to_string(), expected: expected.into() };
    if !(8..=SUBNET_PREFIX).contains(&pool.prefix) {
        return Err(wrong("a prefix between /8 and /22"));
    }
    let plans: Vec<_> = (0..MAX_HUBS.min(1 << (SUBNET_PREFIX - pool.prefix)))
        .map(|index| Plan { index: index as u8, base: pool.base + index * SUBNET_SIZE })
        .collect();
    let inner = Cidr::new(crate::slot::SLOT_GATEWAY, 30);
    if plans.iter().any(|plan| plan.subnet().overlaps(&inner)) {
        return Err(wrong("apart from 10.0.0.0/30, which every sandbox has inside"));
    }
    Ok(plans)
}

/// Everything that follows from a hub's index: its link, its addresses, its uids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    index: u8,
    base: u32,
}

impl Plan {
    /// The hub's index on this host, 0 to 15.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The /22 that the hub's addresses come from.
    pub fn subnet(&self) -> Cidr {
        Cidr { base: self.base, prefix: SUBNET_PREFIX }
    }

    /// Name of the link on the host.
    pub fn link(&self) -> String {
        format!("fp{}", self.index)
    }

    /// The host's address on the link to the hub.
    pub fn host_end(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + SUBNET_SIZE - 2)
    }

    /// The hub's address on the link to the host.
    pub fn hub_end(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + SUBNET_SIZE - 1)
    }

    /// The address by which the host reaches slot `number`.
    pub fn outer(&self, number: u16) -> Ipv4Addr {
        Ipv4Addr::from(self.base + u32::from(number))
    }

    /// The slot that has the outer address `address`, if it is one of this hub's.
    pub(crate) fn number_of(&self, address: Ipv4Addr) -> Option<u16> {
        let offset = u32::from(address).checked_sub(self.base)?;
        let number = u16::try_from(offset).ok()?;
        (1..=LAST_SLOT).contains(&number).then_some(number)
    }

    /// First of the 65,536 uids and gids of slot `number`.
    pub fn uid_base(&self, number: u16) -> u32 {
        UID_START + (u32::from(self.index) * SUBNET_SIZE + u32::from(number)) * UIDS_PER_SLOT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Vec<Plan> {
        plans(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_default_pool_gives_sixteen_disjoint_subnets() {
        let plans = pool("10.213.0.0/18");
        assert_eq!(plans.len(), 16);
        assert_eq!(plans[1].subnet().to_string(), "10.213.4.0/22");
        assert_eq!(plans[15].link(), "fp15");
        for (i, a) in plans.iter().enumerate() {
            assert!(plans[i + 1..].iter().all(|b| !a.subnet().overlaps(&b.subnet())));
        }
    }

    #[test]
    fn the_ends_of_the_link_are_a_pair_that_no_slot_has() {
        let plan = pool("10.213.0.0/18")[1];
        assert_eq!(plan.host_end().to_string(), "10.213.7.254");
        assert_eq!(plan.hub_end().to_string(), "10.213.7.255");
        assert_eq!(plan.outer(1).to_string(), "10.213.4.1");
        assert_eq!(plan.outer(LAST_SLOT).to_string(), "10.213.7.253");
        assert_eq!(plan.number_of(plan.outer(700)), Some(700));
        assert_eq!(plan.number_of(plan.host_end()), None);
        assert_eq!(plan.number_of(plan.subnet().base()), None);
    }

    #[test]
    fn uid_ranges_of_all_slots_are_disjoint_and_fit_in_31_bits() {
        let plans = pool("10.213.0.0/18");
        assert_eq!(plans[0].uid_base(1), 0x1001_0000);
        assert_eq!(plans[1].uid_base(1) - plans[0].uid_base(LAST_SLOT), 4 * 65_536);
        assert!(plans[15].uid_base(LAST_SLOT) + 65_535 < 1 << 31);
    }

    #[test]
    fn pools_that_cannot_work_are_refused_with_what_would_be_right() {
        for bad in ["10.213.0.0", "10.213.0.1/18", "x/18", "10.213.0.0/33", "2001:db8::/32"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        for bad in ["10.213.0.0/23", "0.0.0.0/0", "10.0.0.0/18"] {
            let error = plans(bad.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("network_pool"), "{error}");
        }
    }

    #[test]
    fn overlap_is_symmetric_and_knows_containment() {
        let a: Cidr = "10.213.0.0/22".parse().unwrap();
        for (other, want) in
            [("10.0.0.0/8", true), ("10.213.3.255/32", true), ("10.213.4.0/22", false), ("0.0.0.0/0", true)]
        {
            let other: Cidr = other.parse().unwrap();
            assert_eq!(a.overlaps(&other), want, "{other}");
            assert_eq!(other.overlaps(&a), want, "{other}");
        }
    }
}
