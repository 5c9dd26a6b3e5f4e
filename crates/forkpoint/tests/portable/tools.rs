//! What skopeo and umoci make of an exported checkpoint.

use crate::{
    kit::{equal, export, fails, listed, played, seen, sorted},
    support::Server,
};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn blob(layout: &Path, digest: &str) -> Value {
    let path = layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn standard_tools_see_in_an_exported_checkpoint_what_the_sandbox_saw() {
    let server = Server::start().await;
    let sandbox = played(&server).await;
    let before = server.checkpoint(&sandbox, json!({ "name": "before" })).await;
    let id = server
        .checkpoint(&sandbox, json!({ "name": "one of everything", "wait": "verified", "metadata": { "n": 1 } }))
        .await;
    let shown = server.get(&format!("/checkpoints/{id}")).await.ok();
    let expected = sorted(seen(&server, &sandbox).await);
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("image");
    assert_eq!(export(&server, &id, &layout, &[]), shown["checksum"].as_str().unwrap());

    let image = format!("oci:{}:{id}", layout.display());
    let inspected: Value = serde_json::from_str(&run("skopeo", &["inspect", &image])).unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 2, "{inspected}");
    assert_eq!(inspected["Os"], "linux");
    let manifest: Value = serde_json::from_str(&run("skopeo", &["inspect", "--raw", &image])).unwrap();
    let said = |name: &str| manifest["annotations"][format!("dev.forkpoint.{name}")].clone();
    assert_eq!(said("checkpoint.id"), id.as_str());
    assert_eq!(said("checkpoint.name"), "one of everything");
    assert_eq!(said("checkpoint.root"), shown["checksum"]);
    assert_eq!(said("checkpoint.parent"), before.as_str());
    assert_eq!(said("checkpoint.sandbox"), sandbox.as_str());
    assert_eq!(said("checkpoint.metadata"), r#"{"n":1}"#);
    let template = server.get("/templates/default").await.ok();
    assert_eq!(said("template.digest"), template["digest"]);
    // Secrets leave only when asked for.
    assert_eq!(said("checkpoint.env"), "left-out");
    assert!(blob(&layout, manifest["config"]["digest"].as_str().unwrap())["config"].get("Env").is_none());

    let bundle = folder.path().join("bundle");
    run("umoci", &["unpack", "--image", &format!("{}:{id}", layout.display()), bundle.to_str().unwrap()]);
    // Layers have no way to say an attribute with this name that others understand.
    let nameable = |line: &String| line.replace("user.a=b=657175616c7320696e20697473206e616d65,", "");
    assert!(expected.iter().any(|line| nameable(line) != *line));
    equal(&sorted(listed(&bundle.join("rootfs"))), &sorted(expected.iter().map(nameable).collect()));

    // The same again gives the same bytes, also when the layer was away meanwhile; a directory is never overwritten.
    assert!(fails(&server, &["checkpoint", "export", &id, layout.to_str().unwrap()]).contains("is there already"));
    std::fs::remove_dir_all(&bundle).unwrap();
    let archive = folder.path().join("image.tar");
    server.post(&format!("/checkpoints/{id}/evict"), json!({})).await.ok();
    export(&server, &id, &archive, &["--with-env", "--no-template"]);
    let again = folder.path().join("again");
    export(&server, &id, &again, &["--with-env", "--no-template"]);
    let same = |name: &str| std::fs::read(again.join(name)).unwrap();
    let index: Value = serde_json::from_slice(&same("index.json")).unwrap();
    let manifest_again = blob(&again, index["manifests"][0]["digest"].as_str().unwrap());
    assert_eq!(manifest_again["layers"][0], manifest["layers"][1], "the changes are the same bytes");
    let config = blob(&again, manifest_again["config"]["digest"].as_str().unwrap());
    let mut env: Vec<_> = config["config"]["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    env.retain(|one| one.starts_with("TOKEN=") || one.starts_with("PLACE="));
    assert_eq!(env, ["PLACE=here", "TOKEN=s3cret"]);
    // The archive on its own is what skopeo calls an oci-archive.
    let raw: Value =
        serde_json::from_str(&run("skopeo", &["inspect", "--raw", &format!("oci-archive:{}", archive.display())]))
            .unwrap();
    assert_eq!(raw, manifest_again);
    server.owns(&[("cgroups", 1), ("layers", 3)]).await;
}

#[tokio::test]
async fn a_name_that_images_cannot_hold_is_refused_and_nothing_is_written() {
    let server = Server::start().await;
    let sandbox = server.sandbox().await;
    server.sh(&sandbox, "echo 1 > .wh.hidden").await;
    let id = server.checkpoint(&sandbox, json!({ "name": "whiteout" })).await;
    let refused = server.get(&format!("/checkpoints/{id}/export")).await.refused(409, "not_portable");
    assert!(refused["message"].as_str().unwrap().contains("/workspace/.wh.hidden"), "{refused}");
    let folder = tempfile::tempdir().unwrap();
    fails(&server, &["checkpoint", "export", &id, folder.path().join("x").to_str().unwrap()]);
    fails(&server, &["checkpoint", "export", &id, folder.path().join("x.tar").to_str().unwrap()]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    server.get(&format!("/checkpoints/{id}/export?template=perhaps")).await.refused(400, "invalid_request");
    let other = server.register("Other").await;
    let path = format!("/checkpoints/{id}/export");
    server.call_as(&other, reqwest::Method::GET, &path, None).await.refused(404, "not_found");
}
