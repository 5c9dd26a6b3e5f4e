//! The messages are those of `schema/gen-1.json`: names, order, fields and encoded bytes.
//!
//! After appending a message, give it a sample here and run the test once with
//! `FORKPOINT_BLESS=1`; it refuses to change or drop what is already recorded.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::Path;

use forkpoint_protocol::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[test]
fn messages_are_as_recorded_in_the_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/gen-1.json");
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let current = describe();
    if std::env::var_os("FORKPOINT_BLESS").is_some() {
        let mut lines = current.lines().map(|line| line.trim_end_matches(','));
        for line in recorded.lines().map(|line| line.trim_end_matches(',')) {
            assert!(lines.any(|now| now == line), "recorded message changed or dropped: {line}");
        }
        std::fs::write(&path, &current).unwrap();
    } else {
        assert_eq!(recorded, current, "messages differ from {}; only appending is allowed", path.display());
    }
}

#[test]
fn every_variant_has_a_sample() {
    assert_next_is_unknown::<Request>("Request", requests().len());
    assert_next_is_unknown::<Command>("Command", commands().len());
    assert_next_is_unknown::<WriteDisposition>("WriteDisposition", dispositions().len());
    assert_next_is_unknown::<EntryKind>("EntryKind", entry_kinds().len());
    assert_next_is_unknown::<ErrorKind>("ErrorKind", error_kinds().len());
    assert_next_is_unknown::<ChangeKind>("ChangeKind", change_kinds().len());
    let zeros = [0; 64];
    for count in [host_frames().len(), agent_frames().len()] {
        let bytes = [&[count as u8], &zeros[..]].concat();
        if count == host_frames().len() {
            assert!(postcard::take_from_bytes::<HostFrame<'_>>(&bytes).is_err(), "HostFrame {count} has no sample");
        } else {
            assert!(postcard::take_from_bytes::<AgentFrame<'_>>(&bytes).is_err(), "AgentFrame {count} has no sample");
        }
    }
}

fn assert_next_is_unknown<T: DeserializeOwned>(name: &str, count: usize) {
    let bytes = [&[count as u8], &[0; 64][..]].concat();
    assert!(postcard::take_from_bytes::<T>(&bytes).is_err(), "{name} {count} has no sample");
}

fn describe() -> String {
    let mut out = String::from("{\n");
    section(&mut out, "Hello", &[Hello { version: 1, token: Token([7; 32]) }]);
    section(&mut out, "AgentConfig", &[config()]);
    section(&mut out, "Request", &requests());
    section(&mut out, "Command", &commands());
    section(&mut out, "WriteDisposition", &dispositions());
    section(&mut out, "HostFrame", &host_frames());
    section(&mut out, "AgentFrame", &agent_frames());
    section(&mut out, "EntryKind", &entry_kinds());
    section(&mut out, "ErrorKind", &error_kinds());
    section(&mut out, "ChangeKind", &change_kinds());
    let end = out.trim_end_matches([',', '\n']).len();
    out.truncate(end);
    out.push_str("\n}\n");
    out
}

fn section<T: Serialize>(out: &mut String, name: &str, samples: &[T]) {
    writeln!(out, "  \"{name}\": [").unwrap();
    for (index, sample) in samples.iter().enumerate() {
        let wire = postcard::to_stdvec(sample).unwrap();
        if samples.len() > 1 {
            assert_eq!(usize::from(wire[0]), index, "samples of {name} are not in the order of its variants");
        }
        let comma = if index + 1 < samples.len() { "," } else { "" };
        let value = serde_json::to_string(sample).unwrap();
        writeln!(out, "    {{\"value\": {value}, \"wire\": \"{}\"}}{comma}", hex::encode(wire)).unwrap();
    }
    out.push_str("  ],\n");
}

fn config() -> AgentConfig {
    AgentConfig {
        version: 1,
        token: Token([9; 32]),
        listen: "10.0.0.2:4650".parse().unwrap(),
        default_user: "sandbox".into(),
        refuse_local: true,
        max_requests: 512,
    }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Ping,
        Request::Exec(Exec {
            command: Command::Argv(vec![b"ls".into(), b"-l".into()]),
            env: vec![(b"A".into(), b"1".into())],
            cwd: Some(b"/w".into()),
            user: Some("root".into()),
            timeout_ms: Some(1000),
            stdin: true,
            pty: Some(PtySize { rows: 24, cols: 80 }),
            output_limit: 300,
            merge: false,
            detach: true,
        }),
        Request::Signal { pid: 2, signal: 15 },
        Request::ReadFile { path: b"/a".into(), offset: 1, len: Some(2) },
        Request::WriteFile(WriteFile {
            path: b"/a".into(),
            mode: Some(0o600),
            owner: Some("1:2".into()),
            make_parents: true,
            disposition: WriteDisposition::Append,
        }),
        Request::List { path: b"/a".into(), depth: 1, limit: 9 },
        Request::Stat { path: b"/a".into(), follow: true },
        Request::Mkdir { path: b"/a".into(), mode: Some(0o700), parents: true, owner: None },
        Request::Move { from: b"/a".into(), to: b"/b".into(), overwrite: true },
        Request::Copy { from: b"/a".into(), to: b"/b".into(), overwrite: false },
        Request::Remove { path: b"/a".into(), recursive: true },
        Request::Glob { pattern: "/a/*".into(), limit: 9 },
        Request::Processes,
        Request::Usage,
        Request::Refresh(Refresh { hostname: Some(b"h".into()), seed: vec![1, 2], token: Some(Token([3; 32])) }),
        Request::Open(Open {
            id: [5; 16],
            exec: Exec::new(Command::Shell(b"ls".into())),
            scrollback: 300,
            linger_ms: Some(60_000),
        }),
        Request::Attach { id: [5; 16], from: Some(300) },
        Request::Sessions,
        Request::Close { id: [5; 16] },
        Request::Watch { path: b"/a".into(), recursive: true },
    ]
}

fn commands() -> Vec<Command> {
    vec![Command::Shell(b"ls".into()), Command::Argv(vec![b"ls".into()])]
}

fn dispositions() -> Vec<WriteDisposition> {
    vec![WriteDisposition::Replace, WriteDisposition::Append, WriteDisposition::CreateNew]
}

fn host_frames() -> Vec<HostFrame<'static>> {
    vec![
        HostFrame::Data(b"ab"),
        HostFrame::End,
        HostFrame::Stdin(b"ab"),
        HostFrame::StdinEof,
        HostFrame::Signal(-2),
        HostFrame::Resize { rows: 24, cols: 80 },
        HostFrame::Cancel,
    ]
}

fn agent_frames() -> Vec<AgentFrame<'static>> {
    let exit = Exit { code: 137, signal: Some(9), timed_out: false, stdout_truncated: true, stderr_truncated: false };
    let process = Process {
        pid: 2,
        parent: 1,
        uid: 1000,
        state: 'S',
        threads: 1,
        resident_bytes: 4096,
        cpu_ms: 10,
        command: b"ls\0".into(),
    };
    vec![
        AgentFrame::Ok,
        AgentFrame::Error { kind: ErrorKind::Busy, message: "m".into() },
        AgentFrame::Started { pid: 2 },
        AgentFrame::Stdout(b"ab"),
        AgentFrame::Stderr(b"ab"),
        AgentFrame::StdinTaken(300),
        AgentFrame::Exit(exit),
        AgentFrame::Entry(entry()),
        AgentFrame::Entries(vec![entry()]),
        AgentFrame::Data(b"ab"),
        AgentFrame::End { truncated: true },
        AgentFrame::Processes(vec![process]),
        AgentFrame::Usage(Usage {
            processes: 1,
            threads: 2,
            resident_bytes: 3,
            disk_total_bytes: 4,
            disk_free_bytes: 5,
            uptime_ms: 6,
        }),
        AgentFrame::Session(Session {
            id: [5; 16],
            pid: 2,
            pty: Some(PtySize { rows: 24, cols: 80 }),
            command: b"ls\0".into(),
            age_ms: 300,
            written: 7,
            viewers: 1,
            ended: Some(exit),
        }),
        AgentFrame::Position(300),
        AgentFrame::Watching { polled: true },
        AgentFrame::Changes(vec![Change { path: b"/a".into(), kind: ChangeKind::Removed }]),
        AgentFrame::Overflow,
    ]
}

fn entry() -> Entry {
    Entry {
        path: b"/a".into(),
        kind: EntryKind::Symlink,
        size: 300,
        mode: 0o644,
        uid: 1000,
        gid: 1001,
        user: "u".into(),
        group: "g".into(),
        modified_ns: -1,
        target: Some(b"b".into()),
    }
}

fn entry_kinds() -> Vec<EntryKind> {
    use EntryKind::*;
    vec![File, Directory, Symlink, Fifo, Socket, BlockDevice, CharDevice]
}

fn change_kinds() -> Vec<ChangeKind> {
    vec![ChangeKind::Created, ChangeKind::Modified, ChangeKind::Attributes, ChangeKind::Removed]
}

fn error_kinds() -> Vec<ErrorKind> {
    use ErrorKind::*;
    vec![
        NotFound,
        PermissionDenied,
        Exists,
        NotADirectory,
        IsADirectory,
        NotEmpty,
        NoSpace,
        TooLarge,
        Invalid,
        NoSuchUser,
        NoSuchCommand,
        Busy,
        Other,
    ]
}
