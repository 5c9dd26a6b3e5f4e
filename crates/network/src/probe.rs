//! Finds out whether this host can do what hubs need, by trying it in a namespace of its own.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::address::plans;
use crate::error::{Error, Result};
use crate::forwarding::{Presence, write_settings};
use crate::hub::blocking;
use crate::namespace;
use crate::netlink::route::{self, End};
use crate::netlink::{Family, Netlink};
use crate::nft;
use crate::options::HubOptions;
use crate::resolvers;
use crate::rules::{HostRules, HubRules};
use crate::{conntrack, survey};

/// One answer: whether it works, and what was seen or why not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// Whether it works.
    pub ok: bool,
    /// What was found, or the reason.
    pub detail: String,
}

impl Check {
    fn of(result: Result<String>) -> Self {
        match result {
            Ok(detail) => Self { ok: true, detail },
            Err(error) => Self { ok: false, detail: error.to_string() },
        }
    }
}

/// What this host offers to the network of sandboxes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NetworkProbe {
    /// Network namespaces can be made.
    pub namespaces: Check,
    /// Pairs of links can be made.
    pub veth: Check,
    /// `nft` is there and the kernel takes the rules of hub and host.
    pub nft: Check,
    /// Connections of a former tenant can be forgotten.
    pub conntrack: Check,
    /// Forwarding can be switched.
    pub ip_forward: Check,
    /// Nobody else on this host drops what is forwarded.
    pub other_firewalls: Check,
    /// A resolver that sandboxes can reach.
    pub resolver: Check,
}

/// Tries everything that a hub needs. Leaves nothing behind.
pub async fn probe() -> NetworkProbe {
    let tried = blocking(|| Ok(probe_here())).await;
    tried.unwrap_or_else(|error| {
        let failed = Check { ok: false, detail: error.to_string() };
        NetworkProbe {
            namespaces: failed.clone(),
            veth: failed.clone(),
            nft: failed.clone(),
            conntrack: failed.clone(),
            ip_forward: failed.clone(),
            other_firewalls: failed.clone(),
            resolver: failed,
        }
    })
}

fn probe_here() -> NetworkProbe {
    let resolver = resolvers::of_this_host().first().map_or_else(
        || Check { ok: false, detail: "none in /etc/resolv.conf that sandboxes can reach".into() },
        |address| Check { ok: true, detail: address.to_string() },
    );
    let inside = |work: fn() -> Result<String>| {
        Check::of(namespace::on_thread(None, || {
            namespace::enter_new()?;
            work()
        }))
    };
    NetworkProbe {
        namespaces: inside(|| Ok("can be made".into())),
        veth: inside(try_veth),
        nft: inside(try_rules),
        conntrack: inside(|| {
            conntrack::sweep(&mut Netlink::open(Family::Netfilter)?, |_| false)?;
            Ok("connections can be listed and forgotten".into())
        }),
        ip_forward: inside(|| {
            write_settings(&[("ipv4/conf/lo/forwarding", "1", Presence::Required)])?;
            Ok("can be switched per link".into())
        }),
        other_firewalls: other_firewalls(),
        resolver,
    }
}

fn try_veth() -> Result<String> {
    let mut netlink = Netlink::open(Family::Route)?;
    let near = End { name: "probe0", index: 1000, mac: None, is_up: true };
    let far = End { name: "probe1", index: 0, mac: None, is_up: false };
    netlink.execute(&[route::create_veth(near, far, 1500, None)])?;
    match survey::link(&mut netlink, "probe0")? {
        Some(link) if link.index == 1000 => Ok("can be made with an index of choice".into()),
        other => Err(Error::step("look up link", format!("probe0, found {other:?}"), rustix::io::Errno::NODEV)),
    }
}

fn try_rules() -> Result<String> {
    let options = HubOptions::new("00000000", "/");
    let plan = plans(options.network_pool)?[0];
    let resolver = Some(Ipv4Addr::new(192, 0, 2, 53));
    nft::load("a namespace for trying", &HubRules { plan, resolver, connections: 1 }.text())?;
    let guarded = ["lo".to_owned()];
    let host = HostRules { instance: &options.instance, plan, resolver, guarded: &guarded };
    nft::load("a namespace for trying", &host.text())?;
    nft::version()
}

/// Every chain has to let a packet through, so another program's "drop what I do not know" cuts the
/// sandboxes off, and no rule of ours can help.
fn other_firewalls() -> Check {
    match nft::foreign_forward_drops() {
        Err(error) => Check { ok: false, detail: error.to_string() },
        Ok(chains) if chains.is_empty() => Check { ok: true, detail: "none drops forwarded packets".into() },
        Ok(chains) => Check {
            ok: false,
            detail: format!(
                "{} drops forwarded packets by default; accept those from and to links \"fp*\" there",
                chains.join(", ")
            ),
        },
    }
}
