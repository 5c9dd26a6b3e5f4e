//! Runs the program on made-up calls, as the kernel would.

use super::*;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

fn errno(errno: i32) -> u32 {
    0x0005_0000 | errno as u32
}

/// The answer to one call, and how many instructions it took.
fn run(arch: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let program = compile().unwrap();
    let load = |offset: u32| match offset {
        0 => number,
        4 => arch,
        offset => {
            let (argument, high) = ((offset - 16) / 8, (offset - 16) % 8 == 4);
            (arguments[argument as usize] >> if high { 32 } else { 0 }) as u32
        }
    };
    let (mut at, mut accumulator) = (0, 0);
    for steps in 1.. {
        let filter = &program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { filter.jt } else { filter.jf });
        match filter.code {
            0x20 => accumulator = load(filter.k),
            0x54 => accumulator &= filter.k,
            0x05 => at += filter.k as usize,
            0x15 => at += jump(accumulator == filter.k),
            0x25 => at += jump(accumulator > filter.k),
            0x35 => at += jump(accumulator >= filter.k),
            0x06 => return (filter.k, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
    unreachable!()
}

fn answer(number: i64, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(ARCH, number as u32, all).0
}

#[test]
fn everyday_calls_are_allowed_in_few_steps() {
    for number in list::ALLOWED.iter().flat_map(|group| *group) {
        if [libc::SYS_socket, libc::SYS_socketpair].contains(number) {
            continue;
        }
        let (answer, steps) = run(ARCH, *number as u32, [0; 6]);
        assert_eq!(answer, ALLOW, "call {number}");
        assert!(steps < 80, "call {number} takes {steps} steps");
    }
}

#[test]
fn privileged_calls_are_refused_and_unknown_ones_do_not_exist() {
    for number in list::REFUSED.iter().flat_map(|group| *group) {
        assert_eq!(answer(*number, &[]), errno(libc::EPERM), "call {number}");
    }
    for number in [libc::SYS_clone3, 0xfff, 0x4000_0000, 0x4000_0000 | libc::SYS_execve, 0xffff_ffff] {
        assert_eq!(answer(number, &[]), errno(libc::ENOSYS), "call {number}");
    }
}

#[test]
fn no_call_is_both_allowed_and_refused_and_none_is_listed_twice() {
    let mut all: Vec<i64> = list::ALLOWED.iter().chain(list::REFUSED).flat_map(|group| *group).copied().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn calls_of_another_architecture_kill() {
    assert_eq!(run(0x4000_0003, 1, [0; 6]).0, KILL);
}

#[test]
fn clone_makes_processes_and_threads_but_no_namespaces() {
    let thread = 0x003d_0f00;
    assert_eq!(answer(libc::SYS_clone, &[thread]), ALLOW);
    assert_eq!(answer(libc::SYS_clone, &[libc::SIGCHLD as u64]), ALLOW);
    for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000_u64] {
        assert_eq!(answer(libc::SYS_clone, &[flag | 17]), errno(libc::EPERM), "{flag:#x}");
        assert_eq!(answer(libc::SYS_clone, &[flag | 0xff_0000_0000]), errno(libc::EPERM), "{flag:#x} with noise above");
    }
}

#[test]
fn sockets_are_judged_by_family_type_and_protocol() {
    let flags = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;
    let table = [
        (libc::AF_UNIX, libc::SOCK_STREAM, 0, ALLOW),
        (libc::AF_INET, libc::SOCK_STREAM, 0, ALLOW),
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP, ALLOW),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP, ALLOW),
        (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP, ALLOW),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6, ALLOW),
        // The kernel refuses these.
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW, ALLOW),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE, ALLOW),
        (libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_NETFILTER, errno(libc::EPROTONOSUPPORT)),
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP, errno(libc::EPROTONOSUPPORT)),
        (libc::AF_INET, libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP, errno(libc::EPROTONOSUPPORT)),
        (libc::AF_INET, libc::SOCK_DCCP, 0, errno(libc::EPROTONOSUPPORT)),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE, errno(libc::EPROTONOSUPPORT)),
        (libc::AF_PACKET, libc::SOCK_RAW, 0, errno(libc::EPERM)),
        (libc::AF_VSOCK, libc::SOCK_STREAM, 0, errno(libc::EAFNOSUPPORT)),
        (libc::AF_ALG, libc::SOCK_SEQPACKET, 0, errno(libc::EAFNOSUPPORT)),
        (libc::AF_TIPC, libc::SOCK_STREAM, 0, errno(libc::EAFNOSUPPORT)),
        (libc::AF_UNSPEC, libc::SOCK_STREAM, 0, errno(libc::EAFNOSUPPORT)),
    ];
    for (family, kind, protocol, expected) in table {
        let arguments = [family as u64, kind as u64 | flags, protocol as u64];
        assert_eq!(answer(libc::SYS_socket, &arguments), expected, "{family} {kind} {protocol}");
        let noisy = arguments.map(|argument| argument | 0xdead_0000_0000);
        assert_eq!(answer(libc::SYS_socket, &noisy), expected, "{family} {kind} {protocol} with noise above");
    }
    assert_eq!(answer(libc::SYS_socketpair, &[libc::AF_UNIX as u64, 1, 0]), ALLOW);
    assert_eq!(answer(libc::SYS_socketpair, &[libc::AF_VSOCK as u64, 1, 0]), errno(libc::EAFNOSUPPORT));
}

#[test]
fn nothing_can_be_typed_into_a_terminal() {
    for request in [0x5412, 0x541c, 0xffff_ffff_0000_5412] {
        assert_eq!(answer(libc::SYS_ioctl, &[0, request]), errno(libc::EPERM));
    }
    assert_eq!(answer(libc::SYS_ioctl, &[0, libc::TCGETS]), ALLOW);
}

#[test]
fn personalities_are_the_common_ones() {
    for known in [0, 8, 0x4_0000, 0xffff_ffff] {
        assert_eq!(answer(libc::SYS_personality, &[known]), ALLOW);
    }
    assert_eq!(answer(libc::SYS_personality, &[0x40_0000]), errno(libc::EPERM));
}

#[test]
fn the_bound_for_core_files_can_be_read_but_not_changed() {
    let core = u64::from(libc::RLIMIT_CORE);
    assert_eq!(answer(list::number::SETRLIMIT, &[core, 0x1000]), errno(0));
    assert_eq!(answer(libc::SYS_prlimit64, &[0, core, 0x1000]), errno(0));
    assert_eq!(answer(libc::SYS_prlimit64, &[0, core, 0x1_0000_0000]), errno(0));
    assert_eq!(answer(libc::SYS_prlimit64, &[0, core, 0]), ALLOW);
    assert_eq!(answer(libc::SYS_prlimit64, &[0, u64::from(libc::RLIMIT_NOFILE), 0x1000]), ALLOW);
}

#[test]
fn the_program_is_small() {
    let length = compile().unwrap().len();
    assert!(length < 500, "{length} instructions");
}
