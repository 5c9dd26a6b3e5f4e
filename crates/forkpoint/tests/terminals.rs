//! Terminals and background commands through the real server: by WebSocket, and by `forkpoint shell` in tmux.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub, missing_debug_implementations)]

mod support;

#[path = "terminals/socket.rs"]
mod socket;
#[path = "terminals/tmux.rs"]
mod tmux;

use reqwest::Method;
use serde_json::json;
use socket::{Attached, refused, terminal};
use std::time::{Duration, Instant};
use support::Server;
use tmux::Tmux;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_echoes_resizes_colours_interrupts_and_tells_its_exit_code() {
    let server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "FROM_SANDBOX": "yes" } })).await;
    let id =
        terminal(&server, &sb, json!({ "cols": 100, "rows": 30, "env": { "TERM": "screen-256color", "PS1": "$ " } }))
            .await;
    let mut term = Attached::new(&server, &sb, &id, "").await;
    assert_eq!((&term.first["terminal"]["cols"], &term.first["offset"]), (&json!(100), &json!(0)));
    // What is typed comes back as it is typed, not only what the command says.
    term.type_("echo a$((1+1))b\r").await;
    assert!(term.until("a2b\r\n").await.contains("echo a$((1+1))b"));
    term.type_("stty size; tput colors; echo $TERM $FROM_SANDBOX; tty; id -un\r").await;
    let shown = term.until("sandbox\r\n").await;
    for line in ["30 100\r\n", "256\r\n", "screen-256color yes\r\n", "/dev/pts/"] {
        assert!(shown.contains(line), "{line:?}: {shown:?}");
    }
    term.say(json!({ "type": "resize", "cols": 132, "rows": 43 })).await;
    term.type_("stty size\r").await;
    term.until("43 132\r\n").await;
    term.type_("printf '\\033[31mred\\033[0m\\n'\r").await;
    term.until("\x1b[31mred\x1b[0m\r\n").await;
    let begun = Instant::now();
    // It is in the foreground once it has said so, and nothing that is only echoed looks like an answer.
    term.type_("sh -c 'echo star\"\"ted; exec sleep 100'\r").await;
    term.until("started\r\n").await;
    term.type_("\x03").await;
    term.until("^C").await;
    term.type_("echo ali''ve\r").await;
    term.until("alive\r\n").await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    // Any bytes pass, both ways.
    term.type_(
        "stty raw -echo; echo re''ady; head -c 256 | od -An -v -tu1 | tr -s ' \\n' ' '; stty sane; echo do''ne\r",
    )
    .await;
    term.until("ready\n").await;
    term.type_((0..=255).collect::<Vec<u8>>()).await;
    let shown = term.until("done\r\n").await;
    let all: Vec<String> = (0..=255).map(|byte| byte.to_string()).collect();
    assert!(shown.contains(&all.join(" ")), "{shown:?}");
    term.type_("exit 7\r").await;
    assert_eq!(term.end().await, (json!({ "type": "exit", "code": 7, "timed_out": false }), Some(1000)));
    let shown = server.get(&format!("/sandbox/{sb}/terminals/{id}")).await.ok();
    assert_eq!((&shown["running"], &shown["exit_code"], &shown["cols"]), (&json!(false), &json!(7), &json!(132)));
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_outlive_connections_and_servers_and_lose_nothing() {
    let mut server = Server::start().await;
    let sb = server.sandbox().await;
    // Without the trap bash goes on after an interrupt that comes between two of its commands.
    let count = "trap 'exit 130' INT; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done";
    let id = terminal(&server, &sb, json!({ "command": count })).await;
    let mut first = Attached::new(&server, &sb, &id, "").await;
    first.until("line 20\r\n").await;
    // A second viewer gets what was before it came, and both get what follows.
    let mut second = Attached::new(&server, &sb, &id, "").await;
    second.until("line 40\r\n").await;
    first.until("line 40\r\n").await;
    assert_eq!(server.get(&format!("/sandbox/{sb}/terminals")).await.ok()["terminals"][0]["viewers"], 2);
    let mut all = first.bytes.clone();
    let position = first.position;
    drop((first, second));

    server.kill();
    server.launch().await;
    let mut again = Attached::new(&server, &sb, &id, &format!("from={position}")).await;
    assert_eq!(again.first["offset"], position);
    let before = again.bytes.len();
    again.until("line 400\r\n").await;
    // A server that ends by itself says so.
    let stopping = tokio::task::spawn_blocking(move || {
        server.stop();
        server
    });
    let (told, code) = again.end().await;
    assert_eq!((&told["type"], code), (&json!("closed"), Some(1012)), "{told}");
    let mut server = stopping.await.unwrap();
    server.launch().await;
    all.extend_from_slice(&again.bytes[before..]);
    let mut last = Attached::new(&server, &sb, &id, &format!("from={}", again.position)).await;
    last.until("line 500\r\n").await;
    all.extend_from_slice(&last.bytes);
    let text = String::from_utf8(all).unwrap();
    for (at, line) in text.lines().take(500).enumerate() {
        assert_eq!(line, format!("line {}", at + 1));
    }
    last.type_("\x03").await;
    assert_eq!(last.end().await.0["code"], 130);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_ends_or_is_restored_closes_its_terminals_with_a_reason() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let cp = server.checkpoint(&sb, json!({ "name": "a" })).await;
    let id = terminal(&server, &sb, json!({})).await;
    let mut term = Attached::new(&server, &sb, &id, "").await;
    server.restore(&sb, &cp).await;
    let (told, code) = term.end().await;
    assert_eq!((&told["type"], code), (&json!("closed"), Some(1001)));
    assert!(told["reason"].as_str().unwrap().contains("restored"), "{told}");
    assert_eq!(refused(&server, &sb, &id, "", &server.key).await.0, 404);
    let id = terminal(&server, &sb, json!({})).await;
    let mut term = Attached::new(&server, &sb, &id, "").await;
    server.post(&format!("/sandbox/{sb}/stop"), json!({})).await.ok();
    assert_eq!(term.end().await.1, Some(1001));
    assert_eq!(refused(&server, &sb, &id, "", &server.key).await.0, 409);
    server.post(&format!("/sandbox/{sb}/terminals"), json!({})).await.refused(409, "sandbox_not_running");
    server.owns(&[("processes", 0), ("cgroups", 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_ends_at_most_the_connection_it_came_by() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let id = terminal(&server, &sb, json!({ "command": "cat" })).await;
    let mut watching = Attached::new(&server, &sb, &id, "").await;
    let mut term = Attached::new(&server, &sb, &id, "").await;
    for text in [
        "",
        "x",
        "{}",
        "[1]",
        r#"{"type":"resize"}"#,
        r#"{"type":"resize","cols":0,"rows":5}"#,
        r#"{"type":"resize","cols":70000,"rows":5}"#,
        r#"{"type":"signal","signal":64}"#,
        r#"{"type":"kill"}"#,
    ] {
        term.send(Message::text(text)).await;
        let told = term.text().await;
        assert_eq!(told["type"], "error", "{text}: {told}");
    }
    term.type_("still here\r").await;
    term.until("still here\r\n").await;
    // Larger than any message may be.
    term.send(Message::binary(vec![b'x'; 3 << 20])).await;
    term.gone().await;
    // Bytes that are no WebSocket frames, and frames that lie about their length.
    for garbage in [
        &[0xff_u8; 64][..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4],
        &[0x81, 0x05, b'h', b'e', b'l', b'l', b'o'],
    ] {
        let mut raw = Attached::new(&server, &sb, &id, "").await;
        raw.raw(garbage).await;
        raw.gone().await;
    }
    // Text that is no UTF-8.
    watching.type_("and the others go on\r").await;
    watching.until("and the others go on\r\n").await;
    let left = server.get(&format!("/sandbox/{sb}/terminals/{id}")).await.ok();
    assert_eq!((&left["running"], &left["viewers"]), (&json!(true), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_change_the_sandbox_gets_at_its_terminals() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let id = terminal(&server, &sb, json!({})).await;
    let stranger = server.register("Globex").await;
    assert_eq!(refused(&server, &sb, &id, "", &stranger).await.0, 404);
    assert_eq!(refused(&server, &sb, &id, "", "sk-sandbox-wrong.a.b").await.0, 401);
    assert_eq!(refused(&server, &sb, &id, "token=sk-sandbox-wrong.a.b", "").await.0, 401);
    assert_eq!(refused(&server, &sb, &id, "", "").await.0, 401);
    assert_eq!(refused(&server, &sb, &id, &format!("token={stranger}"), "").await.0, 404);
    for (method, path, body) in [
        (Method::POST, format!("/sandbox/{sb}/terminals"), json!({})),
        (Method::GET, format!("/sandbox/{sb}/terminals"), json!({})),
        (Method::GET, format!("/sandbox/{sb}/terminals/{id}"), json!({})),
        (Method::GET, format!("/sandbox/{sb}/terminals/{id}/wait"), json!({})),
        (Method::POST, format!("/sandbox/{sb}/terminals/{id}/signal"), json!({ "signal": 9 })),
        (Method::DELETE, format!("/sandbox/{sb}/terminals/{id}"), json!({})),
    ] {
        server.call_as(&stranger, method, &path, Some(body)).await.refused(404, "not_found");
    }
    // The key in the address is for WebSockets alone.
    let listed = server.client.get(format!("{}/api/v1/sandbox/{sb}/terminals?token={}", server.url, server.key));
    assert_eq!(listed.send().await.unwrap().status(), 401);
    let mut term = Attached::with_key(&server, &sb, &id, &format!("token={}", server.key), "").await.unwrap();
    term.type_("exit 4\r").await;
    assert_eq!(term.end().await.0["code"], 4);
    assert!(!server.logged().contains(&server.key), "the key is in the log");
    // What is asked for wrongly says so before anything begins.
    let ws = format!("/sandbox/{sb}/terminals/{id}/ws");
    server.get(&ws).await.refused(400, "invalid_request");
    for query in ["from=-1", "cols=10", "cols=0&rows=0", "cols=5&rows=5000"] {
        assert_eq!(refused(&server, &sb, &id, query, &server.key).await.0, 400, "{query}");
    }
    assert_eq!(refused(&server, &sb, "term-nope", "", &server.key).await.0, 400);
    for (body, field) in [
        (json!({ "cols": 0 }), "cols"),
        (json!({ "rows": 2000 }), "rows"),
        (json!({ "tty": false }), "command"),
        (json!({ "tty": false, "command": "cat", "cols": 80 }), "cols"),
        (json!({ "command": "" }), "command"),
        (json!({ "command": ["/nowhere"] }), "command"),
        (json!({ "user": "nobody-such" }), "user"),
        (json!({ "working_dir": "/nowhere" }), "working_dir"),
        (json!({ "scrollback_bytes": 100_000_000 }), "scrollback"),
    ] {
        let error =
            server.post(&format!("/sandbox/{sb}/terminals"), body.clone()).await.refused(400, "invalid_request");
        assert!(error["details"]["field"].as_str().unwrap_or_default().starts_with(field), "{body}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn background_commands_are_listed_signalled_waited_for_and_closed() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let path = |id: &str, rest: &str| format!("/sandbox/{sb}/terminals/{id}{rest}");
    let script =
        "echo out; echo err >&2; read line; echo got $line; trap 'echo term; exit 5' TERM; while :; do sleep 0.1; done";
    let id = terminal(&server, &sb, json!({ "tty": false, "command": script })).await;
    let mut attached = Attached::new(&server, &sb, &id, "").await;
    attached.until("out\nerr\n").await;
    attached.type_("hello\n").await;
    attached.until("got hello\n").await;
    let (wait, signal) = (path(&id, "/wait"), path(&id, "/signal"));
    let waiting = server.get(&wait);
    let signalling = async {
        while server.get(&path(&id, "")).await.ok()["viewers"] != 2 {}
        server.post(&signal, json!({ "signal": 15 })).await.ok();
    };
    let (ended, ()) = tokio::join!(waiting, signalling);
    assert_eq!(ended.ok(), json!({ "exit_code": 5, "timed_out": false }));
    attached.until("term\n").await;
    assert_eq!(attached.end().await.0["code"], 5);
    server.post(&path(&id, "/signal"), json!({ "signal": 15 })).await.refused(409, "terminal_ended");
    server.post(&path(&id, "/signal"), json!({ "signal": 0 })).await.refused(400, "invalid_request");

    let counting = terminal(&server, &sb, json!({ "tty": false, "command": ["wc", "-c"] })).await;
    let mut input = Attached::new(&server, &sb, &counting, "").await;
    // More than any window or pipe holds.
    for _ in 0..40 {
        input.type_(vec![b'x'; 100_000]).await;
    }
    input.say(json!({ "type": "eof" })).await;
    input.until("4000000\n").await;
    let timed = terminal(&server, &sb, json!({ "command": "sleep 100", "timeout": 200 })).await;
    let ended = server.get(&path(&timed, "/wait")).await.ok();
    assert_eq!(ended, json!({ "exit_code": 124, "timed_out": true }));

    let endless = terminal(&server, &sb, json!({ "command": "sleep 1234 & sleep 1235" })).await;
    let listed = server.get(&format!("/sandbox/{sb}/terminals")).await.ok();
    let shown: Vec<_> =
        listed["terminals"].as_array().unwrap().iter().map(|one| (&one["id"], &one["running"])).collect();
    assert_eq!(shown.len(), 4);
    assert_eq!(shown[3], (&json!(endless), &json!(true)));
    server.delete(&path(&endless, "")).await.ok();
    server.get(&path(&endless, "")).await.refused(404, "not_found");
    server.delete(&path(&endless, "")).await.refused(404, "not_found");
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.sh(&sb, "pgrep -c sleep || true").await.trim() != "0" {
        assert!(Instant::now() < deadline, "its processes are still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_terminals_at_once_do_not_disturb_each_other_and_leave_nothing() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let each = (0..10).map(|number| {
        let (server, sb) = (&server, &sb);
        async move {
            let id = terminal(server, sb, json!({ "command": ["bash", "--norc"] })).await;
            let mut term = Attached::new(server, sb, &id, "").await;
            for round in 0..20 {
                term.type_(format!("echo $(({number}*1000+{round}))=\r")).await;
                term.until(&format!("{}=\r\n", number * 1000 + round)).await;
            }
            // Much output, unread for a while, and then whole.
            term.type_("seq 1 50000 | tail -c 200000; echo e''nd\r").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let shown = term.until("end\r\n").await;
            assert!(shown.contains("\r\n49999\r\n50000\r\n"), "terminal {number}");
            term.type_(format!("exit {number}\r")).await;
            assert_eq!(term.end().await.0["code"], number);
        }
    });
    futures::future::join_all(each).await;
    assert_eq!(server.sh(&sb, "pgrep -c bash || true; ls /dev/pts").await.trim(), "1\nptmx");
    server.delete(&format!("/sandbox/{sb}")).await.ok();
    server.owns(&[("processes", 0), ("cgroups", 0), ("layers", 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_costs_bounded_memory_and_holds_nobody_up_for_long() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let id = terminal(&server, &sb, json!({ "tty": false, "command": "yes 0123456789" })).await;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = resident();
    let stalled = Attached::new(&server, &sb, &id, "").await;
    let written = || async {
        let shown = server.get(&format!("/sandbox/{sb}/terminals/{id}")).await.ok();
        shown["output_bytes"].as_u64().unwrap()
    };
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = written().await;
        if now == last {
            break;
        }
        last = now;
    }
    assert!(resident() < before + 32 * 1024, "{} KiB more", resident() - before);
    // After a while the command goes on without the one that does not read.
    let deadline = Instant::now() + Duration::from_secs(30);
    while written().await == last {
        assert!(Instant::now() < deadline, "held up for ever");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    drop(stalled);
    server.delete(&format!("/sandbox/{sb}/terminals/{id}")).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_comes_back_as_it_is_typed() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let id = terminal(&server, &sb, json!({ "command": "exec cat" })).await;
    let mut term = Attached::new(&server, &sb, &id, "").await;
    let mut times = Vec::new();
    for round in 0..1000 {
        let key = [b'a' + (round % 26) as u8];
        let begun = Instant::now();
        term.type_(key).await;
        term.more(1).await;
        times.push(begun.elapsed());
        assert_eq!(term.bytes.last(), Some(&key[0]), "key {round}");
        if round % 60 == 59 {
            // The line would get too long for the terminal.
            term.type_("\x15").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            term.drain().await;
        }
    }
    times.sort();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("echo round trip: p50 {p50:?}, p99 {p99:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_command_works_in_a_real_terminal_and_across_server_restarts() {
    let Some(mut tmux) = Tmux::start().await else { return };
    let mut server = Server::start().await;
    let sb = server.sandbox().await;
    tmux.point_at(&server);
    tmux.run(&format!("forkpoint shell {sb}; echo code=$?")).await;
    tmux.until("$ ", "a prompt").await;
    tmux.keys("export PS1='in> '; printf '\\033[31;1mred\\033[0m\\n'; stty size; echo $TERM").await;
    tmux.press("Enter").await;
    let shown = tmux.until("24 80", "the size").await;
    assert!(shown.contains("screen") || shown.contains("tmux"), "{shown}");
    assert!(tmux.coloured().await.contains("\x1b[1m\x1b[31mred"), "{:?}", tmux.coloured().await);
    tmux.resize(110, 33).await;
    tmux.keys("stty size").await;
    tmux.press("Enter").await;
    tmux.until("33 110", "the new size").await;
    tmux.keys("sleep 100 || echo interrupted").await;
    tmux.press("Enter").await;
    tmux.press("C-c").await;
    tmux.until("^C", "the interrupt").await;
    tmux.keys("marker=kept; i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo tick $i; sleep 0.01; done").await;
    tmux.press("Enter").await;
    tmux.until("tick 50", "the loop").await;

    server.kill();
    tmux.until("connecting again", "the notice of a lost connection").await;
    server.launch().await;
    tmux.point_at(&server);
    tmux.until("connected again", "the notice of the new connection").await;
    tmux.until("tick 600", "the rest of the loop").await;
    tmux.keys("clear; echo marker=$marker").await;
    tmux.press("Enter").await;
    tmux.until("marker=kept", "the same shell").await;

    let stopping = tokio::task::spawn_blocking(move || {
        server.stop();
        server
    });
    tmux.until("connecting again", "the notice of the server's end").await;
    let mut server = stopping.await.unwrap();
    server.launch().await;
    tmux.point_at(&server);
    tmux.until("connected again", "the new connection").await;
    tmux.press("C-p").await;
    tmux.press("C-q").await;
    tmux.until("detached; it goes on", "the detaching").await;
    tmux.until("code=0", "the end of the program").await;
    let id =
        server.get(&format!("/sandbox/{sb}/terminals")).await.ok()["terminals"][0]["id"].as_str().unwrap().to_owned();
    tmux.keys(&format!("clear; forkpoint shell --list {sb}; forkpoint shell {sb} --attach {id}; echo code=$?")).await;
    tmux.press("Enter").await;
    tmux.until("in> ", "the prompt again").await;
    // Ctrl-P alone gets through.
    tmux.keys("echo previous").await;
    tmux.press("Enter").await;
    tmux.press("C-p").await;
    tmux.press("Enter").await;
    tmux.until("previous\nin> echo previous\nprevious\n", "the previous line again").await;
    tmux.keys("exit 7").await;
    tmux.press("Enter").await;
    tmux.until("code=7", "the exit code").await;
    tmux.keys(&format!(
        "clear; forkpoint sandbox exec -it {sb} -- 'test -t 0 && test -t 1 && echo on a tty; exit 3'; echo code=$?"
    ))
    .await;
    tmux.press("Enter").await;
    let shown = tmux.until("code=3", "the command's code").await;
    assert!(shown.contains("on a tty\n"), "{shown}");
    // The terminal is as it was before.
    tmux.keys("clear; stty -a").await;
    tmux.press("Enter").await;
    let shown = tmux.until("echoke", "the settings").await;
    assert!(shown.contains("isig icanon iexten echo "), "{shown}");
    // A sandbox that goes away says why.
    tmux.keys(&format!("clear; forkpoint shell {sb}; echo code=$?")).await;
    tmux.press("Enter").await;
    tmux.until("$ ", "a prompt").await;
    let terminals =
        || async { server.get(&format!("/sandbox/{sb}/terminals")).await.ok()["terminals"].as_array().unwrap().len() };
    while terminals().await < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.delete(&format!("/sandbox/{sb}")).await.ok();
    tmux.until("the terminal was closed: the sandbox was stopped", "the reason").await;
    tmux.until("code=1", "the failure").await;
    // In a pipe there is no terminal to use.
    tmux.keys(&format!("clear; forkpoint shell {sb} < /dev/null; echo code=$?")).await;
    tmux.press("Enter").await;
    tmux.until("code=2", "the refusal").await;
}
