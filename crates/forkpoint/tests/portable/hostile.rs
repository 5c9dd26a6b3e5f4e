//! Archives that are broken or mean harm: each refused whole, naming what is wrong, with nothing left.

use crate::{
    elsewhere::{assert_no_spool, send},
    forge::{Parts, Tar, archive, sha256},
    kit::{export, import},
    support::Server,
};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use std::io::Write as _;
use tar::EntryType;

/// What is sent, and what the refusal says.
struct Case(&'static str, Vec<u8>, u16, &'static str);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Layers that no export writes.
fn layers(good: &Parts) -> Vec<Case> {
    let with = |layer: Tar| good.with_layer(layer.end()).archive();
    let dir = |path: &str| Tar::layer().member(path, EntryType::Directory, "", b"", &[]);
    let marked =
        |key: &str, value: &[u8]| with(Tar::layer().member("d/", EntryType::Directory, "", b"", &[(key, value)]));
    let sparse = |real: &str, map: &[u8]| {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", real.as_bytes()),
        ];
        let mut content = map.to_vec();
        content.resize(content.len().next_multiple_of(512), 0);
        with(Tar::layer().member("GNUSparseFile.0/f", EntryType::Regular, "", &content, records))
    };
    vec![
        Case("a path that leads out", with(Tar::layer().file("../out", b"x")), 400, "'..'"),
        Case("a path that leads out later", with(dir("a/").file("a/../../out", b"x")), 400, "'..'"),
        Case("an absolute path", with(Tar::layer().file("/etc/cron.d/x", b"x")), 400, "absolute"),
        Case(
            "a link in the way",
            with(Tar::layer().member("a", EntryType::Symlink, "/tmp", b"", &[]).file("a/x", b"x")),
            400,
            "not a directory",
        ),
        Case(
            "a hard link out",
            with(Tar::layer().member("a", EntryType::Link, "../../../etc/shadow", b"", &[])),
            400,
            "hard link",
        ),
        Case(
            "a hard link to nothing",
            with(Tar::layer().member("a", EntryType::Link, "etc/shadow", b"", &[])),
            400,
            "hard link",
        ),
        Case(
            "a hard link through a link",
            with(Tar::layer().member("a", EntryType::Symlink, "/etc", b"", &[]).member(
                "b",
                EntryType::Link,
                "a/shadow",
                b"",
                &[],
            )),
            400,
            "hard link",
        ),
        Case("a device", with(Tar::layer().member("sda", EntryType::Block, "", b"", &[])), 400, "device"),
        Case("a device in /dev", with(dir("dev/").member("dev/mem", EntryType::Char, "", b"", &[])), 400, "device"),
        Case("a file twice", with(Tar::layer().file("a", b"1").file("a", b"2")), 400, "twice"),
        Case("a directory twice", with(dir("a/").member("a/", EntryType::Directory, "", b"", &[])), 400, "twice"),
        Case("a file and its whiteout", with(Tar::layer().file("a", b"1").file(".wh.a", b"")), 400, "twice"),
        Case(
            "a whiteout of a directory with something in it",
            with(dir("a/").file("a/b", b"1").file(".wh.a", b"")),
            400,
            "twice",
        ),
        Case("a whiteout with content", with(Tar::layer().file(".wh.a", b"x")), 400, "whiteout"),
        Case("a whiteout of nothing", with(Tar::layer().file(".wh.", b"")), 400, "whiteout"),
        Case("a whiteout of the directory itself", with(dir("a/").file("a/.wh...", b"")), 400, "whiteout"),
        Case("a directory that hides in secret", with(dir("etc/").file("etc/.wh..wh..opq", b"")), 400, "hides"),
        Case(
            "a whiteout that is a link to a file",
            with(Tar::layer().file("a", b"1").member(
                ".wh.b",
                EntryType::Regular,
                "",
                b"",
                &[("FORKPOINT.link", b"../../etc/passwd")],
            )),
            400,
            "hard link",
        ),
        Case("content from elsewhere", marked("FORKPOINT.overlay.metacopy", b""), 400, "trusted.overlay.metacopy"),
        Case(
            "a redirect that leads out",
            marked("FORKPOINT.overlay.redirect", b"/../.."),
            400,
            "trusted.overlay.redirect",
        ),
        Case(
            "a relative redirect with a slash",
            marked("FORKPOINT.overlay.redirect", b"a/b"),
            400,
            "trusted.overlay.redirect",
        ),
        Case("an attribute of the host's", marked("SCHILY.xattr.security.selinux", b"x"), 400, "security.selinux"),
        Case("a trusted attribute", marked("SCHILY.xattr.trusted.overlay.opaque", b"x"), 400, "trusted.overlay.opaque"),
        Case(
            "an owner that no sandbox has",
            with(Tar::layer().owned_member("a", EntryType::Regular, "", b"", &[], 70_000)),
            400,
            "70000",
        ),
        Case("no directory for a file", with(Tar::layer().file("a/b", b"x")), 400, "does not come before it"),
        Case("a sparse file beyond all bounds", sparse("109951162777600", b"0\n"), 413, "bytes"),
        Case("a sparse map that overlaps", sparse("1000000", b"2\n0\n200\n100\n200\n"), 400, "map"),
        Case("a sparse map longer than the file", sparse("1000", b"1\n900\n200\n"), 400, "map"),
        Case("a sparse map of everything and nothing", sparse("1000", b"99999999999999\n"), 400, "map"),
        Case("a sparse map that is none", sparse("1000", b"x\n"), 400, "map"),
        Case(
            "a layer that is no archive",
            with_bytes(good, b"nothing of this is an archive".repeat(100)),
            400,
            "not a tar archive",
        ),
        Case(
            "a layer that is cut short",
            with_bytes(good, good.layer[..good.layer.len() / 2 / 512 * 512 - 512].to_vec()),
            400,
            "",
        ),
    ]
}

fn with_bytes(good: &Parts, layer: Vec<u8>) -> Vec<u8> {
    good.with_layer(layer).archive()
}

/// Archives that are not what they say.
fn archives(good: &Parts) -> Vec<Case> {
    let bytes = good.archive();
    let changed = |at: usize| {
        let mut members = good.members();
        let middle = members[at].1.len() / 2;
        members[at].1[middle] ^= 1;
        archive(&members)
    };
    let mut twice = good.members();
    twice.push(twice[1].clone());
    let mut stranger = good.members();
    stranger.push(("etc/passwd".into(), b"x".to_vec()));
    let missing = |at: usize| {
        let mut members = good.members();
        members.remove(at);
        archive(&members)
    };
    let linked = Tar::default()
        .member("oci-layout", EntryType::Symlink, "/etc/passwd", b"", &[])
        .member("index.json", EntryType::Symlink, "/etc/passwd", b"", &[])
        .end();
    let mut other_tree = Tar::layer().file("a", b"x").end();
    let bomb = gzip(&Tar::layer().file("zeros", &vec![0; 200 << 20]).end());
    let bomb_id = sha256(&Tar::layer().file("zeros", &vec![0; 200 << 20]).end());
    let bomb = Parts {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        diff_id: Some(bomb_id),
        ..good.with_layer(bomb)
    };
    let wrong_id = Parts { diff_id: Some("0".repeat(64)), ..good.clone() };
    let scope = r#"{"include_paths":["../x"]}"#;
    vec![
        Case("nothing", Vec::new(), 400, "cut short"),
        Case("not an archive", vec![b'x'; 5000], 400, "not a tar archive"),
        Case("a compressed archive", gzip(&bytes), 400, "archive"),
        Case("cut short", bytes[..bytes.len() * 2 / 3].to_vec(), 400, "cut short"),
        Case("without its end mark", bytes[..bytes.len() - 1024].to_vec(), 400, "cut short"),
        Case("a damaged manifest", changed(2), 400, "digest"),
        Case("a damaged config", changed(3), 400, "digest"),
        Case("a damaged layer", changed(4), 400, "digest"),
        Case("a part twice", archive(&twice), 400, "twice"),
        Case("a part that is none", archive(&stranger), 400, "not part of an OCI layout"),
        Case("links for parts", linked, 400, "not part of an OCI layout"),
        Case("without index", missing(1), 400, "index.json"),
        Case("without manifest", missing(2), 400, "missing"),
        Case("without layer", missing(4), 400, "missing"),
        Case("a layer that its settings do not know", wrong_id.archive(), 400, "digest"),
        Case("another tree under the hash", good.with_layer(std::mem::take(&mut other_tree)).archive(), 400, "hash"),
        Case(
            "another hash",
            good.saying("checkpoint.root", json!(format!("b3:{}", "0".repeat(64)))).archive(),
            400,
            "hash",
        ),
        Case("a hash that is none", good.saying("checkpoint.root", json!("b3:x")).archive(), 400, "does not read"),
        Case("a form of tomorrow", good.saying("format", json!("2")).archive(), 400, "\"2\""),
        Case("an id that is none", good.saying("checkpoint.id", json!("cp-../../x")).archive(), 400, "does not read"),
        Case("a name that is none", good.saying("checkpoint.name", json!("a\nb")).archive(), 400, "name"),
        Case("a scope that is none", good.saying("checkpoint.scope", json!(scope)).archive(), 400, "include_paths"),
        Case(
            "metadata beyond bounds",
            good.saying("checkpoint.metadata", json!(format!("{{\"k\":\"{}\"}}", "x".repeat(20_000)))).archive(),
            400,
            "metadata",
        ),
        Case("a template in a name", good.saying("template.name", json!("../../x")).archive(), 400, "does not read"),
        Case("a template in a digest", good.saying("template.digest", json!("../../x")).archive(), 400, "no digest"),
        Case("a template that is not in it", good.saying("template.layers", json!("1")).archive(), 400, "layers"),
        Case("another template", good.saying("template.digest", json!("0".repeat(32))).archive(), 409, "0000"),
        Case("a bomb", bomb.archive(), 413, "times its size"),
    ]
}

#[tokio::test]
async fn broken_and_hostile_archives_are_refused_whole() {
    let server = Server::start_with(&[("max_checkpoint_bytes", "268435456")]).await;
    let sandbox = server.sandbox().await;
    server
        .root(&sandbox, "echo 1 > a; ln a b; mkdir d; echo 2 > d/c; rm -r /etc/skel; head -c 100000 /dev/urandom > r")
        .await;
    let id = server.checkpoint(&sandbox, json!({ "name": "good", "wait": "verified" })).await;
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    export(&server, &id, &layout, &["--no-template"]);
    let good = Parts::of(&layout);
    let mut wrong = Vec::new();
    let cases: Vec<Case> = layers(&good).into_iter().chain(archives(&good)).collect();
    assert!(cases.len() > 50);
    for Case(name, bytes, status, says) in cases {
        let (found, answer) = send(&server, &server.key, bytes, None).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        if found != status || !message.contains(says) {
            wrong.push(format!("{name}: {found} {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Nothing is left of any of them, and what is good still comes in: put together anew, and compressed.
    server.owns(&[("layers", 2)]).await;
    assert_no_spool(&server);
    assert_eq!(server.get("/checkpoints").await.ok()["checkpoints"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/templates").await.ok()["templates"].as_array().unwrap().len(), 1);
    let original = server.get(&format!("/checkpoints/{id}")).await.ok();
    let packed = Parts {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        diff_id: Some(sha256(&good.layer)),
        ..good.with_layer(gzip(&good.layer))
    };
    for (number, parts) in [good.clone(), packed].iter().enumerate() {
        let file = folder.path().join(format!("{number}.tar"));
        std::fs::write(&file, parts.archive()).unwrap();
        let taken = import(&server, &file, &[]).await;
        assert_eq!(taken["checksum"], original["checksum"]);
    }
    let read_only: Value = server.post("/api-keys", json!({ "name": "reader", "scopes": ["read"] })).await.ok();
    let key = read_only["key"].as_str().or(read_only["api_key"]["key"].as_str()).unwrap().to_owned();
    assert_eq!(send(&server, &key, good.archive(), None).await.0, 403);
    // Whoever may only look sees no values of the environment.
    for (query, status) in [("", 200), ("?env=true", 403)] {
        let path = format!("/checkpoints/{}/export{query}", original["id"].as_str().unwrap());
        let request = server.client.get(format!("{}/api/v1{path}", server.url));
        let answer = request.header("Authorization", format!("ApiKey {key}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{query}");
    }
    assert_eq!(send(&server, "sk-sandbox-x.y.z", good.archive(), None).await.0, 401);
}
