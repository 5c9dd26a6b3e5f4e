//! An agent in an enemy's hand against the host's client: every call ends in time, in little memory, with a reason.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use forkpoint_protocol::{AgentFrame, MAX_FRAME, codec};
use forkpoint_runtime::agent_client::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What the enemy does after it has read something of the request.
#[derive(Clone)]
enum Act {
    /// Sends these bytes once and closes.
    Say(Vec<u8>),
    /// Sends the first bytes once and the second for ever.
    Repeat(Vec<u8>, Vec<u8>),
    /// Sends one byte of these now and then, and so never finishes.
    Trickle(Vec<u8>),
    /// Reads what comes and says nothing.
    Silence,
    /// Does not even read.
    Deaf,
}

const PATIENCE: Duration = Duration::from_millis(500);
/// No call may take longer, whatever the enemy does.
const LONGEST: Duration = Duration::from_secs(20);

async fn enemy(act: Act) -> AgentClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let act = Arc::new(act);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let act = Arc::clone(&act);
            tokio::spawn(async move {
                let mut request = vec![0; 1 << 16];
                if !matches!(*act, Act::Deaf) {
                    let _ = stream.read(&mut request).await;
                }
                match &*act {
                    Act::Say(bytes) => {
                        let _ = stream.write_all(bytes).await;
                    }
                    Act::Repeat(first, rest) => {
                        let mut result = stream.write_all(first).await;
                        while result.is_ok() {
                            result = stream.write_all(rest).await;
                        }
                    }
                    Act::Trickle(bytes) => {
                        for byte in bytes {
                            if stream.write_all(&[*byte]).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(PATIENCE / 5).await;
                        }
                    }
                    Act::Silence => while stream.read(&mut request).await.is_ok_and(|length| length > 0) {},
                    Act::Deaf => tokio::time::sleep(LONGEST).await,
                }
            });
        }
    });
    let deadlines = Deadlines { connect: PATIENCE, answer: PATIENCE, work: PATIENCE * 4 };
    AgentClient::new(address, [7; 32]).with_deadlines(deadlines)
}

fn frame(frame: &AgentFrame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(frame, &mut bytes).unwrap();
    bytes
}

fn entry() -> Entry {
    Entry {
        path: b"/x".into(),
        kind: EntryKind::File,
        size: 1,
        mode: 0o644,
        uid: 0,
        gid: 0,
        user: String::new(),
        group: String::new(),
        modified_ns: 0,
        target: None,
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

/// All calls of the client, by name, and how each ended.
async fn every_call(client: &AgentClient) -> Vec<(&'static str, Result<(), AgentError>, Duration)> {
    let mut ended = Vec::new();
    macro_rules! call {
        ($name:literal, $work:expr) => {{
            let started = Instant::now();
            let result = tokio::time::timeout(LONGEST, async { $work }).await;
            let result = result.unwrap_or_else(|_| panic!("{} hangs", $name));
            ended.push(($name, result, started.elapsed()));
        }};
    }
    call!("ping", client.ping(PATIENCE).await);
    call!("usage", client.usage().await.map(drop));
    call!("processes", client.processes().await.map(drop));
    call!("signal", client.signal(5, 9).await);
    call!("stat", client.stat(b"/x", true).await.map(drop));
    call!("list", client.list(b"/", 1, 100).await.map(drop));
    call!("glob", client.glob("/*", 100).await.map(drop));
    call!("mkdir", client.mkdir(b"/x", None, true, None).await.map(drop));
    call!("rename", client.rename(b"/x", b"/y", true).await.map(drop));
    call!("copy", client.copy(b"/x", b"/y", true).await.map(drop));
    call!("remove", client.remove(b"/x", true).await);
    call!("write", {
        // More than the sockets between them hold.
        let piece = bytes::Bytes::from(vec![0; 1 << 20]);
        let content = futures::stream::iter((0..64).map(move |_| Ok(piece.clone())));
        client.write_file(WriteSpec::new(b"/x".to_vec()), content).await.map(drop)
    });
    call!("read", {
        match client.read_file(b"/x", 0, Some(1 << 20)).await {
            Err(error) => Err(error),
            Ok(mut file) => loop {
                match file.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            },
        }
    });
    ended
}

#[test]
fn lies_silence_and_half_truths_end_every_call_with_a_reason() {
    let started = frame(&AgentFrame::Started { pid: 1 });
    let half = frame(&AgentFrame::Stdout(&[b'x'; 1000]));
    let acts = [
        ("garbage", Act::Say(vec![0xa5; 100_000])),
        ("garbage for ever", Act::Repeat(Vec::new(), vec![0xff; 1 << 16])),
        ("a length over the limit", Act::Say((MAX_FRAME as u32 + 1).to_le_bytes().to_vec())),
        ("the greatest length", Act::Repeat(u32::MAX.to_le_bytes().to_vec(), vec![0; 1 << 16])),
        ("the greatest allowed length and an end", Act::Say((MAX_FRAME as u32).to_le_bytes().to_vec())),
        ("half a frame and an end", Act::Say(half[..500].to_vec())),
        ("half a length and an end", Act::Say(vec![1, 0])),
        ("an end", Act::Say(Vec::new())),
        ("empty frames for ever", Act::Repeat(Vec::new(), vec![0; 1 << 16])),
        ("an unknown kind of frame", Act::Say([&2_u32.to_le_bytes()[..], &[200, 1]].concat())),
        ("an answer to something else", Act::Say(started.clone())),
        ("the same for ever", Act::Repeat(Vec::new(), started)),
        (
            "a list longer than its frame",
            Act::Say([&6_u32.to_le_bytes()[..], &[8, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat()),
        ),
        ("a trickle", Act::Trickle(half)),
        ("silence", Act::Silence),
        ("deafness", Act::Deaf),
    ];
    run(futures::future::join_all(acts.map(|(name, act)| async move {
        let client = enemy(act).await;
        for (call, result, took) in every_call(&client).await {
            let Err(error) = result else { panic!("{name}: {call} succeeded") };
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < 1200, "{name}: {call}: {text}");
            assert!(took < Duration::from_secs(10), "{name}: {call} took {took:?}");
        }
    })));
}

/// Peak of this process's memory in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn listings_and_processes_of_huge_entries_are_cut_in_little_memory() {
    // One entry a frame, each as large as a frame can be: by number they are few.
    let large = "x".repeat(1 << 20);
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut entry = entry();
        change(&mut entry);
        frame(&AgentFrame::Entries(vec![entry]))
    };
    let process = Process {
        pid: 1,
        parent: 0,
        uid: 0,
        state: 'S',
        threads: 1,
        resident_bytes: 0,
        cpu_ms: 0,
        command: vec![0; 1 << 20],
    };
    run(async {
        let before = peak();
        for frame in [
            with(&|entry| entry.user.clone_from(&large)),
            with(&|entry| entry.group.clone_from(&large)),
            with(&|entry| entry.target = Some(large.clone().into_bytes())),
            with(&|entry| entry.path = large.clone().into_bytes()),
        ] {
            let client = enemy(Act::Repeat(Vec::new(), frame)).await;
            let error = client.list(b"/", 9, 100_000).await.unwrap_err();
            assert!(matches!(error, AgentError::Protocol(_)), "{error}");
        }
        // Each within its bounds, but too much together: cut as a listing that is too long is.
        let mut fat = entry();
        fat.path = [&b"/"[..], &[b'x'; 8000]].concat();
        let client = enemy(Act::Repeat(Vec::new(), frame(&AgentFrame::Entries(vec![fat; 100])))).await;
        let client = client.with_deadlines(Deadlines::default());
        let listing = client.list(b"/", 9, 100_000).await.unwrap();
        assert!(listing.truncated && listing.entries.len() < 6000, "{}", listing.entries.len());
        let client = enemy(Act::Repeat(Vec::new(), frame(&AgentFrame::Processes(vec![process])))).await;
        assert!(matches!(client.processes().await, Err(AgentError::Protocol(_))));
        let grown = peak() - before;
        assert!(grown < 160 << 10, "{grown} KiB more");
    });
}

#[test]
fn a_command_that_never_ends_its_story_costs_no_memory_and_can_be_dropped() {
    run(async {
        let before = peak();
        let started = frame(&AgentFrame::Started { pid: 5 });
        // Many frames to a read, so that reading alone never has to wait.
        let many = |frame: Vec<u8>| frame.iter().copied().cycle().take(frame.len() * 5000).collect();
        for empty in [AgentFrame::StdinTaken(0), AgentFrame::Stdout(&[]), AgentFrame::Stderr(&[])] {
            let client = enemy(Act::Repeat(started.clone(), many(frame(&empty)))).await;
            let mut stream = client.exec(ExecSpec::new(Command::Shell(b"true".into()))).await.unwrap();
            assert!(matches!(stream.next().await, Err(AgentError::Protocol(_))), "{empty:?}");
        }
        // Listings are what may go on for long; the deadline ends them although there is always more to read.
        let client = enemy(Act::Repeat(Vec::new(), many(frame(&AgentFrame::Entries(Vec::new()))))).await;
        let began = Instant::now();
        let ended = client.list(b"/", 1, 10).await;
        assert!(matches!(ended, Err(AgentError::Deadline(_)) | Ok(Listing { truncated: true, .. })), "{ended:?}");
        assert!(began.elapsed() < LONGEST);
        for wrong in [
            AgentFrame::Exit(Exit {
                code: 999,
                signal: None,
                timed_out: false,
                stdout_truncated: false,
                stderr_truncated: false,
            }),
            AgentFrame::Exit(Exit {
                code: -1,
                signal: None,
                timed_out: false,
                stdout_truncated: false,
                stderr_truncated: false,
            }),
            AgentFrame::Started { pid: 6 },
            AgentFrame::Ok,
            AgentFrame::End { truncated: false },
        ] {
            let client = enemy(Act::Say([started.clone(), frame(&wrong)].concat())).await;
            let mut stream = client.exec(ExecSpec::new(Command::Shell(b"true".into()))).await.unwrap();
            let error = stream.next().await.unwrap_err();
            assert!(matches!(error, AgentError::Protocol(_)), "{wrong:?}: {error}");
        }
        assert!(peak() - before < 64 << 10);
    });
}

#[test]
fn an_agent_that_sends_faster_than_it_is_read_leaves_the_thread_to_others() {
    // One thread for all, so that whoever does not give it back stops the clock too.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (address, listening) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let one = frame(&AgentFrame::Data(b"x"));
            let flood: Vec<u8> = one.iter().copied().cycle().take(one.len() * 50_000).collect();
            let opening = frame(&AgentFrame::Entry(entry()));
            let mut result = std::io::Write::write_all(&mut stream, &opening);
            while result.is_ok() {
                result = std::io::Write::write_all(&mut stream, &flood);
            }
        });
        let client = AgentClient::new(listening.recv().unwrap(), [7; 32]);
        let mut file = client.read_file(b"/x", 0, None).await.unwrap();
        let all = async { while file.next().await.unwrap().is_some() {} };
        assert!(tokio::time::timeout(Duration::from_secs(1), all).await.is_err(), "it cannot end");
    });
}
