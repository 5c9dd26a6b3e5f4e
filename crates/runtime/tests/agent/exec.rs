//! Commands: what they are given and how they end.

use std::time::{Duration, Instant};

use forkpoint_runtime::agent_client::*;

use crate::harness::*;

#[test]
fn every_exit_code_and_signal_is_told() {
    let agent = Agent::start();
    block_on(async {
        for code in 0..=255 {
            let exit = agent.run(argv(&["/bin/sh", "-c", &format!("exit {code}")])).await.exit;
            assert_eq!((exit.code, exit.signal, exit.timed_out), (code, None, false));
        }
        for signal in [1, 2, 3, 6, 9, 11, 13, 15] {
            let exit = agent.run(argv(&["/bin/sh", "-c", &format!("kill -{signal} $$")])).await.exit;
            assert_eq!((exit.code, exit.signal), (128 + signal, Some(signal)));
        }
    });
}

#[test]
fn text_goes_to_bash_and_arrays_are_taken_as_they_are() {
    let agent = Agent::start();
    block_on(async {
        assert_eq!(agent.sh("x=(a b); echo ${x[1]} $0").await.text(), "b bash");
        let odd = agent.run(argv(&["printf", "%s|", "$HOME", "a b", "", "ü"])).await;
        assert_eq!(odd.text(), "$HOME|a b||ü|");
        let bytes = ExecSpec::new(Command::Argv(vec![b"printf".into(), b"\xff\xfe".into()]));
        assert_eq!(agent.run(bytes).await.stdout, b"\xff\xfe");
    });
}

#[test]
fn what_cannot_be_run_is_told_apart() {
    let agent = Agent::start();
    block_on(async {
        std::fs::write(agent.file("no-x"), "#!/bin/sh\n").unwrap();
        std::fs::write(agent.file("script"), "echo from $0 $1\n").unwrap();
        let chmod = argv(&["chmod", "755", agent.file("script").to_str().unwrap()]);
        agent.run(as_root(chmod)).await;
        let path = |name: &str| agent.file(name).to_str().unwrap().to_owned();
        assert_eq!(kind(agent.client.exec(argv(&["no-such-program"])).await), ErrorKind::NoSuchCommand);
        assert_eq!(kind(agent.client.exec(argv(&["/no/such"])).await), ErrorKind::NoSuchCommand);
        assert_eq!(kind(agent.client.exec(argv(&[&path("no-x")])).await), ErrorKind::PermissionDenied);
        assert_eq!(kind(agent.client.exec(argv(&[])).await), ErrorKind::Invalid);
        assert_eq!(kind(agent.client.exec(argv(&["a\0b"])).await), ErrorKind::Invalid);
        let long = "x".repeat(140_000);
        assert_eq!(kind(agent.client.exec(argv(&["echo", &long])).await), ErrorKind::TooLarge);
        // As execvp does, a script without an interpreter line goes to the shell.
        let script = agent.run(argv(&[&path("script"), "here"])).await;
        assert_eq!(script.text(), format!("from {} here", path("script")));
        // Nothing of a failed start is left.
        assert_eq!(agent.sh("echo fine").await.text(), "fine");
    });
}

#[test]
fn the_directory_is_the_asked_one_or_an_error_that_names_it() {
    let agent = Agent::start();
    block_on(async {
        let at = |dir: &str| ExecSpec { cwd: Some(dir.into()), ..sh("pwd") };
        assert_eq!(agent.run(at("/usr/bin")).await.text(), "/usr/bin");
        let error = agent.client.exec(at("/no/such/dir")).await.unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::NotFound));
        assert!(error.to_string().contains("/no/such/dir"), "{error}");
        assert_eq!(kind(agent.client.exec(at("/etc/passwd")).await), ErrorKind::NotADirectory);
        assert_eq!(kind(agent.client.exec(at("/root")).await), ErrorKind::PermissionDenied);
        assert_eq!(kind(agent.client.exec(at("relative")).await), ErrorKind::Invalid);
        let default = agent.run(as_root(sh("pwd"))).await.text();
        let expected = if std::path::Path::new("/workspace").is_dir() { "/workspace" } else { "/root" };
        assert_eq!(default, expected);
    });
}

#[test]
fn users_groups_and_capabilities_are_those_asked_for() {
    let agent = Agent::start();
    block_on(async {
        let id = |user: &str| ExecSpec {
            user: Some(user.into()),
            ..sh("id -u; id -g; id -G; grep CapEff /proc/self/status")
        };
        let none = "CapEff:\t0000000000000000";
        let nobody = agent.sh("id -un; grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status | sort -u -k2 | wc -l; grep CapEff /proc/self/status").await;
        assert_eq!(nobody.text(), format!("nobody\n1\n{none}"));
        assert_eq!(agent.run(id("4321:77")).await.text(), format!("4321\n77\n77\n{none}"));
        assert_eq!(agent.run(id("daemon:mail")).await.text(), format!("1\n8\n8\n{none}"));
        assert!(agent.run(id("root")).await.text().starts_with("0\n0\n0\n"));
        let error = agent.client.exec(id("no-such-user")).await.unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::NoSuchUser));
        assert!(error.to_string().contains("no-such-user"), "{error}");
        assert_eq!(kind(agent.client.exec(id("root:no-such-group")).await), ErrorKind::NoSuchUser);
    });
}

#[test]
fn the_environment_is_the_given_one_with_defaults() {
    let agent = Agent::start();
    block_on(async {
        let mut spec = ExecSpec { env: vec![(b"A".into(), b"\xffb c".into())], ..sh("env -0 | sort -z") };
        let given = agent.run(spec.clone()).await.stdout;
        let variables: Vec<&[u8]> = given.split(|byte| *byte == 0).collect();
        assert!(variables.contains(&&b"A=\xffb c"[..]));
        for name in ["HOME=", "USER=nobody", "LOGNAME=nobody", "SHELL=", "PATH=/home/sandbox/.local/bin:"] {
            assert!(variables.iter().any(|v| v.starts_with(name.as_bytes())), "{name}");
        }
        // Nothing of the agent's own environment comes through.
        assert!(!variables.iter().any(|v| v.starts_with(b"CARGO") || v.starts_with(b"NEXTEST")));
        assert!(!agent.run(as_root(sh("echo $PATH"))).await.text().contains("/home/"));
        spec.env = vec![(b"PATH".into(), b"/nowhere".into())];
        spec.command = Command::Argv(vec![b"env".into()]);
        assert_eq!(kind(agent.client.exec(spec.clone()).await), ErrorKind::NoSuchCommand);
        spec.env = vec![(b"BAD=NAME".into(), b"".into())];
        assert_eq!(kind(agent.client.exec(spec).await), ErrorKind::Invalid);
    });
}

#[test]
fn commands_get_default_signals_a_session_and_no_descriptors() {
    let agent = Agent::start();
    block_on(async {
        let look = agent
            .sh("grep -E 'Sig(Ign|Blk)' /proc/self/status | cut -f2; umask; ls /proc/self/fd | wc -l; ulimit -n")
            .await;
        let text = look.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["0000000000000000", "0000000000000000", "0022"], "blocked, ignored, umask");
        // 0, 1, 2 and the directory that ls reads.
        assert_eq!(lines[3], "4");
        let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap();
        assert_eq!(lines[4], own.to_string());
        let ids = agent
            .run(argv(&[
                "/bin/sh",
                "-c",
                "read -r pid comm state ppid group session rest < /proc/self/stat; echo $pid $group $session",
            ]))
            .await
            .text();
        let ids: Vec<&str> = ids.split(' ').collect();
        assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    });
}

#[test]
fn a_timeout_kills_the_whole_session_before_it_is_told() {
    let agent = Agent::start();
    block_on(async {
        let pids = agent.file("pids");
        let text = format!(
            "(sleep 300 & echo $! >>{0}; sleep 300) & echo $! >>{0}; timeout 299 sleep 298 & echo $! >>{0}; echo started; wait",
            pids.display()
        );
        let spec = ExecSpec { timeout_ms: Some(300), ..sh(&text) };
        let outcome = agent.run(spec).await;
        assert_eq!((outcome.exit.code, outcome.exit.timed_out), (124, true));
        assert_eq!(outcome.text(), "started");
        assert!(outcome.elapsed < Duration::from_secs(2), "{:?}", outcome.elapsed);
        let pids = std::fs::read_to_string(&pids).unwrap();
        assert_eq!(pids.lines().count(), 3);
        for pid in pids.lines() {
            assert!(!is_alive(pid.parse().unwrap()), "{pid} lives");
        }
        // The group that `timeout` made for itself, too.
        let processes = agent.client.processes().await.unwrap();
        let own = agent.pid();
        assert!(!processes.iter().any(|p| p.parent == own), "{processes:?}");
    });
}

#[test]
fn a_background_child_delays_the_answer_at_most_by_the_grace_and_lives_on() {
    let agent = Agent::start();
    block_on(async {
        let beats = agent.file("beats");
        let text =
            format!("(while :; do echo beat; echo beat >&2; echo . >>{}; sleep 0.02; done) & echo $!", beats.display());
        let outcome = agent.sh(&text).await;
        assert_eq!(outcome.exit.code, 0);
        // The grace, and what a loaded machine adds.
        let grace = Duration::from_millis(200);
        assert!(outcome.elapsed >= grace / 2 && outcome.elapsed < grace * 5, "{:?}", outcome.elapsed);
        let pid: u32 = outcome.text().lines().next().unwrap().parse().unwrap();
        // It goes on writing to its closed-off standard output without dying of it.
        let before = std::fs::metadata(&beats).unwrap().len();
        eventually("beats after the answer", || std::fs::metadata(&beats).unwrap().len() > before + 40).await;
        assert!(is_alive(pid));
    });
}

#[test]
fn a_background_child_that_holds_no_pipe_delays_nothing() {
    let agent = Agent::start();
    block_on(async {
        let outcome = agent.sh("sleep 300 >/dev/null 2>&1 & echo $!").await;
        assert!(outcome.elapsed < Duration::from_millis(190), "{:?}", outcome.elapsed);
        assert!(is_alive(outcome.text().parse().unwrap()));
    });
}

#[test]
fn a_pouring_background_child_does_not_hold_the_answer_or_the_agent() {
    let agent = Agent::start();
    block_on(async {
        let outcome = agent.run(ExecSpec { output_limit: 1 << 40, ..sh("yes & echo $! >&2") }).await;
        assert!(outcome.elapsed < Duration::from_secs(5), "{:?}", outcome.elapsed);
        let pid: u32 = String::from_utf8(outcome.stderr).unwrap().trim().parse().unwrap();
        agent.client.ping(Duration::from_secs(2)).await.unwrap();
        assert!(is_alive(pid));
    });
}

#[test]
fn a_lost_connection_kills_the_command_unless_it_is_detached() {
    let agent = Agent::start();
    block_on(async {
        let mut attached = agent.client.exec(sh("sleep 300 & echo $!; wait")).await.unwrap();
        let Some(ExecEvent::Stdout(child)) = attached.next().await.unwrap() else { panic!("no output") };
        let child: u32 = String::from_utf8_lossy(&child).trim().parse().unwrap();
        let leader = attached.pid();
        drop(attached);
        eventually("the end of the command", || !is_alive(leader) && !is_alive(child)).await;

        let marker = agent.file("marker");
        let text = format!("while [ ! -e {0}.go ]; do echo out; sleep 0.01; done; touch {0}", marker.display());
        let detached = agent.client.exec(ExecSpec { detach: true, ..sh(&text) }).await.unwrap();
        drop(detached);
        std::fs::write(marker.with_extension("go"), "").unwrap();
        eventually("the detached command's work", || marker.exists()).await;

        // Its time limit holds all the same.
        let limited = ExecSpec { detach: true, timeout_ms: Some(300), ..sh("sleep 300") };
        let limited = agent.client.exec(limited).await.unwrap();
        let pid = limited.pid();
        drop(limited);
        agent.client.ping(Duration::from_secs(2)).await.unwrap();
        assert!(is_alive(pid));
        eventually("the detached command's timeout", || !is_alive(pid)).await;
    });
}

#[test]
fn kill_and_signals_reach_the_command() {
    let agent = Agent::start();
    block_on(async {
        let mut stream =
            agent.client.exec(sh("trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.01; done")).await.unwrap();
        assert!(matches!(stream.next().await.unwrap(), Some(ExecEvent::Stdout(_))));
        stream.control().signal(15).await.unwrap();
        let outcome = Outcome::of(&mut stream).await;
        assert_eq!((outcome.text().as_str(), outcome.exit.code), ("got", 7));

        let mut stream = agent.client.exec(sh("sleep 300")).await.unwrap();
        agent.client.signal(stream.pid(), 9).await.unwrap();
        assert_eq!(Outcome::of(&mut stream).await.exit.signal, Some(9));
        assert_eq!(kind(agent.client.signal(stream.pid(), 9).await), ErrorKind::NotFound);
        assert_eq!(kind(agent.client.signal(1, 9).await), ErrorKind::NotFound);

        let mut stream = agent.client.exec(sh("sleep 300 & sleep 300")).await.unwrap();
        assert_eq!(kind(agent.client.signal(stream.pid(), 99).await), ErrorKind::Invalid);
        stream.control().kill().await.unwrap();
        assert_eq!(Outcome::of(&mut stream).await.exit.code, 137);
    });
}

#[test]
fn a_hundred_commands_run_at_the_same_time() {
    let agent = Agent::start();
    block_on(async {
        let barrier = agent.file("go");
        let text = format!("echo $N; while [ ! -e {} ]; do sleep 0.05; done; exit $((N % 256))", barrier.display());
        let mut streams = Vec::new();
        for n in 0..100 {
            let spec = ExecSpec { env: vec![(b"N".into(), n.to_string().into())], ..sh(&text) };
            streams.push(agent.client.exec(spec).await.unwrap());
        }
        std::fs::write(&barrier, "").unwrap();
        for (n, stream) in streams.iter_mut().enumerate() {
            let outcome = Outcome::of(stream).await;
            assert_eq!((outcome.text(), outcome.exit.code), (n.to_string(), n as i32 % 256));
        }
        let calls = (0..100).map(|_| agent.sh("true"));
        let all = futures::future::join_all(calls).await;
        assert!(all.iter().all(|outcome| outcome.exit.code == 0));
        drop(streams);
        eventually("the end of all descriptors", || agent.descriptors() < 20).await;
    });
}

#[test]
fn no_process_left_is_busy_and_the_agent_lives_on() {
    // The user of the limit must be one that has no other processes here.
    let limits = ["prlimit", "--nproc=1:1"];
    let agent = Agent::start_with(&["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups"], |config| {
        config.default_user = "61234:61234".into();
    });
    block_on(async {
        let refused = agent.client.exec(argv(&["true"])).await;
        assert!(refused.is_ok(), "{refused:?}");
    });
    drop(agent);
    let wrapper = [&["setpriv", "--reuid=61235", "--regid=61235", "--clear-groups"][..], &limits[..]].concat();
    let agent = Agent::start_with(&wrapper, |config| config.default_user = "61235:61235".into());
    block_on(async {
        for _ in 0..20 {
            assert_eq!(kind(agent.client.exec(argv(&["true"])).await), ErrorKind::Busy);
        }
        // No thread can be had either: file work is done all the same.
        assert_eq!(agent.client.stat(b"/etc/passwd", true).await.unwrap().kind, EntryKind::File);
        let file = agent.client.read_file(b"/etc/passwd", 0, None).await.unwrap();
        assert_eq!(content(file).await, std::fs::read("/etc/passwd").unwrap());
        agent.client.ping(Duration::from_secs(2)).await.unwrap();
    });
}

#[test]
fn silent_commands_are_waited_for() {
    let agent = Agent::start();
    block_on(async {
        let started = Instant::now();
        let outcome = agent.sh("sleep 3; echo late").await;
        assert_eq!(outcome.text(), "late");
        assert!(started.elapsed() >= Duration::from_secs(3));
    });
}

#[test]
fn a_command_starts_quickly() {
    let agent = Agent::start();
    block_on(async {
        let mut times = Vec::new();
        for _ in 0..300 {
            let started = Instant::now();
            assert_eq!(agent.run(argv(&["/bin/true"])).await.exit.code, 0);
            times.push(started.elapsed());
        }
        times.sort();
        let (half, most) = (times[150], times[297]);
        println!("exec of /bin/true: p50 {half:?}, p99 {most:?}");
        // Far above what it takes, below what a wait or a poll would cost.
        assert!(half < Duration::from_millis(20), "{half:?}");
    });
}
