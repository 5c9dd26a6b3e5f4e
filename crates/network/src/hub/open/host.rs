//! The host's side of a hub: rules, address, route, forwarding.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rustix::io::Errno;

use crate::address::Plan;
use crate::error::{Error, Result};
use crate::forwarding::{self, Presence, write_settings};
use crate::netlink::Netlink;
use crate::netlink::route::{self, IfThere};
use crate::nft;
use crate::options::HubOptions;
use crate::rules::{HostRules, is_plain_name};
use crate::state::{self, State};
use crate::survey;

/// Packets of this size go everywhere; taken when the host has no uplink.
const USUAL_MTU: u32 = 1500;
/// The least and the greatest that a link of our kind takes and IPv4 needs.
const MTU_RANGE: (u32, u32) = (576, 65_535);

/// The links by which sandboxes leave the host.
pub(super) struct Uplinks {
    pub(super) names: BTreeSet<String>,
    /// What all of them carry, in bytes: with the same on every link of ours no packet is ever too big.
    pub(super) mtu: u32,
}

/// The uplinks that the options name, or those of the default routes.
pub(super) fn uplinks(host: &mut Netlink, options: &HubOptions) -> Result<Uplinks> {
    let routes = survey::routes(host)?;
    let by_default: Vec<u32> =
        routes.iter().filter(|route| route.is_default()).flat_map(|route| route.links.clone()).collect();
    let mut found = Uplinks { names: BTreeSet::new(), mtu: USUAL_MTU };
    let mut mtu = None;
    for link in survey::links(host)? {
        let is_meant = match &options.uplinks {
            Some(names) => names.contains(&link.name),
            None => by_default.contains(&link.index) && is_plain_name(&link.name),
        };
        if is_meant {
            mtu = Some(mtu.unwrap_or(u32::MAX).min(link.mtu));
            found.names.insert(link.name);
        }
    }
    found.mtu = mtu.unwrap_or(USUAL_MTU).clamp(MTU_RANGE.0, MTU_RANGE.1);
    Ok(found)
}

/// Sets up the host's side. The link stays down until the rules are there.
pub(super) fn set_up(
    host: &mut Netlink,
    options: &HubOptions,
    plan: Plan,
    uplinks: &Uplinks,
    resolver: Option<Ipv4Addr>,
) -> Result<()> {
    let ours = forwarding_for_us(host, options, plan, uplinks)?;
    let name = plan.link();
    // First the memory of what is about to be changed.
    host.execute(&[route::set_alias(&name, &forwarding::alias(&options.instance, &ours))])?;
    let state = State {
        index: plan.index(),
        subnet: plan.subnet().to_string(),
        boot_id: state::boot_id()?,
        forwarding: ours.clone(),
    };
    if state::load(&options.run_dir)?.as_ref() != Some(&state) {
        state::save(&options.run_dir, &state)?;
    }

    let guarded: Vec<String> = ours.into_iter().filter(|name| is_plain_name(name)).collect();
    let rules = HostRules { instance: &options.instance, plan, resolver, guarded: &guarded };
    nft::load("the host", &rules.text())?;
    write_settings(&[(&format!("ipv6/conf/{name}/disable_ipv6"), "1", Presence::Optional)])?;

    let link = survey::link(host, &name)?.ok_or_else(|| Error::step("look up link", name.clone(), Errno::NODEV))?;
    host.execute(&[
        route::add_address(link.index, plan.host_end(), 31, None, &name),
        route::set_up(&name, Some(uplinks.mtu)),
        route::add_route(plan.subnet(), Some(plan.hub_end()), link.index, IfThere::Refuse, &name).or(Errno::EXIST),
    ])?;
    forwarding::set(&name, true)?;
    for uplink in &uplinks.names {
        forwarding::set(uplink, true)?;
    }
    Ok(())
}

/// The links that forward, or are about to, only because of hubs. If another hub turned one on, its
/// memory is taken over, so that the last one to go turns it off.
fn forwarding_for_us(
    host: &mut Netlink,
    options: &HubOptions,
    plan: Plan,
    uplinks: &Uplinks,
) -> Result<BTreeSet<String>> {
    let boot_id = state::boot_id()?;
    let mut ours: BTreeSet<String> = state::load(&options.run_dir)?
        .filter(|state| state.boot_id == boot_id)
        .map(|state| state.forwarding)
        .unwrap_or_default();
    let links = survey::links(host)?;
    let listed: BTreeSet<String> = links.iter().flat_map(forwarding::listed).collect();
    ours.extend(
        links
            .iter()
            .filter(|link| link.name == plan.link())
            .flat_map(|link| forwarding::listed(link).collect::<Vec<_>>()),
    );
    for uplink in &uplinks.names {
        if listed.contains(uplink) || forwarding::is_on(uplink)? == Some(false) {
            ours.insert(uplink.clone());
        }
    }
    Ok(ours)
}
