//! One sandbox's network: a namespace of its own, tied to the hub.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::address::{Cidr, LAST_SLOT, Plan};
use crate::conntrack;
use crate::error::{Error, Result};
use crate::forwarding::{Presence, write_settings};
use crate::netlink::route::{self, End, IfThere};
use crate::netlink::{Family, Netlink, is};
use crate::numbers::Numbers;
use crate::survey;
use crate::worker::HubThread;

/// The address that every sandbox has inside.
pub const SLOT_PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The gateway, and the name server, that every sandbox sees.
pub const SLOT_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Length of the prefix that [`SLOT_PEER`] and [`SLOT_GATEWAY`] share.
pub const SLOT_NETMASK: u8 = 30;
/// The one interface of a sandbox besides `lo`.
pub const SLOT_INTERFACE: &str = "eth0";

/// Cards never change either: a memory image wakes up under the addresses it knew.
const HUB_MAC: [u8; 6] = [0x02, 0x46, 0x50, 0, 0, 1];
const SLOT_MAC: [u8; 6] = [0x02, 0x46, 0x50, 0, 0, 2];
/// Links get fixed indices, so that everything after their creation can be asked for without reading
/// an answer first. The low ones may be taken by what the kernel puts into every namespace.
const SLOT_INDEX: u32 = 64;
const HUB_INDEX: u32 = 1000;
const LOOPBACK: &str = "lo";
/// The group of links in the hub that are about to be deleted.
const DOOMED: u32 = 0x4650;

/// Settings of every slot's namespace. What containers are normally allowed by capabilities over their
/// namespace, a sandbox's root has not; these two stand in for it.
const SETTINGS: [(&str, &str, Presence); 3] = [
    ("ipv4/ip_unprivileged_port_start", "0", Presence::Required),
    ("ipv4/ping_group_range", "0 2147483647", Presence::Required),
    ("ipv6/conf/all/disable_ipv6", "1", Presence::Optional),
];

/// A network namespace that is ready for a sandbox.
#[derive(Debug)]
pub struct Slot {
    /// 1 to 1021, unique on the hub while the slot is in use.
    pub number: u16,
    /// The address by which the host reaches the sandbox.
    pub outer: Ipv4Addr,
    /// First of the 65,536 uids and gids that belong to the slot on the host.
    pub uid_base: u32,
    /// The namespace. It lives as long as this descriptor or a process in it; drop the descriptor
    /// once the sandbox runs, so that the namespace goes when the sandbox does.
    pub netns: OwnedFd,
}

/// Name of a slot's link in the hub.
pub(crate) fn link_name(number: u16) -> String {
    format!("s{number}")
}

/// The number of the slot that a link in the hub belongs to.
pub(crate) fn number_of_link(name: &str) -> Option<u16> {
    let number = name.strip_prefix('s')?.parse().ok()?;
    ((1..=LAST_SLOT).contains(&number) && link_name(number) == name).then_some(number)
}

/// A number that goes back by itself unless the slot reaches its caller.
#[derive(Debug)]
pub(crate) struct Claim {
    numbers: Arc<Mutex<Numbers>>,
    number: Option<u16>,
}

impl Claim {
    fn take(numbers: &Arc<Mutex<Numbers>>) -> Option<Self> {
        let number = lock(numbers).take()?;
        Some(Self { numbers: Arc::clone(numbers), number: Some(number) })
    }

    /// The number stays in use.
    pub(crate) fn keep(mut self) {
        self.number = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            lock(&self.numbers).release(number);
        }
    }
}

/// Numbers stay consistent even if a holder of the lock panicked: each change is one call.
pub(crate) fn lock(numbers: &Mutex<Numbers>) -> std::sync::MutexGuard<'_, Numbers> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a slot on a thread of the hub.
pub(crate) fn make(
    thread: &mut HubThread,
    numbers: &Arc<Mutex<Numbers>>,
    plan: Plan,
    mtu: u32,
) -> Result<(Claim, Slot)> {
    let (netns, mut inside) = thread.in_new_namespace(|| {
        write_settings(&SETTINGS)?;
        Netlink::open(Family::Route)
    })?;
    if lock(numbers).available() == 0 {
        sweep(thread, numbers, plan)?;
    }
    // A link can outlive its slot for a moment, until the kernel has taken the namespace down. Such a
    // number goes to the back of the queue and the next one is tried.
    let tries = lock(numbers).available();
    for _ in 0..tries {
        let Some(claim) = Claim::take(numbers) else {
            break;
        };
        let Some(number) = claim.number else { break };
        match tie(thread, &netns, plan, number, mtu) {
            Err(error) if is(&error, Errno::EXIST) || is(&error, Errno::BUSY) => continue,
            other => other?,
        }
        let name = link_name(number);
        let ready = furnish(&mut inside).and_then(|()| survey::wait_until_operational(&mut thread.route, &name));
        if let Err(error) = ready {
            let _ = thread.route.execute(&[route::delete_link(&name)]);
            return Err(error);
        }
        let slot = Slot { number, outer: plan.outer(number), uid_base: plan.uid_base(number), netns };
        return Ok((claim, slot));
    }
    Err(Error::NoSlot(usize::from(LAST_SLOT)))
}

/// Ties a namespace to the hub: the pair of links, and the hub's way to it.
fn tie(thread: &mut HubThread, netns: &OwnedFd, plan: Plan, number: u16, mtu: u32) -> Result<()> {
    let name = link_name(number);
    let index = HUB_INDEX + u32::from(number);
    let near = End { name: &name, index, mac: Some(HUB_MAC), is_up: true };
    // The far end is made first and cannot be up before it has a peer.
    let far = End { name: SLOT_INTERFACE, index: SLOT_INDEX, mac: Some(SLOT_MAC), is_up: false };
    let outer = plan.outer(number);
    // Alone, since the requests behind a refused one would reach a link that is someone else's.
    thread.route.execute(&[route::create_veth(near, far, mtu, Some(netns.as_fd()))])?;
    let rest = thread.route.execute(&[
        route::add_route(Cidr::new(outer, 32), None, index, IfThere::Replace, &name),
        route::add_neighbour(index, outer, SLOT_MAC, &name),
    ]);
    if rest.is_err() {
        let _ = thread.route.execute(&[route::delete_link(&name)]);
    }
    rest
}

/// Sets up the inside: addresses, gateway and its card.
fn furnish(inside: &mut Netlink) -> Result<()> {
    let anywhere = Cidr::new(Ipv4Addr::UNSPECIFIED, 0);
    inside.execute(&[
        route::set_up(LOOPBACK, None),
        route::set_up(SLOT_INTERFACE, None),
        route::add_address(SLOT_INDEX, SLOT_PEER, SLOT_NETMASK, None, SLOT_INTERFACE),
        route::add_neighbour(SLOT_INDEX, SLOT_GATEWAY, HUB_MAC, SLOT_INTERFACE),
        route::add_route(anywhere, Some(SLOT_GATEWAY), SLOT_INDEX, IfThere::Replace, SLOT_INTERFACE),
    ])
}

/// Cuts slots off the hub.
pub(crate) fn cut_off(route: &mut Netlink, numbers: &[u16]) -> Result<()> {
    let names = numbers.iter().map(|number| link_name(*number));
    let mut requests: Vec<_> = names.map(|name| route::set_group(&name, DOOMED).or(Errno::NODEV)).collect();
    requests.push(route::delete_group(DOOMED).or(Errno::NODEV));
    route.execute(&requests)
}

/// Forgets the connections of slots that are gone, in the hub and on the host, and makes their numbers
/// free. Walking the kernel's table of connections takes some 10 ms however few entries it has, which is
/// why this is done for many numbers at once.
pub(crate) fn sweep(thread: &mut HubThread, numbers: &Mutex<Numbers>, plan: Plan) -> Result<()> {
    let gone = lock(numbers).begin_sweep();
    if gone.is_empty() {
        return Ok(());
    }
    let is_gone = |address| plan.number_of(address).is_some_and(|number| gone.contains(&number));
    let swept = thread.connections.iter_mut().try_for_each(|table| conntrack::sweep(table, is_gone).map(|_| ()));
    lock(numbers).end_sweep(&gone, swept.is_ok());
    swept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_of_slots_have_a_number() {
        assert_eq!(number_of_link("s1"), Some(1));
        assert_eq!(number_of_link("s1021"), Some(1021));
        for other in ["s", "s0", "s1022", "s01", "s+1", "hub", "lo", "sit0"] {
            assert_eq!(number_of_link(other), None, "{other}");
        }
    }
}
