//! Finding the server and the key, and what errors look like.

use crate::stub::{KEY, SANDBOX, Stub, command, finish, json, not_found};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

#[tokio::test]
async fn a_refusal_is_one_line_with_code_and_request_id() {
    let stub = Stub::start(|_| not_found()).await;
    let ran = stub.run(&["sandbox", "get", SANDBOX]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_eq!(ran.stderr, "error: no such thing (not_found, req-9)\n");
}

#[tokio::test]
async fn the_key_is_sent_and_never_shown() {
    let stub = Stub::start(|seen| {
        let header = seen.headers["authorization"].to_str().unwrap();
        json(401, &json!({"error": {"message": format!("bad\n{header}\u{1b}[2J"), "code": "unauthorized"}}))
    })
    .await;
    let ran = stub.run(&["sandbox", "ls"]).await;
    assert_eq!(ran.stderr, "error: bad\\nApiKey <key>\\u{1b}[2J (unauthorized)\n");
    assert_eq!(stub.seen()[0].headers["authorization"], format!("ApiKey {KEY}"));

    let flag = format!("{KEY}\u{7f}\n");
    for args in [
        &["sandbox", "ls", "--key", &flag, "--url", "http://127.0.0.1:1"][..],
        &["sandbox", "ls", "--key", KEY, "--url", "http://127.0.0.1:1"],
        &["sandbox", "ls", "--key", KEY, "--nonsense"],
        &["sandbox", "get", "--key", KEY, "nonsense"],
        &["sandbox", "--help"],
        &["bench", "--help"],
        &["--help"],
    ] {
        let ran = stub.run(args).await;
        assert!(!format!("{ran:?}").contains("very-secret"), "{ran:?}");
    }
}

#[tokio::test]
async fn mistakes_in_usage_end_with_2() {
    let stub = Stub::start(|_| not_found()).await;
    for args in [
        &["sandbox"][..],
        &["sandbox", "get", "nonsense"],
        &["sandbox", "exec", SANDBOX],
        &["sandbox", "create", "--env", "novalue"],
        &["sandbox", "create", "--count", "0"],
        &["checkpoint", "create", SANDBOX],
        &["checkpoint", "restore", SANDBOX],
        &["fork", "018f5c2e-7a8b-7c3d-9e4f-a1b2c3d4e5f6"],
        &["sandbox", "cp", "a", "b"],
        &["bench", "--spawn", "--url", "http://h"],
    ] {
        assert_eq!(stub.run(args).await.code, 2, "{args:?}");
    }
    assert_eq!(stub.lines(), [""; 0]);
}

#[tokio::test]
async fn without_a_key_the_way_to_one_is_shown() {
    let home = tempfile::tempdir().unwrap();
    let ran = finish(command(home.path(), &["sandbox", "ls"])).await;
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.starts_with("error: no API key: give --key") && ran.stderr.contains("forkpoint register"),
        "{ran:?}"
    );
    let ran = finish(command(home.path(), &["sandbox", "ls", "--key", "k", "--url", "http://127.0.0.1:1"])).await;
    assert!(ran.stderr.starts_with("error: cannot reach http://127.0.0.1:1: "), "{ran:?}");
}

#[tokio::test]
async fn settings_of_other_clients_and_flags_before_the_command_work() {
    let stub = Stub::start(|_| json(200, &json!({"sandboxes": []}))).await;
    let mut other = command(stub.home.path(), &["sandbox", "ls", "--json"]);
    other.env("STATESET_API_URL", format!("{}/api/v1/", stub.url)).env("SANDBOX_API_KEY", "sk-other");
    assert_eq!(finish(other).await.ok(), "{\n  \"sandboxes\": []\n}\n");
    let flags = ["--url", &stub.url, "--key", "sk-flag", "--json", "sandbox", "ls"];
    let mut early = command(stub.home.path(), &flags);
    early.env("FORKPOINT_URL", "http://127.0.0.1:1").env("FORKPOINT_KEY", "sk-env");
    assert_eq!(finish(early).await.ok(), "{\n  \"sandboxes\": []\n}\n");
    let keys: Vec<_> =
        stub.seen().iter().map(|seen| seen.headers["authorization"].to_str().unwrap().to_owned()).collect();
    assert_eq!(keys, ["ApiKey sk-other", "ApiKey sk-flag"]);
    assert_eq!(stub.lines(), ["GET /api/v1/sandboxes", "GET /api/v1/sandboxes"]);
}

#[tokio::test]
async fn profiles_are_kept_for_their_owner_only() {
    let stub = Stub::start(|_| json(200, &json!({"sandboxes": []}))).await;
    let home = stub.home.path();
    let run = |args: &[&str]| finish(command(home, args));
    let mut add = command(home, &["profile", "add", "here", "--url", &format!("{}/api/v1", stub.url), "--key-stdin"]);
    let mut child = add.stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(KEY.as_bytes()).await.unwrap();
    assert!(child.wait().await.unwrap().success());
    run(&["profile", "add", "gone", "--url", "http://127.0.0.1:1", "--key", "k"]).await.ok();
    let listed = run(&["profile", "ls"]).await.ok();
    assert_eq!(
        listed,
        format!("NAME\tURL\tKEY\tCURRENT\ngone\thttp://127.0.0.1:1/\ttrue\tfalse\nhere\t{}/\ttrue\ttrue\n", stub.url)
    );
    run(&["sandbox", "ls"]).await.ok();
    assert_eq!(stub.seen()[0].headers["authorization"], format!("ApiKey {KEY}"));
    assert_eq!(run(&["sandbox", "ls", "--profile", "gone"]).await.code, 1);
    run(&["profile", "use", "gone"]).await.ok();
    assert!(run(&["sandbox", "ls"]).await.stderr.contains("127.0.0.1:1"));
    run(&["profile", "rm", "gone"]).await.ok();
    assert!(run(&["profile", "use", "gone"]).await.stderr.contains("no profile \"gone\"; there are: here"));

    let file = home.join(".config/forkpoint/profiles.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(run(&["sandbox", "ls"]).await.stderr.contains("has mode 0640; make it 0600"));
}

#[tokio::test]
async fn a_create_whose_connection_breaks_is_repeated_once_under_one_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let mut keys = Vec::new();
        for attempt in 0..2 {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"{}") {
                assert!(connection.read_buf(&mut request).await.unwrap() > 0);
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            let key = request.lines().find_map(|line| line.strip_prefix("idempotency-key: ")).unwrap();
            keys.push(key.to_owned());
            if attempt == 1 {
                let body = json!({"id": SANDBOX, "sandbox_id": SANDBOX}).to_string();
                let head = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n", body.len());
                connection.write_all((head + &body).as_bytes()).await.unwrap();
            }
        }
        keys
    });
    let home = tempfile::tempdir().unwrap();
    let ran = finish(command(home.path(), &["sandbox", "create", "--url", &url, "--key", KEY])).await;
    assert_eq!(ran.ok(), format!("{SANDBOX}\n"));
    let keys = server.await.unwrap();
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn completions_know_the_commands() {
    let home = tempfile::tempdir().unwrap();
    let bash = finish(command(home.path(), &["completions", "bash"])).await.ok();
    for word in ["sandbox", "checkpoint", "bench", "--url", "exec"] {
        assert!(bash.contains(word), "{word}");
    }
}
