//! Ties the hub to the host by the link `fp<I>`, whose name is the claim to subnet and uids of index I.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::{HUB_LINK, slots_on};
use crate::address::{Cidr, Plan};
use crate::error::{Error, Result};
use crate::forwarding::{alias, is_of};
use crate::namespace;
use crate::netlink::route::{self, End};
use crate::netlink::{Family, Netlink, is};
use crate::options::HubOptions;
use crate::state;
use crate::survey::{self, Link};

/// Where a hub is tied to, and which slots it has.
pub(super) struct Place {
    pub(super) plan: Plan,
    pub(super) slots: BTreeSet<u16>,
}

/// Finds the hub's link, or makes it at the first index that is free, preferring the remembered one.
pub(super) fn attach(
    options: &HubOptions,
    plans: &[Plan],
    host: &mut Netlink,
    host_namespace: BorrowedFd<'_>,
    hub: BorrowedFd<'_>,
    mtu: u32,
) -> Result<Place> {
    let remembered = state::load(&options.run_dir)?;
    let (hub_end, slots) = namespace::on_thread(Some(hub), || {
        let mut hub = Netlink::open(Family::Route)?;
        Ok((survey::link(&mut hub, HUB_LINK)?, slots_on(&mut hub)?))
    })?;
    let is_remembered = |plan: &Plan| {
        remembered
            .as_ref()
            .is_some_and(|state| state.index == plan.index() && state.subnet == plan.subnet().to_string())
    };

    let mut mine = Vec::new();
    for link in survey::links(host)?.into_iter().filter(|link| is_of(link, &options.instance)) {
        let plan = plans.iter().find(|plan| plan.link() == link.name);
        match plan {
            Some(plan) if is_remembered(plan) && is_pair(hub_end.as_ref(), &link) => mine.push(*plan),
            // Without a memory the link alone says which index was taken.
            Some(plan) if remembered.is_none() && is_pair(hub_end.as_ref(), &link) => mine.push(*plan),
            // Left by a hub that is gone, or of a pool that is not used any more.
            _ if slots.is_empty() => host.execute(&[route::delete_link(&link.name).or(Errno::NODEV)])?,
            _ => {
                return Err(lost(&slots, remembered.as_ref(), "the settings name another network_pool"));
            }
        }
    }
    if let Some(plan) = mine.first() {
        return Ok(Place { plan: *plan, slots });
    }

    let mut reason = String::from("the pool has no subnet");
    let (first, others): (Vec<Plan>, Vec<Plan>) = plans.iter().partition(|plan| is_remembered(plan));
    let survey = Survey::of(host)?;
    for plan in first.iter().chain(&others) {
        // Addresses and uids of sandboxes that run cannot be changed.
        if !slots.is_empty() && !is_remembered(plan) {
            return Err(lost(&slots, remembered.as_ref(), &reason));
        }
        if let Some(obstacle) = survey.obstacle(plan) {
            reason = obstacle;
            continue;
        }
        if claim(options, *plan, host_namespace, hub, mtu)? {
            return Ok(Place { plan: *plan, slots });
        }
        reason = format!("link {} exists", plan.link());
    }
    Err(Error::NoSubnet { pool: options.network_pool.to_string(), reason })
}

/// Whether the two are the ends of one link. Indices are compared both ways, since each is only unique
/// within its namespace.
fn is_pair(hub_end: Option<&Link>, host_end: &Link) -> bool {
    hub_end.is_some_and(|end| {
        end.peer_index == host_end.index
            && host_end.peer_index == end.index
            && end.peer_namespace.is_some()
            && host_end.peer_namespace.is_some()
    })
}

fn lost(slots: &BTreeSet<u16>, remembered: Option<&state::State>, reason: &str) -> Error {
    Error::SubnetLost {
        slots: slots.len(),
        subnet: remembered.map_or_else(|| "unknown".into(), |state| state.subnet.clone()),
        reason: reason.to_owned(),
    }
}

/// Makes the pair inside the hub, with its alias, and moves one end out: on the host it appears complete
/// or not at all. False if the host has a link of that name.
fn claim(
    options: &HubOptions,
    plan: Plan,
    host_namespace: BorrowedFd<'_>,
    hub: BorrowedFd<'_>,
    mtu: u32,
) -> Result<bool> {
    namespace::on_thread(Some(hub), || {
        let mut hub = Netlink::open(Family::Route)?;
        let name = plan.link();
        let near = End { name: HUB_LINK, index: 0, mac: None, is_up: false };
        let far = End { name: &name, index: 0, mac: None, is_up: false };
        // What a killed predecessor left, tied or not.
        hub.execute(&[route::delete_link(HUB_LINK).or(Errno::NODEV)])?;
        hub.execute(&[route::create_veth(near, far, mtu, None)])?;
        hub.execute(&[route::set_alias(&name, &alias(&options.instance, &BTreeSet::new()))])?;
        match hub.execute(&[route::move_link(&name, host_namespace)]) {
            Ok(()) => Ok(true),
            Err(error) => {
                hub.execute(&[route::delete_link(HUB_LINK).or(Errno::NODEV)])?;
                if is(&error, Errno::EXIST) { Ok(false) } else { Err(error) }
            }
        }
    })
}

/// What the host has that a subnet must not collide with.
struct Survey {
    links: Vec<Link>,
    taken: Vec<Cidr>,
}

impl Survey {
    fn of(host: &mut Netlink) -> Result<Self> {
        let mut taken = survey::addresses(host)?;
        taken.extend(survey::routes(host)?.iter().filter(|route| !route.is_default()).map(|route| route.to));
        Ok(Self { links: survey::links(host)?, taken })
    }

    fn obstacle(&self, plan: &Plan) -> Option<String> {
        if self.links.iter().any(|link| link.name == plan.link()) {
            return Some(format!("link {} exists", plan.link()));
        }
        let subnet = plan.subnet();
        self.taken
            .iter()
            .find(|taken| taken.overlaps(&subnet))
            .map(|taken| format!("{subnet} overlaps {taken}, which this host has an address in or a route to"))
    }
}
