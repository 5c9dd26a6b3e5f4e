//! Sets up a hub step by step, so that each step may have been done before, or half of it.

mod attach;
mod host;

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use crate::address::{Cidr, Plan, plans};
use crate::conntrack;
use crate::error::{Error, Result};
use crate::forwarding::{Presence, write_settings};
use crate::lock::HostLock;
use crate::namespace;
use crate::netlink::route::{self, IfThere};
use crate::netlink::{Family, Netlink};
use crate::nft;
use crate::options::{HubOptions, check_instance};
use crate::resolvers;
use crate::rules::{HubRules, is_plain_name};
use crate::slot::number_of_link;
use crate::survey;
use crate::worker::Workers;

/// The hub's end of its link to the host.
pub(crate) const HUB_LINK: &str = "hub";

/// Settings of the hub's namespace. Sources are rewritten, not checked; nobody is redirected.
const SETTINGS: [(&str, &str, Presence); 5] = [
    ("ipv6/conf/all/disable_ipv6", "1", Presence::Optional),
    ("ipv4/conf/all/rp_filter", "0", Presence::Required),
    ("ipv4/conf/default/rp_filter", "0", Presence::Required),
    ("ipv4/conf/all/accept_redirects", "0", Presence::Required),
    ("ipv4/ip_forward", "1", Presence::Required),
];

/// What is known of a hub that has been set up.
pub(super) struct Opened {
    pub(super) plan: Plan,
    pub(super) mtu: u32,
    pub(super) resolver: Option<Ipv4Addr>,
    pub(super) netns: Arc<OwnedFd>,
    pub(super) host: Arc<OwnedFd>,
    /// Numbers of the slots that were on the hub already.
    pub(super) slots: BTreeSet<u16>,
    pub(super) workers: Workers,
    pub(super) reaper: Workers,
}

/// Sets the hub up. Blocks; called in the host's namespace.
///
/// Order matters in two places: rules are loaded before the hub forwards anything and before the link
/// to the host is up, and what is to be undone is written down before it is done.
pub(super) fn open(options: &HubOptions) -> Result<Opened> {
    check_instance(&options.instance)?;
    check_names(options)?;
    let plans = plans(options.network_pool)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&options.run_dir)
        .map_err(|source| Error::step("create directory", options.run_dir.display().to_string(), source))?;

    let _lock = HostLock::take()?;
    let host_namespace = namespace::own()?;
    let mut host = Netlink::open(Family::Route)?;
    let netns = hub_namespace(options, host_namespace.as_fd())?;
    let uplinks = host::uplinks(&mut host, options)?;
    let place = attach::attach(options, &plans, &mut host, host_namespace.as_fd(), netns.as_fd(), uplinks.mtu)?;
    let resolver = resolver(options);

    namespace::on_thread(Some(netns.as_fd()), || set_up_hub(options, place.plan, uplinks.mtu, resolver))?;
    host::set_up(&mut host, options, place.plan, &uplinks, resolver)?;
    namespace::on_thread(Some(netns.as_fd()), || {
        survey::wait_until_operational(&mut Netlink::open(Family::Route)?, HUB_LINK)
    })?;
    forget_connections(netns.as_fd(), place.plan, &place.slots)?;
    let netns = Arc::new(netns);
    let workers = Workers::start(options.threads, &netns)?;
    let reaper = Workers::start(1, &netns)?;
    Ok(Opened {
        plan: place.plan,
        mtu: uplinks.mtu,
        resolver,
        netns,
        host: Arc::new(host_namespace),
        slots: place.slots,
        workers,
        reaper,
    })
}

/// Loads the rules of hub and host again, as resolvers and uplinks are now.
pub(super) fn refresh(
    options: &HubOptions,
    plan: Plan,
    host_namespace: BorrowedFd<'_>,
    hub: BorrowedFd<'_>,
) -> Result<Option<Ipv4Addr>> {
    let _lock = HostLock::take()?;
    let resolver = resolver(options);
    namespace::on_thread(Some(hub), || load_hub_rules(options, plan, resolver))?;
    namespace::on_thread(Some(host_namespace), || {
        let mut host = Netlink::open(Family::Route)?;
        let uplinks = host::uplinks(&mut host, options)?;
        host::set_up(&mut host, options, plan, &uplinks, resolver)
    })?;
    Ok(resolver)
}

fn check_names(options: &HubOptions) -> Result<()> {
    match options.uplinks.iter().flatten().find(|name| !is_plain_name(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Setting {
            field: "uplinks",
            value: name.clone(),
            expected: "names of links: letters, digits and . - _ @ : only".into(),
        }),
    }
}

/// The first resolver that sandboxes can be given. (A question that is repeated from the same port would
/// go to the same one anyway, so a second would not be asked.)
fn resolver(options: &HubOptions) -> Option<Ipv4Addr> {
    let found = options.resolvers.clone().unwrap_or_else(resolvers::of_this_host);
    let first = found.first().copied();
    if first.is_none() {
        tracing::warn!("no resolver that sandboxes can reach; they will not be able to look up names");
    }
    first
}

/// The hub's namespace: the one that is bound, or a new one.
fn hub_namespace(options: &HubOptions, host: BorrowedFd<'_>) -> Result<OwnedFd> {
    let path = options.run_dir.join("hub");
    let Some(bound) = namespace::bound_to(&path)? else {
        return namespace::create_bound(&path);
    };
    let is_host = namespace::same(bound.as_fd(), host)
        .map_err(|source| Error::step("identify", path.display().to_string(), source))?;
    if is_host {
        return Err(Error::Setting {
            field: "run_dir",
            value: path.display().to_string(),
            expected: "bound to a namespace other than the host's; unmount it".into(),
        });
    }
    Ok(bound)
}

fn load_hub_rules(options: &HubOptions, plan: Plan, resolver: Option<Ipv4Addr>) -> Result<()> {
    let rules = HubRules { plan, resolver, connections: options.connections_per_slot };
    nft::load("the hub", &rules.text())
}

/// Everything inside the hub but slots. Runs on a thread in it.
fn set_up_hub(options: &HubOptions, plan: Plan, mtu: u32, resolver: Option<Ipv4Addr>) -> Result<()> {
    load_hub_rules(options, plan, resolver)?;
    write_settings(&SETTINGS)?;
    let mut hub = Netlink::open(Family::Route)?;
    let link = survey::link(&mut hub, HUB_LINK)?
        .ok_or_else(|| Error::step("look up link", HUB_LINK, rustix::io::Errno::NODEV))?;
    let anywhere = Cidr::new(Ipv4Addr::UNSPECIFIED, 0);
    hub.execute(&[
        route::set_up("lo", None),
        route::add_address(link.index, plan.hub_end(), 31, None, HUB_LINK),
        route::set_up(HUB_LINK, Some(mtu)),
        route::add_route(anywhere, Some(plan.host_end()), link.index, IfThere::Replace, HUB_LINK),
    ])
}

/// Forgets connections of slots that are not there any more, so that a number can be handed out without
/// knowing who had it before.
fn forget_connections(hub: BorrowedFd<'_>, plan: Plan, slots: &BTreeSet<u16>) -> Result<()> {
    let sweep = || {
        let mut connections = Netlink::open(Family::Netfilter)?;
        conntrack::sweep(&mut connections, |address| {
            plan.number_of(address).is_some_and(|number| !slots.contains(&number))
        })
    };
    sweep()?;
    namespace::on_thread(Some(hub), sweep).map(|_| ())
}

/// The numbers of the slots that hang on the hub.
fn slots_on(hub: &mut Netlink) -> Result<BTreeSet<u16>> {
    Ok(survey::links(hub)?.iter().filter_map(|link| number_of_link(&link.name)).collect())
}
