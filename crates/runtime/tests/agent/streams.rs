//! Output and input of commands, and terminals.

use std::time::Duration;

use bytes::BytesMut;
use forkpoint_protocol::{AgentFrame, Hello, MAX_FRAME, Request, Token, VERSION, codec};
use forkpoint_runtime::agent_client::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::harness::*;

#[test]
fn output_over_the_limit_is_dropped_and_said() {
    let agent = Agent::start();
    block_on(async {
        let spec =
            ExecSpec { output_limit: 1000, ..sh("head -c 5000000 /dev/zero; head -c 1000 /dev/zero >&2; exit 3") };
        let outcome = agent.run(spec).await;
        assert_eq!((outcome.stdout.len(), outcome.stderr.len(), outcome.exit.code), (1000, 1000, 3));
        assert!(outcome.exit.stdout_truncated && !outcome.exit.stderr_truncated);
        let none = agent.run(ExecSpec { output_limit: 0, ..sh("echo x") }).await;
        assert!(none.stdout.is_empty() && none.exit.stdout_truncated && !none.exit.stderr_truncated);
    });
}

#[test]
fn output_comes_as_it_is_written() {
    let agent = Agent::start();
    block_on(async {
        let go = agent.file("go");
        let text = format!("printf first; while [ ! -e {} ]; do sleep 0.01; done; printf second", go.display());
        let mut stream = agent.client.exec(sh(&text)).await.unwrap();
        assert_eq!(stream.next().await.unwrap(), Some(ExecEvent::Stdout("first".into())));
        std::fs::write(&go, "").unwrap();
        assert_eq!(stream.next().await.unwrap(), Some(ExecEvent::Stdout("second".into())));
    });
}

#[test]
fn a_slow_reader_gets_everything_and_costs_no_memory() {
    let agent = Agent::start();
    block_on(async {
        const SIZE: usize = 64 << 20;
        let spec = ExecSpec { output_limit: u64::MAX, ..sh(&format!("head -c {SIZE} /dev/zero; echo end >&2")) };
        let mut stream = agent.client.exec(spec).await.unwrap();
        // Time enough to fill every buffer on the way, had the agent any of its own.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let outcome = Outcome::of(&mut stream).await;
        assert_eq!((outcome.stdout.len(), &outcome.stderr[..]), (SIZE, &b"end\n"[..]));
        assert!(!outcome.exit.stdout_truncated);
        let most = agent.memory_kib("VmHWM");
        assert!(most < 10 * 1024, "{most} KiB");
    });
}

#[test]
fn what_was_written_before_the_exit_reaches_even_a_very_slow_reader() {
    let agent = Agent::start();
    block_on(async {
        // A socket that takes little, so that what fills up first is on the agent's side.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(agent.address).await.unwrap();
        // The writer gets stuck when socket and pipe are full, and ends with the command; how much
        // it had written by then is noted. The sleeper keeps the pipe open, so that no end is seen.
        let written = agent.file("written");
        let text = format!(
            "sleep 30 & head -c 64M /dev/zero & sleep 1; kill -STOP $!; grep wchar /proc/$!/io >{}; kill -9 $!",
            written.display()
        );
        let exec = Request::Exec(ExecSpec { output_limit: u64::MAX, ..sh(&text) });
        let mut request = Vec::new();
        codec::encode(&Hello { version: VERSION, token: Token(TOKEN) }, &mut request).unwrap();
        codec::encode(&exec, &mut request).unwrap();
        stream.write_all(&request).await.unwrap();

        let (mut input, mut read, mut exit) = (BytesMut::new(), 0, None);
        while exit.is_none() {
            assert!(stream.read_buf(&mut input).await.unwrap() > 0, "closed after {read} bytes");
            while let Some(frame) = codec::take(&mut input, MAX_FRAME).unwrap() {
                match codec::decode(&frame).unwrap() {
                    AgentFrame::Started { pid } => {
                        eventually("the exit", || !is_alive(pid)).await;
                        // The grace passes.
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    AgentFrame::Stdout(data) => read += data.len(),
                    AgentFrame::Exit(end) => exit = Some(end),
                    frame => panic!("{frame:?}"),
                }
            }
        }
        let written = std::fs::read_to_string(written).unwrap();
        let written: usize = written.trim().strip_prefix("wchar: ").unwrap().parse().unwrap();
        assert!(written < 64 << 20, "the writer was never stuck");
        assert!(read >= written, "{read} of {written}");
    });
}

#[test]
fn a_timeout_fires_while_the_reader_is_stuck() {
    let agent = Agent::start();
    block_on(async {
        let spec = ExecSpec { output_limit: u64::MAX, timeout_ms: Some(200), ..sh("exec yes") };
        let mut stream = agent.client.exec(spec).await.unwrap();
        let pid = stream.pid();
        eventually("the end of the command", || !is_alive(pid)).await;
        let outcome = Outcome::of(&mut stream).await;
        assert!(outcome.exit.timed_out);
        assert!(!outcome.stdout.is_empty());
    });
}

#[test]
fn merged_output_keeps_its_order() {
    let agent = Agent::start();
    block_on(async {
        let text = "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done";
        let outcome = agent.run(ExecSpec { merge: true, ..sh(text) }).await;
        assert_eq!(outcome.text(), "o1\ne1\no2\ne2\no3\ne3\no4\ne4\no5\ne5");
        assert!(outcome.stderr.is_empty());
    });
}

#[test]
fn input_is_empty_unless_given() {
    let agent = Agent::start();
    block_on(async {
        assert_eq!(agent.sh("cat | wc -c; readlink /proc/self/fd/0").await.text(), "0\n/dev/null");
    });
}

#[test]
fn input_of_any_size_goes_through() {
    let agent = Agent::start();
    block_on(async {
        const SIZE: usize = 8 << 20;
        let spec = ExecSpec { stdin: true, output_limit: u64::MAX, ..sh("cat") };
        let mut stream = agent.client.exec(spec).await.unwrap();
        let mut stdin = stream.take_stdin().unwrap();
        let data: Vec<u8> = (0..SIZE).map(|i| (i / 7) as u8).collect();
        let copy = data.clone();
        let feed = async move {
            stdin.write(&copy).await.unwrap();
            stdin.close().await.unwrap();
        };
        let (outcome, ()) = tokio::join!(Outcome::of(&mut stream), feed);
        assert!(outcome.stdout == data, "{} bytes", outcome.stdout.len());
        assert_eq!(outcome.exit.code, 0);
    });
}

#[test]
fn unread_input_neither_blocks_the_exit_nor_a_kill() {
    let agent = Agent::start();
    block_on(async {
        for (text, is_closed) in [("exec sleep 300", false), ("exec <&-; exec sleep 300", true)] {
            let mut stream = agent.client.exec(ExecSpec { stdin: true, ..sh(text) }).await.unwrap();
            let mut stdin = stream.take_stdin().unwrap();
            let control = stream.control();
            let feed = async move {
                // More than pipe and window hold.
                let much = vec![0; 4 << 20];
                let patience = Duration::from_millis(if is_closed { 10_000 } else { 300 });
                let fed = tokio::time::timeout(patience, stdin.write(&much)).await;
                assert_eq!(matches!(fed, Ok(Ok(()))), is_closed, "{text}: {fed:?}");
                control.kill().await.unwrap();
            };
            let (outcome, ()) = tokio::join!(Outcome::of(&mut stream), feed);
            assert_eq!(outcome.exit.signal, Some(9), "{text}");
        }
        let mut stream = agent.client.exec(ExecSpec { stdin: true, ..sh("head -c 3") }).await.unwrap();
        let mut stdin = stream.take_stdin().unwrap();
        let feed = async move {
            let _ = stdin.write(&vec![b'x'; 4 << 20]).await;
        };
        let (outcome, ()) = tokio::join!(Outcome::of(&mut stream), feed);
        assert_eq!(outcome.text(), "xxx");
    });
}

#[test]
fn a_terminal_has_a_size_and_takes_input() {
    let agent = Agent::start();
    block_on(async {
        let size = PtySize { rows: 33, cols: 101 };
        let text =
            "tty >/dev/null && stty size; echo $TERM; read line; echo got:$line; stty size; read rest || echo end";
        let mut stream = agent.client.exec(ExecSpec { pty: Some(size), ..sh(text) }).await.unwrap();
        let mut stdin = stream.take_stdin().unwrap();
        let control = stream.control();
        let feed = async move {
            control.resize(10, 20).await.unwrap();
            stdin.write(b"hello\n").await.unwrap();
            stdin.close().await.unwrap();
        };
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("xterm") {
            match stream.next().await.unwrap() {
                Some(ExecEvent::Stdout(data)) => seen.extend_from_slice(&data),
                event => panic!("{event:?} after {:?}", String::from_utf8_lossy(&seen)),
            }
        }
        assert!(String::from_utf8_lossy(&seen).starts_with("33 101\r\n"));
        let (outcome, ()) = tokio::join!(Outcome::of(&mut stream), feed);
        let rest = String::from_utf8_lossy(&outcome.stdout).into_owned();
        for part in ["got:hello", "10 20", "end"] {
            assert!(rest.contains(part), "{part} in {rest:?}");
        }
        assert_eq!(outcome.exit.code, 0);
        assert!(outcome.stderr.is_empty());
    });
}
