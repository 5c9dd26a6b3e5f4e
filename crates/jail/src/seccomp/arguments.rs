//! Calls that are judged by their arguments. Each stage has one answer; a rule says when it is given.

use std::collections::BTreeMap;

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{self, Eq, Gt, MaskedEq, Ne};
use seccompiler::{BackendError, SeccompCondition, SeccompRule};

use super::list::number;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Namespaces belong to the host's side. (The flag of the time namespace cannot be given to `clone`.)
const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Plain Linux, 32-bit `uname`, the old version number and both, no address randomisation (debuggers), and the query.
/// The others change how memory is laid out in ways that help an attacker.
const PERSONALITIES: [u32; 6] = [0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, u32::MAX];

/// The type by which packet sockets were opened before they were a family.
const OBSOLETE_PACKET: i32 = 10;

/// Stages in the order in which they are asked, each with its error number.
pub(super) fn stages() -> Result<Vec<(i32, Rules)>, BackendError> {
    Ok(vec![
        (libc::EPERM, privileged()?),
        (libc::EAFNOSUPPORT, families()?),
        (libc::EPROTONOSUPPORT, protocols()?),
        (0, ignored()?),
    ])
}

fn privileged() -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    rules.insert(
        libc::SYS_clone,
        NAMESPACE_FLAGS
            .iter()
            .map(|flag| rule(&[(0, MaskedEq(*flag as u64), *flag as u32)]))
            .collect::<Result<_, _>>()?,
    );
    // TIOCSTI and TIOCLINUX type into a terminal as if its user had.
    rules.insert(libc::SYS_ioctl, vec![rule(&[(1, Eq, 0x5412)])?, rule(&[(1, Eq, 0x541c)])?]);
    rules.insert(libc::SYS_personality, vec![none_of(0, &PERSONALITIES)?]);
    // Packet sockets are what a program asks for with CAP_NET_RAW, so it gets the answer it would get without.
    let packet = [(0, Eq, libc::AF_PACKET as u32)];
    rules.insert(libc::SYS_socket, vec![rule(&packet)?]);
    rules.insert(libc::SYS_socketpair, vec![rule(&packet)?]);
    Ok(rules)
}

/// Asking for a socket of a family makes the kernel load its module, whoever asks; the four that programs need stay.
fn families() -> Result<Rules, BackendError> {
    let allowed = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|family| family as u32);
    let mut rules = Rules::new();
    rules.insert(libc::SYS_socket, vec![none_of(0, &allowed)?]);
    rules.insert(libc::SYS_socketpair, vec![none_of(0, &allowed)?]);
    Ok(rules)
}

/// The same for protocols: TCP, UDP, ICMP echo; addresses and routes, socket statistics. Raw sockets are left to
/// the kernel, which answers EPERM since the network namespace belongs to the host.
fn protocols() -> Result<Rules, BackendError> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // The type's upper bits are flags.
        let of = |kind: i32| [(0, Eq, family as u32), (1, MaskedEq(0xf), kind as u32)];
        let stream = [(2, Ne, libc::IPPROTO_IP as u32), (2, Ne, libc::IPPROTO_TCP as u32)];
        all.push(rule(&[&of(libc::SOCK_STREAM)[..], &stream].concat())?);
        let datagram = [libc::IPPROTO_IP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6]
            .map(|protocol| (2, Ne, protocol as u32));
        all.push(rule(&[&of(libc::SOCK_DGRAM)[..], &datagram].concat())?);
        for unusual in [libc::SOCK_RDM, libc::SOCK_SEQPACKET, libc::SOCK_DCCP, OBSOLETE_PACKET] {
            all.push(rule(&of(unusual))?);
        }
    }
    let netlink = [libc::NETLINK_ROUTE, libc::NETLINK_SOCK_DIAG].map(|protocol| (2, Ne, protocol as u32));
    all.push(rule(&[&[(0, Eq, libc::AF_NETLINK as u32)][..], &netlink].concat())?);
    let mut rules = Rules::new();
    rules.insert(libc::SYS_socket, all);
    Ok(rules)
}

/// Setting the bound for core files does nothing and succeeds: see the limits in `spec` for what it would open.
fn ignored() -> Result<Rules, BackendError> {
    let core = libc::RLIMIT_CORE;
    let mut rules = Rules::new();
    rules.insert(number::SETRLIMIT, vec![rule(&[(0, Eq, core)])?]);
    // Without a pointer to a new limit the call is a query. The pointer is compared whole.
    let set_core = vec![SeccompCondition::new(1, Dword, Eq, core.into())?, SeccompCondition::new(2, Qword, Gt, 0)?];
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(set_core)?]);
    Ok(rules)
}

/// Matches if all conditions (argument, comparison, value) hold. Only the lower 32 bits count, as in the kernel.
fn rule(conditions: &[(u8, SeccompCmpOp, u32)]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions
        .iter()
        .map(|(argument, operator, value)| SeccompCondition::new(*argument, Dword, operator.clone(), u64::from(*value)))
        .collect::<Result<_, _>>()?;
    SeccompRule::new(conditions)
}

/// Matches if the argument is none of the values.
fn none_of(argument: u8, values: &[u32]) -> Result<SeccompRule, BackendError> {
    rule(&values.iter().map(|value| (argument, Ne, *value)).collect::<Vec<_>>())
}
