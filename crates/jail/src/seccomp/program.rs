//! Compiles the lists into one BPF program.
//!
//! Calls judged by their arguments are compiled by `seccompiler`, one stage for each answer, and chained. Behind
//! them all other calls are found by a binary search over ranges of numbers: loading a filter makes the kernel run it
//! once for each call that exists, and every sandbox loads one, so a chain of 300 comparisons would be felt.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, sock_filter};

use super::{arguments, list};

/// Instructions before the first one of a stage: load the architecture, compare it, kill if it is another.
const ARCHITECTURE_CHECK: usize = 3;

/// Never an answer of ours, so it marks where a stage found nothing to refuse.
const NOT_REFUSED: SeccompAction = SeccompAction::Trace(0x7a7a);

const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What the filter answers without looking at arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Allow,
    Errno(i32),
}

pub(super) fn compile() -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut program = BpfProgram::new();
    for (errno, rules) in arguments::stages()? {
        let stage = stage(errno, rules, arch)?;
        // The first stage brings the check of the architecture, which holds for all that follows.
        let known = if program.is_empty() { 0 } else { ARCHITECTURE_CHECK };
        program.extend(stage.into_iter().skip(known));
    }
    program.push(instruction(LOAD_NUMBER, 0, 0, 0));
    program.extend(search(&ranges()));
    Ok(program)
}

pub(super) fn to_bytes(filter: &sock_filter) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&filter.code.to_ne_bytes());
    bytes[2] = filter.jt;
    bytes[3] = filter.jf;
    bytes[4..].copy_from_slice(&filter.k.to_ne_bytes());
    bytes
}

/// A program that answers `errno` where a rule matches and otherwise runs on behind its end.
fn stage(
    errno: i32,
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    arch: TargetArch,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let refuse = SeccompAction::Errno(errno as u32);
    let mut stage: BpfProgram = SeccompFilter::new(rules, NOT_REFUSED, refuse, arch)?.try_into()?;
    let (end, go_on) = (stage.len(), u32::from(NOT_REFUSED));
    for (at, filter) in stage.iter_mut().enumerate() {
        if filter.code == RETURN && filter.k == go_on {
            *filter = instruction(JUMP, 0, 0, (end - at - 1) as u32);
        }
    }
    Ok(stage)
}

/// The answers by first number of each range; the first range starts at 0 and the last one has no end.
fn ranges() -> Vec<(u32, Answer)> {
    let mut answers = BTreeMap::new();
    answers.extend(list::REFUSED.iter().flat_map(|group| *group).map(|nr| (*nr, Answer::Errno(libc::EPERM))));
    answers.extend(list::ALLOWED.iter().flat_map(|group| *group).map(|nr| (*nr, Answer::Allow)));
    let mut ranges: Vec<(u32, Answer)> = Vec::new();
    let mut add = |start, answer| {
        if ranges.last().is_none_or(|(_, last)| *last != answer) {
            ranges.push((start, answer));
        }
    };
    let mut next = 0;
    for (number, answer) in answers {
        let number = number as u32;
        if number > next {
            add(next, Answer::Errno(libc::ENOSYS));
        }
        add(number, answer);
        next = number + 1;
    }
    add(next, Answer::Errno(libc::ENOSYS));
    ranges
}

/// A binary search: the upper half is entered if the number is at least its start.
fn search(ranges: &[(u32, Answer)]) -> BpfProgram {
    if let [(_, answer)] = ranges {
        let action = match answer {
            Answer::Allow => SeccompAction::Allow,
            Answer::Errno(errno) => SeccompAction::Errno(*errno as u32),
        };
        return vec![instruction(RETURN, 0, 0, action.into())];
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let start = upper[0].0;
    let (lower, upper) = (search(lower), search(upper));
    let mut program = match u8::try_from(lower.len()) {
        Ok(distance) => vec![instruction(JUMP_IF_AT_LEAST, distance, 0, start)],
        // A conditional jump reaches 255 instructions, an unconditional one any distance.
        Err(_) => vec![instruction(JUMP_IF_AT_LEAST, 0, 1, start), instruction(JUMP, 0, 0, lower.len() as u32)],
    };
    program.extend(lower);
    program.extend(upper);
    program
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests;
