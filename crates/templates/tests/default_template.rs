//! The real default template: from the cache if the host has it, else built (a minute, and network).

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use forkpoint_templates::{Stage, Template, TemplateStore};

const CACHE: &str = "/var/cache/forkpoint";

fn template(data: &Path) -> (Template, Vec<Stage>) {
    let cache = std::env::var_os("FORKPOINT_TEMPLATE_CACHE").map_or_else(|| PathBuf::from(CACHE), PathBuf::from);
    let store = TemplateStore::open(data, &cache).unwrap();
    let mut stages = Vec::new();
    let template = store
        .ensure_default(&mut |progress| {
            eprintln!("{progress}");
            if stages.last() != Some(&progress.stage) {
                stages.push(progress.stage);
            }
        })
        .unwrap();
    (template, stages)
}

/// Runs a shell command in the root, as its user `sandbox` with the environment of /etc/environment, in
/// mount and pid namespaces of its own; an overlay over the root takes what it writes.
fn run(root: &Path, scratch: &Path, user: &str, command: &str) -> String {
    let home = if user == "0" { "/root" } else { "/home/sandbox" };
    let script = format!(
        "set -e; mount -t tmpfs none {scratch}; mkdir {scratch}/u {scratch}/w {scratch}/m; \
         mount -t overlay none -o lowerdir={root},upperdir={scratch}/u,workdir={scratch}/w {scratch}/m; \
         mount -t proc proc {scratch}/m/proc; mount --bind /dev {scratch}/m/dev; \
         set -a; . {root}/etc/environment; HOME={home}; set +a; \
         exec chroot --userspec={user}:{user} --groups= {scratch}/m /bin/bash -c \"$1\"",
        root = root.display(),
        scratch = scratch.display(),
    );
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c", &script, "sh", command])
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "{command}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn the_default_template_holds_the_promised_tools_and_user() {
    let data = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let (template, stages) = template(data.path());
    assert_eq!(stages.last(), Some(&Stage::Ready));
    assert!(template.root.ends_with(format!("templates/default/{}/rootfs", template.digest)));
    let root = &template.root;
    let run = |user: &str, command: &str| run(root, scratch.path(), user, command);

    let seen =
        run("1000", "id -un; id -gn; echo $HOME; stat -c %U /workspace /app ~; touch /workspace/x /app/x ~/x; echo ok");
    assert_eq!(seen, "sandbox\nsandbox\n/home/sandbox\nsandbox\nsandbox\nsandbox\nok");
    let versions = run(
        "1000",
        "set -e; python3 --version; python --version; pip --version; node --version; npm --version; git --version; \
         curl --version | head -1; ps --version; jq --version; xz --version | head -1; ip -V; make --version | head -1",
    );
    eprintln!("{versions}");
    assert_eq!(run("1000", "python -c 'import ssl, sqlite3, json; print(json.dumps({\"a\": 1}))'"), "{\"a\": 1}");
    assert_eq!(run("1000", "node -e 'console.log(1 + 1)'"), "2");
    assert_eq!(run("1000", "npm prefix -g"), "/home/sandbox/.npm-global");
    assert_eq!(run("1000", "cd /workspace && git init -q . && git status --short --branch | wc -l"), "1");
    for shell in ["bash -c", "bash -lc"] {
        let path = run("1000", &format!("{shell} 'echo $PATH'"));
        for wanted in ["/home/sandbox/.local/bin", "/home/sandbox/.npm-global/bin", "/usr/local/bin", "/usr/sbin"] {
            assert!(path.split(':').any(|directory| directory == wanted), "{shell}: {path} lacks {wanted}");
        }
    }
    // A package made on the spot: no network, but all of pip's own checks.
    let pip = "set -e; mkdir -p /workspace/p/forkpoint_probe; cd /workspace/p; \
        printf 'from setuptools import setup\\nsetup(name=\"forkpoint-probe\", version=\"1\", packages=[\"forkpoint_probe\"], \
        entry_points={\"console_scripts\": [\"probe=forkpoint_probe:main\"]})\\n' >setup.py; \
        printf 'def main(): print(\"installed\")\\n' >forkpoint_probe/__init__.py; \
        pip install --quiet --no-index --no-build-isolation . >&2; cd /; probe; command -v probe";
    assert_eq!(run("1000", pip), "installed\n/home/sandbox/.local/bin/probe");
    let venv = "set -e; cd /workspace; python -m venv v; v/bin/python -c 'import sys; print(sys.prefix)'; v/bin/pip list --format=freeze | grep -c pip=";
    assert_eq!(run("1000", venv), "/workspace/v\n1");
    assert_eq!(run("0", "apt-get check >/dev/null && dpkg --audit | wc -l"), "0");
    let indexes = run("0", "apt-get update --print-uris | grep -c InRelease");
    assert!(indexes.parse::<u32>().unwrap() > 0, "apt inside has no sources");
}

#[test]
fn the_default_template_holds_nothing_of_the_host_and_nothing_privileged() {
    let data = tempfile::tempdir().unwrap();
    let (template, _) = template(data.path());
    let root = &template.root;
    for (file, text) in [("hostname", "sandbox\n"), ("machine-id", ""), ("resolv.conf", "")] {
        assert_eq!(fs::read_to_string(root.join("etc").join(file)).unwrap(), text, "{file}");
        assert!(fs::symlink_metadata(root.join("etc").join(file)).unwrap().is_file());
    }
    assert!(fs::read_to_string(root.join("etc/hosts")).unwrap().contains("localhost"));
    for empty in ["dev", "proc", "sys", "run", "tmp"] {
        assert_eq!(fs::read_dir(root.join(empty)).unwrap().count(), 0, "/{empty} is not empty");
    }
    for entry in fs::read_dir(root.join("etc/apt/apt.conf.d")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap().to_lowercase();
        assert!(!text.contains("proxy") && !text.contains("mmdebstrap"), "{}", path.display());
    }
    let (mut files, mut directories) = (0, 0);
    walk(root, &mut |path, meta| {
        let kind = meta.file_type();
        assert!(!kind.is_block_device() && !kind.is_char_device() && !kind.is_socket(), "{}", path.display());
        assert!(!kind.is_file() || meta.mode() & 0o6000 == 0, "{} is privileged", path.display());
        assert!(meta.uid() == 0 || meta.uid() == 1000 || path.starts_with(root.join("var")), "{}", path.display());
        if kind.is_dir() { directories += 1 } else { files += 1 }
    });
    assert_eq!((files, directories + 1), (template.manifest.files, template.manifest.directories));
    let megabytes = template.manifest.bytes / 1_000_000;
    eprintln!("{files} files, {directories} directories, {megabytes} MB");
    assert!(megabytes < 650, "{megabytes} MB");
}

#[test]
fn a_cached_template_is_placed_within_moments_and_found_again_at_once() {
    let data = tempfile::tempdir_in("/var/cache").unwrap();
    // Fills the cache if it is empty, which takes its time.
    let warm = tempfile::tempdir_in("/var/cache").unwrap();
    template(warm.path());
    let started = Instant::now();
    let (first, stages) = template(data.path());
    let placing = started.elapsed();
    assert_eq!(stages, [Stage::Placing, Stage::Ready]);
    let started = Instant::now();
    let (again, stages) = template(data.path());
    let finding = started.elapsed();
    assert_eq!((again, stages.as_slice()), (first, [Stage::Ready].as_slice()));
    eprintln!("placed in {placing:?}, found again in {finding:?}");
    assert!(finding.as_millis() < 500, "{finding:?}");
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        visit(&entry.path(), &meta);
        if meta.is_dir() {
            walk(&entry.path(), visit);
        }
    }
}
