//! The requests for links, addresses, routes and neighbours that hub and slots need.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Request;
use crate::address::Cidr;

/// One end of a link that is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) name: &'a str,
    /// The number the link gets, so that later requests need not ask for it; 0 lets the kernel choose.
    pub(crate) index: u32,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) is_up: bool,
}

impl End<'_> {
    fn message(&self, mtu: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        if self.is_up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        message.attributes.push(LinkAttribute::IfName(self.name.to_owned()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        if let Some(mac) = self.mac {
            message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        }
        message
    }
}

/// Makes a pair of links, `near` in the socket's namespace, `far` in `far_namespace` or beside it.
pub(crate) fn create_veth(near: End<'_>, far: End<'_>, mtu: u32, far_namespace: Option<BorrowedFd<'_>>) -> Request {
    let mut peer = far.message(mtu);
    if let Some(namespace) = far_namespace {
        peer.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    }
    let mut message = near.message(mtu);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Request::new(RouteNetlinkMessage::NewLink(message), flags, "create link", near.name)
}

pub(crate) fn delete_link(name: &str) -> Request {
    let message = named(name);
    Request::new(RouteNetlinkMessage::DelLink(message), 0, "delete link", name)
}

/// Marks a link, so that it can be deleted together with others.
pub(crate) fn set_group(name: &str, group: u32) -> Request {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::Group(group));
    Request::new(RouteNetlinkMessage::SetLink(message), 0, "set group of link", name)
}

/// Deletes all links of a group at the price of one: the kernel waits for other processors once.
pub(crate) fn delete_group(group: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    Request::new(RouteNetlinkMessage::DelLink(message), 0, "delete links of group", group.to_string())
}

pub(crate) fn set_alias(name: &str, alias: &str) -> Request {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
    Request::new(RouteNetlinkMessage::SetLink(message), 0, "set alias of link", name)
}

pub(crate) fn move_link(name: &str, namespace: BorrowedFd<'_>) -> Request {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    Request::new(RouteNetlinkMessage::SetLink(message), 0, "move to the host link", name)
}

pub(crate) fn set_up(name: &str, mtu: Option<u32>) -> Request {
    let mut message = named(name);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    Request::new(RouteNetlinkMessage::SetLink(message), 0, "bring up link", name)
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

/// Gives link `index` an address; `peer` is the other end of a point-to-point link.
pub(crate) fn add_address(index: u32, address: Ipv4Addr, prefix: u8, peer: Option<Ipv4Addr>, subject: &str) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
    message.attributes.push(AddressAttribute::Address(IpAddr::V4(peer.unwrap_or(address))));
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request::new(RouteNetlinkMessage::NewAddress(message), flags, "add address to link", subject)
}

/// What happens when the route is there already.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IfThere {
    Refuse,
    Replace,
}

/// Routes `to` by link `index`, through `gateway` or directly.
pub(crate) fn add_route(to: Cidr, gateway: Option<Ipv4Addr>, index: u32, if_there: IfThere, subject: &str) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = to.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(to.base())));
    message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::Inet(gateway))));
    message.attributes.push(RouteAttribute::Oif(index));
    let flags = match if_there {
        IfThere::Refuse => NLM_F_CREATE | NLM_F_EXCL,
        IfThere::Replace => NLM_F_CREATE | NLM_F_REPLACE,
    };
    Request::new(RouteNetlinkMessage::NewRoute(message), flags, "add route by link", subject)
}

/// Tells link `index` for ever which card has `address`, so that nobody has to ask and nobody can lie.
pub(crate) fn add_neighbour(index: u32, address: Ipv4Addr, mac: [u8; 6], subject: &str) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request::new(RouteNetlinkMessage::NewNeighbour(message), flags, "add neighbour to link", subject)
}

pub(crate) fn list_links() -> Request {
    Request::new(RouteNetlinkMessage::GetLink(LinkMessage::default()), 0, "list", "links")
}

pub(crate) fn list_addresses() -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    Request::new(RouteNetlinkMessage::GetAddress(message), 0, "list", "addresses")
}

pub(crate) fn list_routes() -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    Request::new(RouteNetlinkMessage::GetRoute(message), 0, "list", "routes")
}

pub(crate) fn get_link(name: &str) -> Request {
    Request::new(RouteNetlinkMessage::GetLink(named(name)), 0, "look up link", name)
}

/// Asks which number the socket's namespace knows `namespace` by.
pub(crate) fn get_namespace_id(namespace: BorrowedFd<'_>, subject: &str) -> Request {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd() as u32));
    Request::new(RouteNetlinkMessage::GetNsId(message), 0, "identify namespace of", subject)
}
