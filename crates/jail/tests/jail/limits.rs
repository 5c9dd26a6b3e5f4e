//! Bounds on memory, processes and processor time, and stopping and going on.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use forkpoint_jail::Limits;

use crate::sandbox::{Bed, LIMITS, wait_until};

#[test]
fn who_takes_too_much_memory_is_killed_and_the_rest_goes_on() {
    let mut bed = Bed::with_limits(Limits { memory_bytes: 48 << 20, ..LIMITS });
    bed.complete(&["hog", &(200 << 20).to_string()]);
    assert_eq!(bed.read("hog"), "killed");
    let usage = bed.group.usage().unwrap();
    assert_eq!(usage.oom_kills, 1);
    assert!((32 << 20..=48 << 20).contains(&usage.memory_peak), "{usage:?}");
}

#[test]
fn memory_within_the_limit_is_granted() {
    let mut bed = Bed::with_limits(Limits { memory_bytes: 64 << 20, ..LIMITS });
    bed.complete(&["hog", &(32 << 20).to_string()]);
    assert_eq!(bed.read("hog"), "ended");
    assert_eq!(bed.group.usage().unwrap().oom_kills, 0);
}

#[test]
fn a_fork_bomb_stays_within_its_processes_and_is_ended() {
    let mut bed = Bed::with_limits(Limits { pids: 20, ..LIMITS });
    bed.launch(&["forkbomb"]).unwrap();
    wait_until("forking is refused", || bed.upper("forkbomb").exists());
    assert_eq!(bed.read("forkbomb"), format!("19 {}", libc::EAGAIN));
    let usage = bed.group.usage().unwrap();
    assert_eq!(usage.pids, 20);
    assert!(usage.pid_limit_hits >= 1);
    assert_eq!(bed.group.pids().unwrap().len(), 20);
    bed.group.kill_all().unwrap();
    assert_eq!(bed.group.pids().unwrap(), [0; 0]);
}

#[test]
fn processor_time_is_bounded() {
    let mut bed = Bed::with_limits(Limits { cpu_millis: 100, ..LIMITS });
    bed.launch(&["spin"]).unwrap();
    let used = || Duration::from_micros(bed.group.usage().unwrap().cpu_usec);
    let (before, began) = (used(), std::time::Instant::now());
    wait_until("it has used 0.1 s", || used() - before >= Duration::from_millis(100));
    // A tenth of a processor: 1 s; the bound is per period of 0.1 s, so the first one may already be spent.
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
}

#[test]
fn a_frozen_sandbox_does_nothing_until_it_goes_on() {
    let mut bed = Bed::new();
    bed.launch(&["count"]).unwrap();
    let count = || fs::read(bed.upper("count")).ok().and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
    wait_until("it counts", || count() > Some(0));
    for _ in 0..5 {
        assert!(bed.group.freeze(Duration::from_secs(5)).unwrap());
        let (stopped, cpu) = (count(), bed.group.usage().unwrap().cpu_usec);
        for _ in 0..100 {
            std::thread::yield_now();
            assert_eq!(count(), stopped);
        }
        assert!(bed.group.usage().unwrap().cpu_usec - cpu < 1000);
        bed.group.thaw().unwrap();
        wait_until("it counts again", || count() > stopped);
    }
    assert!(bed.group.freeze(Duration::from_secs(5)).unwrap());
    bed.group.kill_all().unwrap();
    assert_eq!(bed.group.pids().unwrap(), [0; 0]);
}

#[test]
fn limits_can_be_changed_in_both_directions() {
    let bed = Bed::new();
    for memory_bytes in [64 << 20, 512 << 20, 32 << 20] {
        bed.group.set_limits(&Limits { memory_bytes, ..LIMITS }).unwrap();
    }
}

#[test]
fn groups_are_listed_removed_and_not_made_twice() {
    let bed = Bed::new();
    let second = bed.cgroups.create(&bed.instance, "second", &LIMITS).unwrap();
    assert_eq!(bed.cgroups.list(&bed.instance).unwrap(), ["box", "second"]);
    let error = bed.cgroups.create(&bed.instance, "second", &LIMITS).unwrap_err();
    assert!(error.already_exists(), "{error}");
    assert_eq!(bed.cgroups.list(&bed.instance).unwrap(), ["box", "second"]);
    second.remove().unwrap();
    second.remove().unwrap();
    second.kill_all().unwrap();
    assert_eq!(bed.cgroups.list(&bed.instance).unwrap(), ["box"]);
    bed.cgroups.remove_instance(&bed.instance).unwrap();
    assert_eq!(bed.cgroups.list(&bed.instance).unwrap(), [""; 0]);
    bed.cgroups.remove_instance(&bed.instance).unwrap();
}

/// Processes outside any sandbox, as a start that was cut short or a wrong move could leave them.
#[test]
fn processes_of_different_origin_are_all_killed_frozen_or_not() {
    let bed = Bed::new();
    let forkpoint_jail::CgroupJoin::V1(tasks) = bed.group.join() else { return };
    for frozen in [false, true] {
        // Each shell forks on for as long as it lives, once it is in the group.
        let command = "read go; while :; do (sleep 1000 & sleep 0.01); done";
        let mut shells: Vec<_> =
            (0..3).map(|_| Command::new("sh").args(["-c", command]).stdin(Stdio::piped()).spawn().unwrap()).collect();
        for shell in &mut shells {
            tasks.iter().for_each(|file| fs::write(file, shell.id().to_string()).unwrap());
            shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
        }
        wait_until("they have forked", || bed.group.pids().unwrap().len() > 10);
        if frozen {
            bed.group.freeze(Duration::from_secs(5)).unwrap();
        }
        bed.group.kill_all().unwrap();
        assert_eq!(bed.group.pids().unwrap(), [0; 0]);
        for shell in &mut shells {
            assert!(!shell.wait().unwrap().success());
        }
    }
}
