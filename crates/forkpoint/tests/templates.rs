//! Templates end to end: images made by the usual tools and imported beside a running server, checkpoints published,
//! who sees what, and what removing refuses.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};
use support::Server;

fn forkpoint(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forkpoint")).args(arguments).env_remove("FORKPOINT_KEY").output().unwrap()
}

#[track_caller]
fn import(server: &Server, name: &str, source: &Path, more: &[&str]) -> Value {
    let data_dir = server.data_dir();
    let mut arguments =
        vec!["template", "import", name, source.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap(), "--json"];
    arguments.extend(more);
    let output = forkpoint(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn run(directory: &Path, command: &str) -> String {
    let output =
        Command::new("bash").args(["-euo", "pipefail", "-c", command]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A small Debian root as a tar archive, made by mmdebstrap from the host's own package sources. Kept between runs:
/// making one takes minutes on a slow line.
fn debian() -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let archive = kept.join("debian-minbase.tar");
    if !archive.exists() {
        let sources = "$(ls /etc/apt/sources.list 2>/dev/null || ls /etc/apt/sources.list.d/*.sources | head -1)";
        let options = "--variant=minbase --quiet --aptopt='Acquire::Languages \"none\"'";
        run(kept, &format!("mmdebstrap {options} '' debian-minbase.new.tar {sources} 2>&1"));
        std::fs::rename(kept.join("debian-minbase.new.tar"), &archive).unwrap();
    }
    archive
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_image_is_imported_in_every_form_run_and_checkpointed() {
    let folder = tempfile::tempdir().unwrap();
    let tar = debian();
    let root = tar.display();
    run(
        folder.path(),
        &format!(
            "umoci init --layout img; umoci new --image img:latest; umoci unpack --image img:latest bundle
             tar -C bundle/rootfs -xf {root} --exclude='./dev/*'; umoci repack --image img:latest bundle
             mkdir extra; echo second > extra/layer; umoci insert --image img:latest extra /opt/extra
             umoci insert --image img:latest --whiteout /usr/share/doc
             umoci config --image img:latest --config.env GREETING=hello --config.env PATH=/opt/extra:/usr/bin:/bin
             skopeo --insecure-policy copy --quiet oci:img:latest docker-archive:docker.tar:example.invalid/team/tool:1"
        ),
    );
    let server = Server::start().await;
    let forms = [
        ("from-tar", tar.clone()),
        ("from-oci", folder.path().join("img")),
        ("from-docker", folder.path().join("docker.tar")),
    ];
    for (name, source) in forms {
        let imported = import(&server, name, &source, &["--description", "A Debian", "--category", "os"]);
        eprintln!("{name}: {imported}");
        let shown = server.get(&format!("/templates/{name}")).await.ok();
        assert_eq!((&shown["digest"], &shown["owner"]), (&imported["digest"], &json!("operator")));
        assert_eq!((&shown["category"], &shown["release"]), (&json!("os"), &imported["release"]));

        let sb = server.sandbox_with(json!({ "template": name })).await;
        assert_eq!(server.sh(&sb, "id -un; pwd; . /etc/os-release; echo $ID").await, "sandbox\n/workspace\ndebian\n");
        assert_eq!(server.root(&sb, "dpkg --print-architecture >/dev/null && id -u").await, "0\n");
        if name != "from-tar" {
            assert_eq!(server.sh(&sb, "echo $GREETING; cat /opt/extra/layer; ls -d /usr/share/doc 2>&1 | wc -l; ls /usr/share/doc 2>/dev/null | wc -l").await, "hello\nsecond\n1\n0\n");
            let other = server.sandbox_with(json!({ "template": name, "env": { "GREETING": "other" } })).await;
            assert_eq!(server.sh(&other, "echo $GREETING").await, "other\n");
        }
        let checkpoint = server.post(&format!("/sandbox/{sb}/checkpoints"), json!({ "name": "c" })).await.ok();
        assert_eq!(checkpoint["file_count"], 0, "a fresh sandbox has no changes: {checkpoint}");
        server.sh(&sb, "echo kept > f").await;
        let kept = server.checkpoint(&sb, json!({ "name": "kept" })).await;
        server.sh(&sb, "echo lost > f").await;
        server.restore(&sb, &kept).await;
        assert_eq!(server.sh(&sb, "cat f").await, "kept\n");
        let fork = server.sandbox_with(json!({ "checkpoint_id": kept })).await;
        assert_eq!(server.sh(&fork, "cat f").await, "kept\n");
    }
}

/// Everything outside the kernel's own trees: types, modes, owners, sizes, times, targets, and contents.
const LISTING: &str = "cd /; find bin etc workspace app home opt srv srv2 usr var -xdev \
    \\( -path etc/hosts -o -path etc/hostname -o -path etc/resolv.conf -o -path etc/machine-id \\) -prune -o \
    -printf '%p %y %m %U:%G ' \\( -type d -printf '\\n' -o -printf '%s %T@ %l\\n' \\) 2>/dev/null | sort; \
    find etc workspace opt srv2 -xdev -type f ! -name machine-id ! -name hostname ! -name hosts ! -name resolv.conf \
    -print0 2>/dev/null | sort -z | xargs -0 md5sum";

#[tokio::test(flavor = "multi_thread")]
async fn a_published_checkpoint_equals_what_was_captured_and_outlives_it() {
    let mut server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "TOKEN": "s3cret" } })).await;
    server
        .sh(&sb, "mkdir -p d/e && echo one > a && ln a hard && ln -s a link && mkfifo pipe && chmod 751 d && touch -d 2001-02-03 old && printf x > $'odd\\nname'")
        .await;
    // Renamed, removed and replaced directories of the template, and a file of which only the mode is new.
    server
        .root(&sb, "mv /srv /srv2; mv /usr/share/perl5 /opt/moved; rm -rf /usr/share/bug; rm -rf /usr/share/base-files; mkdir /usr/share/base-files; touch /usr/share/base-files/own; chmod 700 /etc/profile; truncate -s 1G /opt/sparse; chmod u+s /opt/sparse")
        .await;
    let before = server.root(&sb, LISTING).await.replace("opt/sparse f 4644", "opt/sparse f 644");
    let checkpoint = server.checkpoint(&sb, json!({ "name": "prepared" })).await;
    let started = std::time::Instant::now();
    let published = server
        .post(&format!("/checkpoints/{checkpoint}/publish"), json!({ "name": "prepared", "description": "With tools" }))
        .await
        .ok();
    eprintln!("published {} files in {:?}", published["file_count"], started.elapsed());
    assert_eq!(
        (&published["owner"], &published["origin"]),
        (&json!("organization"), &json!(format!("checkpoint {checkpoint}")))
    );
    let root = server.data_dir().join("templates/prepared").join(published["digest"].as_str().unwrap());
    assert!(!std::fs::read_to_string(root.join("template.json")).unwrap().contains("s3cret"));
    let disk = run(&root, "du -s --block-size=1M rootfs/opt | cut -f1");
    assert!(disk.trim().parse::<u64>().unwrap() < 200, "holes were filled: {disk} MB");

    server.delete(&format!("/checkpoints/{checkpoint}")).await.ok();
    server.delete(&format!("/sandbox/{sb}")).await.ok();
    server.kill();
    server.launch().await;
    let made = server.post("/sandbox/create-from-template", json!({ "template_id": "prepared" })).await.ok();
    let sb = made["id"].as_str().unwrap();
    assert_eq!(server.root(sb, LISTING).await, before);
    assert_eq!(server.sh(sb, "echo $TOKEN; cat a hard; stat -c %h a").await, "s3cret\none\none\n2\n");
    let fresh = server
        .post(&format!("/sandbox/{sb}/checkpoints"), json!({ "name": "diff", "exclude_paths": ["/workspace"] }))
        .await
        .ok();
    assert_eq!(fresh["file_count"], 0, "{fresh}");

    let stranger = server.register("Strangers").await;
    let theirs = server.call_as(&stranger, reqwest::Method::GET, "/templates", None).await.ok();
    assert!(!theirs.to_string().contains("prepared"), "{theirs}");
    let body = json!({ "template_id": "prepared" });
    let refused = server.call_as(&stranger, reqwest::Method::POST, "/sandbox/create-from-template", Some(body)).await;
    refused.refused(400, "invalid_request");
    server.delete("/templates/prepared").await.refused(409, "template_in_use");
    server.delete(&format!("/checkpoints/{}", fresh["id"].as_str().unwrap())).await.ok();
    server.delete(&format!("/sandbox/{sb}")).await.ok();
    server.delete("/templates/prepared").await.ok();
    assert!(!root.exists());
    server.get("/templates/prepared").await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_removes_what_nothing_lies_on_while_no_server_works() {
    let folder = tempfile::tempdir().unwrap();
    run(
        folder.path(),
        "mkdir -p root/etc root/usr/bin && echo hello > root/etc/motd && cp -L /bin/busybox root/usr/bin/ 2>/dev/null || true",
    );
    let mut server = Server::start().await;
    import(&server, "mini", &folder.path().join("root"), &["--tag", "small"]);
    let mini = server.get("/templates?search=small").await.ok();
    assert_eq!(mini["templates"].as_array().unwrap().len(), 1, "{mini}");
    let sb = server.sandbox_with(json!({ "template": "mini" })).await;
    let content = server.get(&format!("/sandbox/{sb}/files/raw?path=/etc/motd")).await.ok();
    assert_eq!(content, "hello\n");
    // Another tenant's key cannot remove what is the operator's.
    server.delete("/templates/mini").await.refused(409, "template_of_operator");

    let data_dir = server.data_dir();
    let remove = |name: &str| forkpoint(&["template", "rm", name, "--data-dir", data_dir.to_str().unwrap()]);
    let told = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let running = remove("mini");
    assert!(!running.status.success() && told(&running).contains("a server works on"), "{}", told(&running));
    server.stop();
    let used = remove("mini");
    assert!(!used.status.success() && told(&used).contains(&format!("in use by sandbox {sb}")), "{}", told(&used));
    server.launch().await;
    server.delete(&format!("/sandbox/{sb}")).await.ok();
    server.stop();
    let removed = remove("mini");
    assert!(removed.status.success(), "{}", told(&removed));
    let kept = remove("default");
    assert!(kept.status.success() && kept.stdout.is_empty(), "{}", told(&kept));
    assert!(!remove("mini").status.success());
    server.launch().await;
    server.get("/templates/mini").await.refused(404, "not_found");
    server.sandbox().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_leaves_nothing_once_somebody_looks() {
    let folder = tempfile::tempdir().unwrap();
    run(
        folder.path(),
        "mkdir -p root/etc && for n in $(seq 3000); do echo $n; done | (cd root && xargs -n 500 touch) && tar -cf a.tar -C root .",
    );
    let mut server = Server::start().await;
    let data_dir = server.data_dir();
    let target = data_dir.join("templates/killed");
    let mut child = Command::new(env!("CARGO_BIN_EXE_forkpoint"))
        .args(["template", "import", "killed"])
        .arg(folder.path().join("a.tar"))
        .arg("--data-dir")
        .arg(&data_dir)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun =
        || std::fs::read_dir(&target).is_ok_and(|mut entries| entries.any(|entry| entry.unwrap().path().is_dir()));
    while !begun() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        tokio::task::yield_now().await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    server.get("/templates/killed").await.refused(404, "not_found");
    server.stop();
    server.launch().await;
    let left: Vec<_> = std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"]);
    import(&server, "killed", &folder.path().join("a.tar"), &[]);
    server.get("/templates/killed").await.ok();
}
