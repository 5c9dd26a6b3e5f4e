//! Starts that fail, are cut short, or are undone: they say why, and nothing stays.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use forkpoint_jail::spec::encode_order;
use forkpoint_jail::{CgroupJoin, LaunchError, Launcher, Limits};
use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{Bed, LIMITS, jail, probe, wait_ended, wait_until};

/// Mounts of the host's namespace that have to do with the test.
fn mounts(bed: &Bed) -> usize {
    let own = bed.directory.path().to_str().unwrap().to_owned();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&own)).count()
}

/// Processes by this name, collected or not.
fn processes(name: &str) -> Vec<Pid> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name))
        .filter_map(Pid::from_raw)
        .collect()
}

fn assert_nothing_left(bed: &Bed) {
    assert_eq!(bed.group.pids().unwrap(), [0; 0]);
    assert_eq!(mounts(bed), 0);
    bed.group.remove().unwrap();
    assert_eq!(bed.cgroups.list(&bed.instance).unwrap(), [""; 0]);
}

#[test]
fn a_sandbox_ends_with_its_first_process_and_leaves_nothing() {
    let mut bed = Bed::new();
    let launched = bed.launch(&["sleep"]).unwrap();
    assert_eq!(bed.group.pids().unwrap(), [launched.pid]);
    assert_eq!(mounts(&bed), 0);
    bed.group.kill_all().unwrap();
    wait_ended(launched);
    assert_nothing_left(&bed);
}

#[test]
fn a_sandbox_can_be_started_again_on_its_layer() {
    let mut bed = Bed::new();
    for _ in 0..3 {
        bed.launch(&["sleep"]).unwrap();
        bed.group.kill_all().unwrap();
    }
    assert_nothing_left(&bed);
}

#[test]
fn what_fails_is_named() {
    type Break = fn(&mut Bed);
    let cases: [(&str, Break); 6] = [
        ("open template ", |bed| bed.spec.template = "/nonexistent".into()),
        ("open layer ", |bed| bed.spec.layer = "/nonexistent".into()),
        ("mount overlay: ", |bed| fs::remove_dir(bed.spec.layer.join("work")).unwrap()),
        ("find the agent /nonexistent", |bed| bed.launcher = Launcher::new(jail(), "/nonexistent")),
        ("open control group /nonexistent", |bed| bed.spec.cgroup = CgroupJoin::V1(vec!["/nonexistent".into()])),
        ("install the system call filter: ", |bed| bed.spec.seccomp = vec![0xff; 8]),
    ];
    for (step, break_it) in cases {
        let mut bed = Bed::new();
        break_it(&mut bed);
        match bed.launch(&["sleep"]) {
            Err(error @ LaunchError::Step(_)) => assert!(error.to_string().starts_with(step), "{error}"),
            other => panic!("{step}: {other:?}"),
        }
        assert_nothing_left(&bed);
    }
}

#[test]
fn a_descriptor_that_is_no_network_namespace_is_refused() {
    let mut bed = Bed::new();
    bed.netns = fs::File::open("/dev/null").unwrap().into();
    let error = bed.launch(&["sleep"]).unwrap_err().to_string();
    assert!(error.starts_with("join the network namespace: "), "{error}");
    assert_nothing_left(&bed);
}

#[test]
fn an_order_that_cannot_be_right_starts_nothing() {
    let mut bed = Bed::new();
    bed.spec.uid_base = 0;
    assert!(matches!(bed.launch(&["sleep"]), Err(LaunchError::Spec(_))));
    bed.spec.uid_base = crate::sandbox::UID_BASE;
    bed.launcher = Launcher::new("/nonexistent", probe());
    assert!(matches!(bed.launch(&["sleep"]), Err(LaunchError::Start { .. })));
    assert_nothing_left(&bed);
}

#[test]
fn an_agent_that_does_not_get_ready_is_ended() {
    let mut bed = Bed::new();
    assert!(matches!(bed.launch(&["die"]), Err(LaunchError::AgentEnded)));
    assert!(matches!(bed.launch(&["garbage"]), Err(LaunchError::Report(_))));
    assert!(matches!(bed.launch(&["endless"]), Err(LaunchError::Report(_))));
    bed.launcher = bed.launcher.clone().with_deadline(Duration::from_millis(300));
    let began = Instant::now();
    assert!(matches!(bed.launch(&["silent"]), Err(LaunchError::Deadline(_))));
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_nothing_left(&bed);
}

#[test]
fn a_sandbox_that_nobody_waits_for_any_more_does_not_come_to_life() {
    let mut bed = Bed::new();
    bed.spec.agent_config = b"sleep".to_vec();
    let order = bed.directory.path().join("order");
    fs::write(&order, encode_order(&bed.spec, &probe()).unwrap()).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut jail = Command::new(jail());
    jail.stdin(fs::File::open(order).unwrap()).stdout(writer).stderr(bed.netns.try_clone().unwrap());
    let status = jail.status().unwrap();
    assert_eq!(status.code(), Some(1));
    wait_until("the inner process is gone", || bed.group.pids().unwrap().is_empty());
    assert_nothing_left(&bed);
}

#[test]
fn a_group_with_too_little_memory_for_building_is_an_error_and_not_a_hang() {
    let mut bed = Bed::with_limits(Limits { memory_bytes: 64 << 10, ..LIMITS });
    let error = bed.launch(&["sleep"]).unwrap_err().to_string();
    assert_eq!(error, "build the sandbox: killed by signal 9; the memory limit may be too small to build it");
    assert_nothing_left(&bed);
}

#[test]
fn only_the_sandboxs_own_processes_count_against_its_limits() {
    let mut bed = Bed::with_limits(Limits { pids: 1, ..LIMITS });
    bed.launch(&["sleep"]).unwrap();
    bed.group.kill_all().unwrap();
    assert_nothing_left(&bed);
}

/// Outer and inner process are killed at moments spread over the whole launch, one of them or both.
#[test]
fn a_jail_killed_at_any_moment_leaves_nothing() {
    let mut bed = Bed::new();
    let name = format!("jail{}", std::process::id());
    let link = bed.directory.path().join(&name);
    std::os::unix::fs::symlink(jail(), &link).unwrap();
    bed.launcher = Launcher::new(link, probe());
    let mut typical = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        bed.launch(&["sleep"]).unwrap();
        typical = typical.min(began.elapsed());
        bed.group.kill_all().unwrap();
    }
    let (mut failed, rounds) = (0, 60);
    for round in 0..rounds {
        let after = typical * round / rounds;
        let (group, of_jail) = (bed.group.clone(), name.clone());
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let killer = std::thread::spawn(move || {
            let began = Instant::now();
            while began.elapsed() < after && told.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                std::hint::spin_loop();
            }
            let victims = match round % 3 {
                0 => processes(&of_jail),
                1 => processes(&of_jail).into_iter().take(1).collect(),
                _ => group.pids().unwrap().iter().filter_map(|pid| Pid::from_raw(*pid as i32)).collect(),
            };
            for pid in victims {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let result = bed.launch(&["sleep"]);
        drop(tell);
        killer.join().unwrap();
        match result {
            Ok(_) => bed.group.kill_all().unwrap(),
            Err(LaunchError::StillRunning(error)) => panic!("{error}"),
            Err(_) => failed += 1,
        }
        // What is killed has let go of everything when the launch returns, and is collected a moment later.
        wait_until("all are gone", || bed.group.pids().unwrap().is_empty() && processes(&name).is_empty());
    }
    assert!(failed >= rounds / 6, "only {failed} of {rounds} launches were hit");
    assert_nothing_left(&bed);
}

#[test]
fn many_sandboxes_start_at_once() {
    let beds: Vec<_> = (0..16).map(|_| std::thread::spawn(Bed::new)).collect();
    let beds: Vec<Bed> = beds.into_iter().map(|bed| bed.join().unwrap()).collect();
    let launches: Vec<_> = beds
        .into_iter()
        .map(|mut bed| {
            std::thread::spawn(move || {
                bed.launch(&["sleep"]).unwrap();
                bed
            })
        })
        .collect();
    for launch in launches {
        let bed = launch.join().unwrap();
        assert_eq!(bed.group.pids().unwrap().len(), 1);
        bed.group.kill_all().unwrap();
        assert_nothing_left(&bed);
    }
}
