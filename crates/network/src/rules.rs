//! The text of the rules in hub and host, from what is known about them. Pure.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::address::{LAST_SLOT, Plan};
use crate::slot::{SLOT_GATEWAY, SLOT_PEER};

/// Name of the table in the hub.
pub(crate) const HUB_TABLE: &str = "forkpoint";

/// Where no sandbox may go: "this network", private, shared, loopback, link-local (and with it most
/// clouds' metadata), Azure's host agent at its public address, protocol assignments, benchmarking,
/// multicast, reserved and broadcast. Ranges for documentation stay open; some networks use them.
const BLOCKED: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 168.63.129.16/32, 169.254.0.0/16, \
                       172.16.0.0/12, 192.0.0.0/24, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/4, 240.0.0.0/4";

/// Name of an instance's table on the host.
pub(crate) fn host_table(instance: &str) -> String {
    format!("forkpoint_{instance}")
}

/// Removes a table of the host, also if it is not there.
pub(crate) fn without_host_table(instance: &str) -> String {
    let table = host_table(instance);
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// What the hub's rules depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HubRules {
    pub(crate) plan: Plan,
    pub(crate) resolver: Option<Ipv4Addr>,
    /// How many connections a slot may have open.
    pub(crate) connections: u32,
}

impl HubRules {
    /// The rules, replacing those that are there, with the whole map from links to addresses.
    pub(crate) fn text(&self) -> String {
        let (mut outer, mut balance) = (String::new(), String::new());
        for number in 1..=LAST_SLOT {
            let address = self.plan.outer(number);
            let _ = write!(outer, "\"s{number}\" : {address}, ");
            let _ = write!(balance, "\"s{number}\" : {}, ", checksum_balance(address, SLOT_PEER));
        }
        let dns = self.resolver.map_or_else(String::new, |resolver| {
            format!(
                "iifname \"s*\" ip daddr {SLOT_GATEWAY} meta l4proto {{ tcp, udp }} th dport 53 \
                 dnat ip to {resolver}"
            )
        });
        // Whatever source a sandbox claims, it gets its own. Rewriting is stateless and stands outside
        // connection tracking, which therefore sees only outer addresses, on the hub as on the host.
        // An ICMP error quotes the header that caused it (its source is at bit 160); the sandbox knows
        // its packet again only by the inner address. Without this, no sandbox would learn that a
        // destination is unreachable or a packet too big.
        format!(
            "add table inet {HUB_TABLE}
delete table inet {HUB_TABLE}
table inet {HUB_TABLE} {{
  map outer {{ type ifname : ipv4_addr; elements = {{ {outer} }}; }}
  map balance {{ typeof oifname : @th,32,16; elements = {{ {balance} }}; }}
  set blocked {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {BLOCKED}, {subnet} }}; }}
  set connections {{ type ipv4_addr; size 1024; flags dynamic; }}
  chain rewrite_source {{
    type filter hook prerouting priority -300; policy accept;
    ip saddr set iifname map @outer
  }}
  chain resolve {{
    type nat hook prerouting priority -100; policy accept;
    {dns}
  }}
  chain input {{ type filter hook input priority 0; policy drop; }}
  chain forward {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname \"hub\" oifname \"s*\" ip saddr {host_end} accept
    iifname \"s*\" oifname \"hub\" goto leaving
  }}
  chain leaving {{
    meta nfproto != ipv4 drop
    ct state invalid drop
    add @connections {{ ip saddr ct count over {connections} }} drop
    ct status dnat accept
    ip daddr @blocked reject with icmp type admin-prohibited
    accept
  }}
  chain rewrite_destination {{
    type filter hook postrouting priority 300; policy accept;
    oifname \"s*\" ip daddr set {SLOT_PEER}
    oifname \"s*\" icmp type {{ destination-unreachable, time-exceeded }} @th,32,16 0 \
      @th,160,32 set {peer} @th,32,16 set oifname map @balance
  }}
}}
",
            subnet = self.plan.subnet(),
            host_end = self.plan.host_end(),
            connections = self.connections,
            peer = u32::from(SLOT_PEER),
        )
    }
}

/// What has to stand in 16 unused bits that were 0, so that `after` in place of `before` leaves the sum
/// of a packet's 16-bit words, and with it the checksum, as it was.
fn checksum_balance(before: Ipv4Addr, after: Ipv4Addr) -> u16 {
    let sum = |address: Ipv4Addr| (u32::from(address) >> 16) + (u32::from(address) & 0xffff);
    // Addition in ones' complement is addition modulo 0xffff.
    ((sum(before) + 2 * 0xffff - sum(after)) % 0xffff) as u16
}

/// What the host's rules depend on.
#[derive(Clone, Debug)]
pub(crate) struct HostRules<'a> {
    pub(crate) instance: &'a str,
    pub(crate) plan: Plan,
    pub(crate) resolver: Option<Ipv4Addr>,
    /// Links for which forwarding was off before: from there, nothing but sandboxes' answers may be
    /// forwarded now either.
    pub(crate) guarded: &'a [String],
}

impl HostRules<'_> {
    /// The rules, replacing those that are there.
    pub(crate) fn text(&self) -> String {
        let dns = self.resolver.map_or_else(String::new, |resolver| {
            format!("ip daddr {resolver} meta l4proto {{ tcp, udp }} th dport 53 accept")
        });
        let guard: String =
            self.guarded.iter().map(|link| format!("    iifname \"{link}\" oifname != \"fp*\" drop\n")).collect();
        let link = self.plan.link();
        let subnet = self.plan.subnet();
        let table = host_table(self.instance);
        format!(
            "add table inet {table}
delete table inet {table}
table inet {table} {{
  set blocked {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {BLOCKED}, {subnet} }}; }}
  chain input {{
    type filter hook input priority -300; policy accept;
    iifname != \"{link}\" accept
    ct state established,related accept
    {dns}
    drop
  }}
  chain forward {{
    type filter hook forward priority -300; policy accept;
    iifname \"{link}\" goto leaving
    oifname \"{link}\" ct state established,related accept
    oifname \"{link}\" drop
{guard}  }}
  chain leaving {{
    oifname \"fp*\" drop
    meta nfproto != ipv4 drop
    ip saddr != {subnet} drop
    {dns}
    ip daddr @blocked drop
    accept
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {subnet} oifname != \"{link}\" masquerade
  }}
}}
"
        )
    }
}

/// Whether a link's name can stand in a rule as it is.
pub(crate) fn is_plain_name(link: &str) -> bool {
    !link.is_empty()
        && link.len() < 16
        && link.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::plans;

    #[test]
    fn without_a_resolver_nothing_is_handed_on() {
        let plan = plans("10.213.0.0/18".parse().unwrap()).unwrap()[2];
        let hub = HubRules { plan, resolver: None, connections: 10 };
        assert!(!hub.text().contains("dnat ip to"));
        assert!(hub.text().contains("\"s1021\" : 10.213.11.253"));
        let resolver = Some(Ipv4Addr::new(192, 0, 2, 53));
        assert!(HubRules { resolver, ..hub }.text().contains("dnat ip to 192.0.2.53"));
        let host = HostRules { instance: "00c0ffee", plan, resolver, guarded: &["eth0".into()] };
        assert!(host.text().contains("table inet forkpoint_00c0ffee {"));
        assert!(host.text().contains("iifname \"eth0\" oifname != \"fp*\" drop"));
    }

    #[test]
    fn the_balance_keeps_the_sum_of_the_words() {
        for outer in [[10, 213, 0, 1], [10, 213, 63, 253], [192, 168, 0, 1], [0, 0, 0, 0], [255, 255, 255, 255]] {
            let outer = Ipv4Addr::from(outer);
            let balance = u32::from(checksum_balance(outer, SLOT_PEER));
            let words = |address: Ipv4Addr| (u32::from(address) >> 16) + (u32::from(address) & 0xffff);
            assert_eq!(words(outer) % 0xffff, (words(SLOT_PEER) + balance) % 0xffff, "{outer}");
        }
    }

    #[test]
    fn names_that_would_end_a_rule_are_known() {
        assert!(is_plain_name("eth0") && is_plain_name("enp3s0.100"));
        for bad in ["", "a\"b", "a b", "a;b", "a{", "0123456789abcdef", "e*"] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }
}
