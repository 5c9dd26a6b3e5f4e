//! Files: whole ones in JSON, raw ones with ranges, the tree.

use crate::harness::{Answer, Server};
use axum::{
    body::{Body, Bytes},
    http::{Method, Request},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::stream;
use serde_json::json;
use std::io;

async fn with_sandbox() -> (Server, String) {
    let server = Server::new().await;
    let id = server.sandbox().await;
    (server, format!("/api/v1/sandbox/{id}/files"))
}

#[tokio::test]
async fn files_of_any_bytes_round_trip() {
    let (server, files) = with_sandbox().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let body = json!({"files": [
        {"path": "/workspace/deep/er/bin", "content": BASE64_STANDARD.encode(&bytes), "mode": "0755"},
        {"path": "/workspace/text", "content": "grüße\n", "encoding": "utf-8"},
        {"path": "/workspace/unpadded", "content": "YWI"},
        {"path": "/workspace/wrapped", "content": "YW\nJj\n"},
        {"path": "/workspace/empty", "content": ""},
    ]});
    let written = server.post(&files, body).await;
    assert_eq!((written.status, written.json()["success"].clone()), (200, json!(true)));
    assert_eq!(written.json()["files"][0]["size"], 100_000);
    assert_eq!(written.json()["files"][0]["mode"], "0755");
    for (path, expected) in [
        ("deep/er/bin", &bytes[..]),
        ("text", "grüße\n".as_bytes()),
        ("unpadded", b"ab"),
        ("wrapped", b"abc"),
        ("empty", b""),
    ] {
        let read = server.get(&format!("{files}?path=/workspace/{path}")).await.json();
        assert_eq!(BASE64_STANDARD.decode(read["content"].as_str().unwrap()).unwrap(), expected, "{path}");
        assert_eq!(
            (&read["path"], &read["size"], &read["encoding"]),
            (&json!(format!("/workspace/{path}")), &json!(expected.len()), &json!("base64"))
        );
    }
}

#[tokio::test]
async fn nothing_is_written_when_one_file_breaks_a_rule() {
    let (server, files) = with_sandbox().await;
    let good = json!({"path": "/workspace/good", "content": "YQ=="});
    for (bad, field) in [
        (json!({"path": "/a", "content": "!!"}), "files[1].content"),
        (json!({"path": "a", "content": ""}), "files[1].path"),
        (json!({"path": "/a/../b", "content": ""}), "files[1].path"),
        (json!({"path": "/a", "content": "", "mode": "rwx"}), "files[1].mode"),
        (json!({"path": "/a", "content": "", "mode": "77777"}), "files[1].mode"),
        (json!({"path": "/a", "content": "", "encoding": "latin1"}), "files[1].encoding"),
        (json!({"path": "/a"}), "files[1].content"),
        (json!({"path": "/a", "content": 5}), "files[1].content"),
    ] {
        server.post(&files, json!({"files": [good, bad]})).await.refuses_field(field);
    }
    server.post(&files, json!({})).await.refuses_field("files");
    server.get(&format!("{files}?path=/workspace/good")).await.refused(404, "not_found");
}

#[tokio::test]
async fn refusals_of_the_sandbox_are_never_5xx() {
    let (server, files) = with_sandbox().await;
    server.get(&format!("{files}?path=/nothing")).await.refused(404, "not_found");
    server.get(&format!("{files}?path=/workspace")).await.refused(400, "invalid_request");
    server.get(&format!("{files}/raw?path=/workspace")).await.refused(400, "invalid_request");
    server.get(&files).await.refuses_field("path");
    server.get(&format!("{files}?path=relative")).await.refuses_field("path");
    server.get(&format!("{files}?path=/a/../../etc/passwd")).await.refuses_field("path");
    server.get(&format!("{files}?path=/%2e%2e/etc/passwd")).await.refuses_field("path");
    server.test.runtime.limit_disk(3);
    server
        .post(&files, json!({"files": [{"path": "/a", "content": "YWJjZA=="}]}))
        .await
        .refused(409, "sandbox_disk_full");
}

#[tokio::test]
async fn raw_files_stream_both_ways_and_know_their_length() {
    let (server, files) = with_sandbox().await;
    let pieces = (0..40_u8).map(|at| Ok::<_, io::Error>(Bytes::from(vec![at; 50_000])));
    let put = server
        .call(
            Method::PUT,
            &format!("{files}/raw?path=/workspace/big&mode=0600"),
            Body::from_stream(stream::iter(pieces)),
        )
        .await;
    assert_eq!(
        (put.status, put.json()["size"].clone(), put.json()["mode"].clone()),
        (200, json!(2_000_000), json!("0600"))
    );
    let got = server.get(&format!("{files}/raw?path=/workspace/big")).await;
    assert_eq!(
        (got.header("content-length"), got.header("accept-ranges"), got.body.len()),
        ("2000000", "bytes", 2_000_000)
    );
    assert_eq!(got.header("content-type"), "application/octet-stream");
    assert!(got.body.chunks(50_000).enumerate().all(|(at, chunk)| chunk.iter().all(|byte| usize::from(*byte) == at)));
    let head = server.call(Method::HEAD, &format!("{files}/raw?path=/workspace/big"), "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "2000000", 0));
    server.call(Method::PUT, &format!("{files}/raw?path=/workspace/x&mode=9"), "").await.refuses_field("mode");
}

#[tokio::test]
async fn an_upload_that_breaks_off_writes_nothing() {
    let (server, files) = with_sandbox().await;
    let pieces = [Ok(Bytes::from_static(b"half")), Err(io::Error::other("connection lost"))];
    let put = server
        .call(Method::PUT, &format!("{files}/raw?path=/workspace/x"), Body::from_stream(stream::iter(pieces)))
        .await;
    assert_eq!(put.status, 400, "{put:?}");
    server.get(&format!("{files}/raw?path=/workspace/x")).await.refused(404, "not_found");
}

#[tokio::test]
async fn ranges_are_served() {
    let (server, files) = with_sandbox().await;
    let raw = format!("{files}/raw?path=/workspace/digits");
    assert_eq!(server.call(Method::PUT, &raw, "0123456789").await.status, 200);
    for (range, status, expected, content_range) in [
        ("bytes=0-0", 206, "0", Some("bytes 0-0/10")),
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
        ("bytes=7-99", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-99", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=4-2", 200, "0123456789", None),
        ("bytes=0-1,3-4", 200, "0123456789", None),
    ] {
        let got = server.call_with(Method::GET, &raw, &[("range", range)], "").await;
        assert_eq!((got.status, &got.body[..]), (status, expected.as_bytes()), "{range}");
        assert_eq!(got.headers.get("content-range").map(|value| value.to_str().unwrap()), content_range, "{range}");
        assert_eq!(got.header("content-length"), expected.len().to_string(), "{range}");
    }
    for range in ["bytes=10-", "bytes=-0", "bytes=18446744073709551615-"] {
        let got = server.call_with(Method::GET, &raw, &[("range", range)], "").await;
        got.refused(416, "range_not_satisfiable");
        assert_eq!(got.header("content-range"), "bytes */10");
    }
}

#[tokio::test]
async fn the_tree_is_listed_found_moved_copied_and_removed() {
    let (server, files) = with_sandbox().await;
    for (path, body) in [
        ("/mkdir", json!({"path": "/workspace/a/b"})),
        (
            "",
            json!({"files": [{"path": "/workspace/a/one.py", "content": "MQ=="}, {"path": "/workspace/a/b/two.py", "content": "MjI="}]}),
        ),
    ] {
        assert_eq!(server.post(&format!("{files}{path}"), body).await.status, 200);
    }
    let paths = |answer: Answer| -> Vec<String> {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["truncated"], false);
        answer.json()["files"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap().to_owned()).collect()
    };
    let listed = server.get(&format!("{files}/list?path=/workspace/a")).await;
    let first = listed.json()["files"][0].clone();
    assert_eq!((&first["name"], &first["type"], &first["size"]), (&json!("b"), &json!("directory"), &json!(0)));
    assert!(first["modified_at"].as_str().unwrap().ends_with(".000Z"));
    assert_eq!(paths(listed), ["/workspace/a/b", "/workspace/a/one.py"]);
    assert_eq!(paths(server.get(&format!("{files}/list")).await), ["/workspace/a"]);
    assert_eq!(paths(server.get(&format!("{files}/list?recursive=true")).await).len(), 4);
    assert_eq!(paths(server.post(&format!("{files}/glob"), json!({"pattern": "/workspace/**/*.py"})).await).len(), 2);
    assert_eq!(
        paths(server.post(&format!("{files}/glob"), json!({"pattern": "a/*.py"})).await),
        ["/workspace/a/one.py"]
    );
    assert_eq!(
        paths(server.post(&format!("{files}/glob"), json!({"pattern": "*.py", "path": "/workspace/a/b"})).await),
        ["/workspace/a/b/two.py"]
    );

    let done = json!({"success": true});
    let pair = |source: &str, destination: &str| json!({"source": source, "destination": destination});
    assert_eq!(
        server.post(&format!("{files}/move"), pair("/workspace/a/one.py", "/workspace/moved")).await.json(),
        done
    );
    assert_eq!(server.post(&format!("{files}/copy"), pair("/workspace/a", "/workspace/c")).await.json(), done);
    assert_eq!(
        paths(server.get(&format!("{files}/list?path=/workspace/c&recursive=1")).await),
        ["/workspace/c/b", "/workspace/c/b/two.py"]
    );
    server.post(&format!("{files}/move"), pair("/workspace/nothing", "/workspace/x")).await.refused(404, "not_found");
    server
        .post(&format!("{files}/mkdir"), json!({"path": "/workspace/a", "recursive": false}))
        .await
        .refused(409, "already_exists");

    let remove = async |body: serde_json::Value, query: &str| {
        server.call(Method::DELETE, &format!("{files}{query}"), body.to_string()).await
    };
    remove(json!({"path": "/workspace/c"}), "").await.refused(400, "invalid_request");
    assert_eq!(remove(json!({"path": "/workspace/c", "recursive": true}), "").await.json(), done);
    assert_eq!(remove(json!({}), "?path=/workspace/a&recursive=true").await.json(), done);
    remove(json!({"path": "/workspace/c"}), "").await.refused(404, "not_found");
    remove(json!({}), "").await.refuses_field("path");
    assert_eq!(paths(server.get(&format!("{files}/list")).await), ["/workspace/moved"]);
}

#[tokio::test]
async fn tree_requests_name_what_is_wrong() {
    let (server, files) = with_sandbox().await;
    for (path, body, field) in [
        ("/mkdir", json!({}), "path"),
        ("/mkdir", json!({"path": "x"}), "path"),
        ("/move", json!({"source": "/a"}), "destination"),
        ("/move", json!({"source": "/a", "destination": "b"}), "destination"),
        ("/copy", json!({"source": "../a", "destination": "/b"}), "source"),
        ("/glob", json!({"pattern": ""}), "pattern"),
        ("/glob", json!({"pattern": "../*"}), "pattern"),
        ("/glob", json!({"pattern": "*", "path": "w"}), "path"),
    ] {
        server.post(&format!("{files}{path}"), body).await.refuses_field(field);
    }
    server.get(&format!("{files}/list?recursive=perhaps")).await.refuses_field("recursive");
    server.get(&format!("{files}/list?path=/a&path=/b")).await.refuses_field("path");
}

#[tokio::test]
async fn a_file_too_large_for_json_points_to_the_raw_route() {
    let (server, files) = with_sandbox().await;
    let piece = Bytes::from(vec![7; 1 << 20]);
    let body = Body::from_stream(stream::iter((0..65).map(move |_| Ok::<_, io::Error>(piece.clone()))));
    assert_eq!(server.call(Method::PUT, &format!("{files}/raw?path=/workspace/big"), body).await.status, 200);
    let message = server.get(&format!("{files}?path=/workspace/big")).await.refused(413, "too_large");
    assert!(message.contains("/files/raw"), "{message}");
    let request = Request::builder()
        .uri(format!("{files}/raw?path=/workspace/big"))
        .header("x-api-key", &server.key)
        .header("range", "bytes=-1")
        .body(Body::empty())
        .unwrap();
    assert_eq!(&Answer::read(server.send(request).await).await.body[..], [7]);
}
