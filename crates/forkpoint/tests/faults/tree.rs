//! A tree with everything in it that a checkpoint must keep, and how it is shown.

use crate::support::Server;
use serde_json::json;

/// Makes the tree as it is first: every kind of file, owner, mode, time, attribute and link.
const FIRST: &str = r##"
import os, random
noise = random.Random(7)
os.makedirs("/workspace/t/deep/er/est"); os.chdir("/workspace/t")
def put(name, data, mode=0o644, uid=1000, gid=1000, ns=1_600_000_000_123_456_789):
    with open(name, "wb") as file: file.write(data)
    os.chown(name, uid, gid); os.chmod(name, mode); os.utime(name, ns=(ns, ns))
put("big", noise.randbytes(300_000))
os.link("big", "deep/big too")
put("setuid", b"#!/bin/sh\n", 0o4755, 0, 0)
put("empty", b"", 0o000)
put("strange owner", b"x", 0o640, 12345, 54321, 1)
put(b"not utf-8 \xff\xfe", b"name", ns=4_000_000_000_000_000_001)
put("deep/er/est/file", b"below")
with open("sparse", "wb") as file: file.truncate(5_000_000); file.seek(4_000_000); file.write(b"far")
for number in range(150): put(f"deep/{number}", str(number).encode() * number)
os.setxattr("setuid", "user.note", b"\x00\x01 kept"); os.setxattr("deep", "user.folder", b"too")
os.symlink("big", "link"); os.symlink("/nowhere/at/all", "dangling"); os.lchown("dangling", 77, 78)
os.mkfifo("fifo", 0o622); os.mkdir("sticky"); os.chmod("sticky", 0o1777)
os.mkdir("replaced"); put("replaced/inside", b"goes")
os.mkdir("moved"); put("moved/along", b"stays"); put("gone", b"goes")
os.remove("/etc/issue"); os.rename("/usr/share/misc", "/usr/share/moved")
os.sync()
"##;

/// Changes it in every way that a layer can record.
const SECOND: &str = r##"
import os, shutil
os.chdir("/workspace/t")
with open("deep/big too", "ab") as file: file.write(b"more")
os.remove("gone"); shutil.rmtree("replaced")
with open("replaced", "w") as file: file.write("a file now")
os.rename("moved", "deep/moved"); os.chmod("empty", 0o600); os.removexattr("setuid", "user.note")
os.setxattr("big", "user.new", b"1"); os.chown("sticky", 5, 6); os.utime("deep/7", ns=(5, 5))
os.remove("link"); os.symlink("sparse", "link"); os.link("setuid", "setuid too")
for number in range(0, 150, 3): os.remove(f"deep/{number}")
os.rename("/usr/share/moved", "/usr/share/misc"); os.mkdir("/opt/second")
with open("/etc/issue", "w") as file: file.write("again\n")
os.sync()
"##;

/// Shows it: kind, mode, owners, times, size, content, attributes, targets, and which names are one file.
const SHOW: &str = r##"
import os, stat, hashlib
seen = {}
def show(path):
    at = os.lstat(path)
    line = [repr(path), oct(at.st_mode), at.st_uid, at.st_gid, at.st_mtime_ns]
    if stat.S_ISLNK(at.st_mode): line.append(os.readlink(path))
    if stat.S_ISREG(at.st_mode):
        line += [at.st_size, hashlib.sha1(open(path, "rb").read()).hexdigest(), seen.setdefault((at.st_dev, at.st_ino), path) if at.st_nlink > 1 else ""]
    if not stat.S_ISLNK(at.st_mode):
        line += sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))
    print(*line, sep="|")
    if stat.S_ISDIR(at.st_mode):
        for name in sorted(os.listdir(path)): show(os.path.join(path, name))
for top in (b"/workspace/t", b"/opt", b"/etc/issue", b"/usr/share/misc", b"/usr/share/moved"):
    if os.path.lexists(top): show(top)
"##;

async fn python(server: &Server, sandbox: &str, script: &str) -> String {
    let body = json!({ "command": ["python3", "-c", script], "user": "root", "working_dir": "/" });
    let result = server.exec_with(sandbox, body).await.ok();
    assert_eq!((&result["exit_code"], &result["output_truncated"]), (&json!(0), &json!(false)), "{result}");
    result["stdout"].as_str().unwrap().to_owned()
}

/// Makes the first tree in a fresh sandbox; gives what it shows.
pub(crate) async fn make_first(server: &Server, sandbox: &str) -> String {
    python(server, sandbox, FIRST).await;
    show(server, sandbox).await
}

/// Makes the second tree of the first; gives what it shows.
pub(crate) async fn make_second(server: &Server, sandbox: &str) -> String {
    python(server, sandbox, SECOND).await;
    show(server, sandbox).await
}

/// What the tree shows, one line an entry.
pub(crate) async fn show(server: &Server, sandbox: &str) -> String {
    python(server, sandbox, SHOW).await
}

/// Refuses two trees that differ, saying where.
#[track_caller]
pub(crate) fn same(found: &str, expected: &str, what: &str) {
    if found == expected {
        return;
    }
    let only = |one: &str, other: &str| {
        one.lines()
            .filter(|line| !other.lines().any(|same| same == *line))
            .take(8)
            .map(|line| format!("\n  {line}"))
            .collect::<String>()
    };
    panic!("{what}: found{}\nexpected{}", only(found, expected), only(expected, found));
}
