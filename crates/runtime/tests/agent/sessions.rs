//! Commands that go on without a host: attach, scrollback, pace, signals, limits.

use std::time::{Duration, Instant};

use forkpoint_runtime::agent_client::*;

use crate::harness::{Agent, sh};

/// A position that is not reached: output from now on.
const LATER: u64 = 1 << 62;

fn open(id: u8, text: &str, pty: bool) -> OpenSpec {
    let exec = ExecSpec { stdin: true, pty: pty.then_some(PtySize { rows: 24, cols: 80 }), ..sh(text) };
    OpenSpec { id: [id; 16], exec, scrollback: 256 * 1024, linger_ms: None }
}

/// Reads until `wanted` has come; gives all that came.
async fn read_until(stream: &mut SessionStream, wanted: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            match stream.next().await.unwrap() {
                Some(SessionEvent::Output(data)) => seen.extend_from_slice(&data),
                other => panic!("{other:?} before {wanted:?}: {}", String::from_utf8_lossy(&seen)),
            }
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert!(outcome.is_ok(), "no {wanted:?} in {}", String::from_utf8_lossy(&seen));
    String::from_utf8_lossy(&seen).into_owned()
}

/// Output up to the exit.
async fn rest(stream: &mut SessionStream) -> (String, Exit) {
    let mut seen = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.expect("an event in time");
        match next.unwrap() {
            Some(SessionEvent::Output(data)) => seen.extend_from_slice(&data),
            Some(SessionEvent::Exit(exit)) => return (String::from_utf8_lossy(&seen).into_owned(), exit),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_terminal_goes_on_without_a_host_and_shows_what_was_missed() {
    let agent = Agent::start();
    let opened =
        agent.client.open_session(open(1, "stty -echo; read a; echo got $a; read b; echo and $b; exit 7", true));
    let opened = opened.await.unwrap();
    assert_eq!((opened.id, opened.pty, opened.ended), ([1; 16], Some(PtySize { rows: 24, cols: 80 }), None));
    let mut first = agent.client.attach([1; 16], None).await.unwrap();
    first.stdin().write(b"one\n").await.unwrap();
    read_until(&mut first, "got one").await;
    drop(first);
    let mut second = agent.client.attach([1; 16], None).await.unwrap();
    assert!(read_until(&mut second, "got one").await.contains("got one"));
    let mut third = agent.client.attach([1; 16], Some(LATER)).await.unwrap();
    assert_eq!(third.position(), third.session().written);
    second.stdin().write(b"two\n").await.unwrap();
    let (text, exit) = rest(&mut third).await;
    assert_eq!((text.trim(), exit.code), ("and two", 7));
    assert!(rest(&mut second).await.0.contains("and two"));
    // The end is remembered, with the output.
    let mut late = agent.client.attach([1; 16], None).await.unwrap();
    let (text, exit) = rest(&mut late).await;
    assert!(text.contains("got one") && text.contains("and two") && exit.code == 7, "{text}");
    assert_eq!(agent.client.sessions().await.unwrap()[0].ended, Some(exit));
    agent.client.close_session([1; 16]).await.unwrap();
    assert!(agent.client.sessions().await.unwrap().is_empty());
    let gone = agent.client.attach([1; 16], None).await.unwrap_err();
    assert_eq!(gone.kind(), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn output_continues_at_the_position_asked_for() {
    let agent = Agent::start();
    agent.client.open_session(open(1, "echo one; read a; echo two", false)).await.unwrap();
    let mut stream = agent.client.attach([1; 16], None).await.unwrap();
    read_until(&mut stream, "one\n").await;
    let mut other = agent.client.attach([1; 16], Some(2)).await.unwrap();
    assert_eq!((other.position(), read_until(&mut other, "\n").await), (2, "e\n".to_owned()));
    // Without a terminal, input has an end.
    other.stdin().close().await.unwrap();
    assert_eq!(rest(&mut other).await.0, "two\n");
}

#[tokio::test]
async fn signals_reach_the_foreground_of_a_terminal_and_sizes_its_programs() {
    let agent = Agent::start();
    let text = "trap 'echo shell interrupted' INT; set -m; sh -c 'trap \"echo job interrupted; exit 0\" INT; echo up; sleep 30 & wait'; stty size";
    agent.client.open_session(open(1, text, true)).await.unwrap();
    let mut stream = agent.client.attach([1; 16], None).await.unwrap();
    read_until(&mut stream, "up").await;
    stream.control().resize(50, 120).await.unwrap();
    stream.control().signal(2).await.unwrap();
    let (text, _) = rest(&mut stream).await;
    assert!(
        text.contains("job interrupted") && text.contains("50 120") && !text.contains("shell interrupted"),
        "{text}"
    );
    assert_eq!(agent.client.sessions().await.unwrap()[0].pty, Some(PtySize { rows: 50, cols: 120 }));
}

#[tokio::test]
async fn a_flood_is_kept_to_the_scrollback_and_goes_at_the_pace_of_who_reads() {
    let agent = Agent::start();
    agent.client.open_session(open(1, "yes 0123456789 | head -c 30000000; echo; echo end", false)).await.unwrap();
    // Who waits for the end only sees nothing else and holds nothing up.
    let mut stream = agent.client.attach([1; 16], Some(u64::MAX)).await.unwrap();
    assert_eq!(rest(&mut stream).await.0, "");
    let mut late = agent.client.attach([1; 16], None).await.unwrap();
    assert_eq!(late.session().written, 30_000_005);
    let (text, _) = rest(&mut late).await;
    assert!(
        text.starts_with("0123456789\n") && text.ends_with("\nend\n") && text.len() > 250_000 && text.len() <= 262_144
    );

    // One viewer that does not read: the writer is held up, memory stays.
    agent.client.open_session(open(2, "yes 0123456789", false)).await.unwrap();
    let stalled = agent.client.attach([2; 16], None).await.unwrap();
    let mut before = 0;
    let held = loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let written = agent.client.sessions().await.unwrap()[1].written;
        if written == before {
            break written;
        }
        before = written;
    };
    assert!(held < 32 << 20, "{held} bytes were taken for a viewer that does not read");
    // A second one that reads sets the pace; the first skips when it goes on.
    let mut brisk = agent.client.attach([2; 16], Some(LATER)).await.unwrap();
    let mut seen = 0;
    while seen < 64 << 20 {
        match brisk.next().await.unwrap() {
            Some(SessionEvent::Output(data)) => seen += data.len(),
            other => panic!("{other:?}"),
        }
    }
    drop(brisk);
    let mut stalled = stalled;
    let skipped = loop {
        match stalled.next().await.unwrap() {
            Some(SessionEvent::Output(_)) => {}
            Some(SessionEvent::Skipped(position)) => break position,
            other => panic!("{other:?}"),
        }
    };
    assert!(skipped > held, "{skipped}");
    assert!(agent.memory_kib("VmHWM") < 40_000);
    agent.client.close_session([2; 16]).await.unwrap();
}

#[tokio::test]
async fn sessions_end_with_their_time_or_when_left_alone() {
    let agent = Agent::start();
    let mut spec = open(1, "sleep 100", true);
    spec.linger_ms = Some(300);
    agent.client.open_session(spec).await.unwrap();
    let mut spec = open(2, "sleep 100", false);
    spec.exec.timeout_ms = Some(300);
    agent.client.open_session(spec).await.unwrap();
    let mut timed = agent.client.attach([2; 16], None).await.unwrap();
    let exit = rest(&mut timed).await.1;
    assert_eq!((exit.code, exit.timed_out), (124, true));
    // Somebody who looks on keeps it; afterwards the time begins anew.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if agent.client.sessions().await.unwrap()[0].ended.is_some_and(|exit| exit.signal == Some(9)) {
            break;
        }
        assert!(Instant::now() < deadline, "not ended though nobody looked on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut spec = open(3, "sleep 1; echo done", true);
    spec.linger_ms = Some(100);
    agent.client.open_session(spec).await.unwrap();
    let mut kept = agent.client.attach([3; 16], None).await.unwrap();
    assert!(rest(&mut kept).await.0.contains("done"));
}

#[tokio::test]
async fn numbers_are_bounded_and_ended_sessions_make_room() {
    let agent = Agent::start();
    for id in 0..64 {
        agent.client.open_session(open(id, "cat", false)).await.unwrap();
    }
    assert_eq!(agent.client.open_session(open(0, "cat", false)).await.unwrap_err().kind(), Some(ErrorKind::Exists));
    assert_eq!(agent.client.open_session(open(99, "cat", false)).await.unwrap_err().kind(), Some(ErrorKind::Busy));
    for id in 0..64 {
        let mut stream = agent.client.attach([id; 16], None).await.unwrap();
        stream.stdin().close().await.unwrap();
        rest(&mut stream).await;
    }
    let left = agent.client.sessions().await.unwrap();
    assert_eq!((left.len(), left[0].id), (16, [48; 16]));
    let mut viewers = Vec::new();
    agent.client.open_session(open(100, "cat", false)).await.unwrap();
    for _ in 0..16 {
        viewers.push(agent.client.attach([100; 16], None).await.unwrap());
    }
    assert_eq!(agent.client.attach([100; 16], None).await.unwrap_err().kind(), Some(ErrorKind::Busy));
    agent.client.close_session([100; 16]).await.unwrap();
    for viewer in &mut viewers {
        assert_eq!(rest(viewer).await.1.signal, Some(9));
    }
}
