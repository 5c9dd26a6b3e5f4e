//! Reads what a namespace has: links, addresses, routes.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::io::Errno;

use crate::address::Cidr;
use crate::error::{Error, Result};
use crate::netlink::{Netlink, Reply, attributes, is, route, u32_of};

/// Attribute types of the kernel's `if_link.h`, `if_addr.h`, `rtnetlink.h` and `net_namespace.h`.
mod kind {
    pub(super) const IFLA_IFNAME: u16 = 3;
    pub(super) const IFLA_MTU: u16 = 4;
    pub(super) const IFLA_LINK: u16 = 5;
    pub(super) const IFLA_OPERSTATE: u16 = 16;
    pub(super) const IFLA_IFALIAS: u16 = 20;
    pub(super) const IFLA_LINK_NETNSID: u16 = 37;
    pub(super) const IFA_LOCAL: u16 = 2;
    pub(super) const IFA_ADDRESS: u16 = 1;
    pub(super) const RTA_DST: u16 = 1;
    pub(super) const RTA_OIF: u16 = 4;
    pub(super) const RTA_MULTIPATH: u16 = 9;
    pub(super) const NETNSA_NSID: u16 = 1;
}

/// `IF_OPER_UP` of the kernel's `if.h`.
const IF_OPER_UP: u8 = 6;
/// How often, and how many times, a link that comes up is looked at.
const GLANCE: Duration = Duration::from_micros(200);
const GLANCES: usize = 1000;

/// A link, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) mtu: u32,
    /// Index of the other end, in the namespace that has it.
    pub(crate) peer_index: u32,
    /// The number by which this namespace knows the other end's, if that is another one.
    pub(crate) peer_namespace: Option<i32>,
    /// Whether packets can be sent: both ends are up, and the kernel has drawn its conclusions.
    pub(crate) is_operational: bool,
}

impl Link {
    fn read(reply: &Reply) -> Self {
        let text = |value: &[u8]| String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
        let mut link = Self { index: reply.body.get(4..).and_then(u32_of).unwrap_or(0), ..Self::default() };
        for (kind, value) in reply.attributes(16) {
            match kind {
                kind::IFLA_IFNAME => link.name = text(value),
                kind::IFLA_IFALIAS => link.alias = text(value),
                kind::IFLA_MTU => link.mtu = u32_of(value).unwrap_or(0),
                kind::IFLA_LINK => link.peer_index = u32_of(value).unwrap_or(0),
                kind::IFLA_OPERSTATE => link.is_operational = value.first() == Some(&IF_OPER_UP),
                kind::IFLA_LINK_NETNSID => link.peer_namespace = u32_of(value).map(|id| id as i32),
                _ => {}
            }
        }
        link
    }
}

pub(crate) fn links(netlink: &mut Netlink) -> Result<Vec<Link>> {
    Ok(netlink.dump(&route::list_links())?.iter().map(Link::read).collect())
}

/// The link called `name`, if there is one.
pub(crate) fn link(netlink: &mut Netlink, name: &str) -> Result<Option<Link>> {
    match netlink.get(&route::get_link(name)) {
        Ok(reply) => Ok(Some(Link::read(&reply))),
        Err(error) if is(&error, Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits until packets can be sent by the link `name`, whose two ends have been brought up.
///
/// The end that came up first learns of the second by deferred work of the kernel, and drops what is
/// sent before that; a lost first packet costs its sender a second. Since 6.8 looking at the link is
/// enough to have the work done.
pub(crate) fn wait_until_operational(netlink: &mut Netlink, name: &str) -> Result<()> {
    for _ in 0..GLANCES {
        if link(netlink, name)?.is_some_and(|link| link.is_operational) {
            return Ok(());
        }
        std::thread::sleep(GLANCE);
    }
    Err(Error::step("wait for carrier of link", name, Errno::TIMEDOUT))
}

/// The IPv4 prefixes that addresses of this namespace lie in, point-to-point peers included.
pub(crate) fn addresses(netlink: &mut Netlink) -> Result<Vec<Cidr>> {
    let replies = netlink.dump(&route::list_addresses())?;
    Ok(replies
        .iter()
        .flat_map(|reply| {
            let prefix = reply.body.get(1).copied().unwrap_or(32);
            reply.attributes(8).filter_map(move |(kind, value)| match kind {
                kind::IFA_LOCAL => ipv4(value).map(|address| Cidr::new(address, 32)),
                kind::IFA_ADDRESS => ipv4(value).map(|address| Cidr::new(address, prefix)),
                _ => None,
            })
        })
        .collect())
}

/// An IPv4 route: where to, and by which links.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) to: Cidr,
    pub(crate) links: Vec<u32>,
}

impl Route {
    /// Whether this is the way to everywhere. Two halves of the address space, as tunnels like to
    /// add them, count as that too.
    pub(crate) fn is_default(&self) -> bool {
        self.to.prefix() <= 1
    }
}

pub(crate) fn routes(netlink: &mut Netlink) -> Result<Vec<Route>> {
    let replies = netlink.dump(&route::list_routes())?;
    Ok(replies
        .iter()
        .map(|reply| {
            let prefix = reply.body.get(1).copied().unwrap_or(0);
            let mut route = Route { to: Cidr::new(Ipv4Addr::UNSPECIFIED, prefix), links: Vec::new() };
            for (kind, value) in reply.attributes(12) {
                match kind {
                    kind::RTA_DST => {
                        route.to = Cidr::new(ipv4(value).unwrap_or(Ipv4Addr::UNSPECIFIED), prefix);
                    }
                    kind::RTA_OIF => route.links.extend(u32_of(value)),
                    kind::RTA_MULTIPATH => route.links.extend(next_hops(value)),
                    _ => {}
                }
            }
            route
        })
        .collect())
}

/// The links of a list of `struct rtnexthop`.
fn next_hops(mut bytes: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    while bytes.len() >= 8 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        if length < 8 {
            break;
        }
        found.extend(u32_of(&bytes[4..]));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The number by which the socket's namespace knows `namespace`, if the two ever met.
pub(crate) fn namespace_id(netlink: &mut Netlink, namespace: BorrowedFd<'_>, subject: &str) -> Result<Option<i32>> {
    let reply = netlink.get(&route::get_namespace_id(namespace, subject))?;
    let id = attributes(reply.body.get(4..).unwrap_or_default())
        .find(|(kind, _)| *kind == kind::NETNSA_NSID)
        .and_then(|(_, value)| u32_of(value))
        .map(|id| id as i32);
    Ok(id.filter(|id| *id >= 0))
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}
