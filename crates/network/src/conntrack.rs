//! Forgets tracked connections of addresses, so that a slot's next tenant inherits none.
//!
//! Entries are listed and deleted one by one, because kernels before 6.11 cannot delete by address.

use std::net::Ipv4Addr;

use rustix::io::Errno;

use crate::error::Result;
use crate::netlink::{Netlink, Reply, Request, attributes};

const AF_INET: u8 = 2;
/// `NFNL_SUBSYS_CTNETLINK << 8` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
const NESTED: u16 = 0x8000;

/// Attribute types of the kernel's `nfnetlink_conntrack.h`.
mod kind {
    pub(super) const CTA_TUPLE_ORIG: u16 = 1;
    pub(super) const CTA_TUPLE_REPLY: u16 = 2;
    pub(super) const CTA_ID: u16 = 12;
    pub(super) const CTA_ZONE: u16 = 18;
    pub(super) const CTA_TUPLE_IP: u16 = 1;
    pub(super) const CTA_IP_V4_SRC: u16 = 1;
}

/// Forgets all connections of the socket's namespace that an address named by `is_gone` began or
/// accepted. Returns how many there were.
pub(crate) fn sweep(netlink: &mut Netlink, is_gone: impl Fn(Ipv4Addr) -> bool) -> Result<usize> {
    let requests: Vec<_> = netlink
        .dump(&Request::raw(GET, &header(), "list", "connections"))?
        .iter()
        .filter(|reply| {
            [kind::CTA_TUPLE_ORIG, kind::CTA_TUPLE_REPLY]
                .iter()
                .any(|tuple| source(reply, *tuple).is_some_and(&is_gone))
        })
        .map(|reply| {
            let mut body = header();
            for (kind, value) in reply.attributes(4) {
                match kind {
                    kind::CTA_TUPLE_ORIG => attribute(&mut body, kind | NESTED, value),
                    // Zone and identity make sure that no newer connection is hit.
                    kind::CTA_ZONE | kind::CTA_ID => attribute(&mut body, kind, value),
                    _ => {}
                }
            }
            Request::raw(DELETE, &body, "forget", "connections").or(Errno::NOENT)
        })
        .collect();
    netlink.execute(&requests)?;
    Ok(requests.len())
}

/// The source address of one direction of a listed connection.
fn source(reply: &Reply, tuple: u16) -> Option<Ipv4Addr> {
    let inside = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let tuple = inside(reply.body.get(4..)?, tuple)?;
    let address = inside(inside(tuple, kind::CTA_TUPLE_IP)?, kind::CTA_IP_V4_SRC)?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?))
}

/// `struct nfgenmsg` for IPv4.
fn header() -> Vec<u8> {
    vec![AF_INET, 0, 0, 0]
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
