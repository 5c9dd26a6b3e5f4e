//! Peers that mean harm: strangers to the agent, and an agent to the client.

use std::time::{Duration, Instant};

use forkpoint_protocol::codec;
use forkpoint_protocol::{AgentFrame, Hello, MAX_FRAME, Request, Token, VERSION};
use forkpoint_runtime::agent_client::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(value, &mut bytes).unwrap();
    bytes
}

fn hello() -> Vec<u8> {
    encoded(&Hello { version: VERSION, token: Token(TOKEN) })
}

/// What comes back until the agent closes.
async fn answer_to(agent: &Agent, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(agent.address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[test]
fn strangers_get_no_answer() {
    let agent = Agent::start();
    block_on(async {
        let ping = encoded(&Request::Ping);
        let wrong = |version, token| [encoded(&Hello { version, token: Token(token) }), ping.clone()].concat();
        let mut almost = TOKEN;
        almost[31] ^= 1;
        for bytes in [
            wrong(VERSION, [0; 32]),
            wrong(VERSION, almost),
            wrong(VERSION + 1, TOKEN),
            wrong(0, TOKEN),
            b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n".to_vec(),
            vec![0xff; 100_000],
            u32::MAX.to_le_bytes().to_vec(),
            (65u32).to_le_bytes().to_vec(),
            0u32.to_le_bytes().to_vec(),
        ] {
            let started = Instant::now();
            assert_eq!(answer_to(&agent, &bytes).await, b"", "{bytes:?}");
            assert!(started.elapsed() < Duration::from_secs(1), "{bytes:?}");
        }
        let right = [hello(), ping].concat();
        assert!(!answer_to(&agent, &right).await.is_empty());
    });
}

#[test]
fn slow_strangers_are_cut_off_and_do_not_keep_the_host_out() {
    let agent = Agent::start();
    block_on(async {
        let started = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..600 {
            let mut stream = TcpStream::connect(agent.address).await.unwrap();
            stream.write_all(&[35, 0]).await.unwrap();
            silent.push(stream);
            if silent.len() % 50 == 0 {
                agent.client.ping(Duration::from_secs(1)).await.unwrap();
            }
        }
        assert!(agent.descriptors() < 300, "{}", agent.descriptors());
        for mut stream in silent {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        eventually("the end of all strangers", || agent.descriptors() < 15).await;
    });
}

#[test]
fn nonsense_after_the_hello_is_an_error_and_no_more() {
    let agent = Agent::start();
    block_on(async {
        let unknown = [hello(), encoded(&(200u8, 1u8))].concat();
        let answer = answer_to(&agent, &unknown).await;
        let frame: AgentFrame<'_> = codec::decode(&answer[4..]).unwrap();
        assert!(matches!(frame, AgentFrame::Error { kind: ErrorKind::Invalid, .. }), "{frame:?}");

        let huge = [hello(), (MAX_FRAME as u32 + 1).to_le_bytes().to_vec()].concat();
        assert_eq!(answer_to(&agent, &huge).await, b"");

        // Frames that do not belong to an exec end it, and its command with it.
        let mut stream = TcpStream::connect(agent.address).await.unwrap();
        let exec = encoded(&Request::Exec(sh("echo $$; sleep 300")));
        stream.write_all(&[hello(), exec].concat()).await.unwrap();
        let mut bytes = [0; 64];
        let mut len = 0;
        while len < 12 {
            len += stream.read(&mut bytes[len..]).await.unwrap();
        }
        stream.write_all(&encoded(&(250u8, 0u64))).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        let own = agent.pid();
        let mut left = Vec::new();
        for _ in 0..1000 {
            left = agent.client.processes().await.unwrap();
            left.retain(|process| process.parent == own);
            if left.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn random_bytes_leave_the_agent_alive_and_small() {
    let agent = Agent::start();
    block_on(async {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..300 {
            let mut bytes = if round % 2 == 0 { hello() } else { Vec::new() };
            for _ in 0..200 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                bytes.extend_from_slice(&seed.to_le_bytes()[..(seed % 9) as usize]);
            }
            let mut stream = TcpStream::connect(agent.address).await.unwrap();
            let _ = stream.write_all(&bytes).await;
        }
        agent.client.ping(Duration::from_secs(5)).await.unwrap();
        let most = agent.memory_kib("VmHWM");
        assert!(most < 16 * 1024, "{most} KiB");
    });
}

/// An agent that answers any request with these bytes, and closes or stays.
async fn impostor(answer: Vec<u8>, stay: bool) -> AgentClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                if stay {
                    // Until the client has had enough.
                    while stream.read(&mut request).await.is_ok_and(|len| len > 0) {}
                }
            });
        }
    });
    let short = Duration::from_millis(300);
    let deadlines = Deadlines { connect: short, answer: short, work: short * 3 };
    AgentClient::new(address, TOKEN).with_deadlines(deadlines)
}

#[test]
fn an_agent_that_lies_is_an_error_of_the_call() {
    block_on(async {
        let garbage = impostor(vec![0xff; 5000], true).await;
        assert!(matches!(garbage.usage().await, Err(AgentError::Protocol(_))));
        assert!(matches!(garbage.list(b"/", 1, 10).await, Err(AgentError::Protocol(_))));
        assert!(matches!(garbage.exec(sh("true")).await, Err(AgentError::Protocol(_))));

        let silent = impostor(Vec::new(), true).await;
        assert!(matches!(silent.stat(b"/", true).await, Err(AgentError::Deadline(_))));
        assert!(matches!(silent.list(b"/", 1, 10).await, Err(AgentError::Deadline(_))));
        let gone = impostor(Vec::new(), false).await;
        assert!(matches!(gone.stat(b"/", true).await, Err(AgentError::Lost { .. })));

        let wrong = impostor(encoded(&AgentFrame::Started { pid: 1 }), true).await;
        assert!(matches!(wrong.stat(b"/", true).await, Err(AgentError::Protocol(_))));
        let message = format!("\u{1b}[31m{}", "x".repeat(5000));
        let shouting = impostor(encoded(&AgentFrame::Error { kind: ErrorKind::Other, message }), true).await;
        let error = shouting.stat(b"/", true).await.unwrap_err().to_string();
        assert!(error.len() < 1100 && !error.contains('\u{1b}'));
    });
}

#[test]
fn an_agent_that_floods_is_cut_off_at_the_limits() {
    block_on(async {
        let data = vec![b'x'; 1000];
        let flood: Vec<u8> = std::iter::once(encoded(&AgentFrame::Started { pid: 5 }))
            .chain((0..100).map(|_| encoded(&AgentFrame::Stdout(&data))))
            .flatten()
            .collect();
        let client = impostor(flood, true).await;
        let mut stream = client.exec(ExecSpec { output_limit: 10_000, ..sh("true") }).await.unwrap();
        let mut got = 0;
        let error = loop {
            match stream.next().await {
                Ok(Some(ExecEvent::Stdout(data))) => got += data.len(),
                Ok(event) => panic!("{event:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AgentError::Protocol(_)), "{error}");
        assert_eq!(got, 10_000);
        assert!(stream.next().await.unwrap().is_none());

        let entry = Entry {
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
        };
        let entries = encoded(&AgentFrame::Entries(vec![entry.clone(); 11]));
        let client = impostor(entries, true).await;
        assert!(matches!(client.list(b"/", 1, 10).await, Err(AgentError::Protocol(_))));

        let mut read = encoded(&AgentFrame::Entry(entry.clone()));
        read.extend(encoded(&AgentFrame::Data(&data)));
        let client = impostor(read, true).await;
        let mut file = client.read_file(b"/x", 0, Some(10)).await.unwrap();
        assert!(matches!(file.next().await, Err(AgentError::Protocol(_))));

        let mut taken = encoded(&AgentFrame::Started { pid: 5 });
        taken.extend(encoded(&AgentFrame::StdinTaken(u32::MAX)));
        let client = impostor(taken, true).await;
        let mut stream = client.exec(ExecSpec { stdin: true, ..sh("true") }).await.unwrap();
        assert!(matches!(stream.next().await, Err(AgentError::Protocol(_))));

        let outside = impostor(encoded(&AgentFrame::Entry(Entry { path: b"relative".into(), ..entry })), true).await;
        assert!(matches!(outside.stat(b"/", true).await, Err(AgentError::Protocol(_))));
    });
}
