//! Programs that people use work behind the filter, in a sandbox on this host's own tree.

use std::fs;
use std::path::Path;

use forkpoint_jail::Limits;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::sandbox::{Bed, LIMITS};

/// A sandbox whose template is the host's root.
///
/// A layer may not lie within the template on the same filesystem, so this one lies on a tmpfs of its own.
struct OnHost {
    bed: Option<Bed>,
    mounted: std::path::PathBuf,
}

impl OnHost {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mounted = directory.path().to_owned();
        mount("layer", &mounted, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"size=256m")).unwrap();
        let limits = Limits { memory_bytes: 2 << 30, pids: 512, ..LIMITS };
        Self { bed: Some(Bed::on(directory, Path::new("/"), limits)), mounted }
    }

    /// Output and exit of a shell command.
    fn shell(&mut self, command: &str) -> (String, String) {
        let bed = self.bed.as_mut().unwrap();
        bed.complete(&["run", "/bin/sh", "-ec", command]);
        (bed.read("out"), bed.read("code"))
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        let bed = self.bed.as_ref().unwrap();
        bed.cgroups.remove_instance(&bed.instance).unwrap();
        unmount(&self.mounted, UnmountFlags::DETACH).unwrap();
        self.bed = None;
    }
}

/// Runs the command where the host has the program.
fn works(program: &str, command: &str, expected: &str) {
    let path = ["/usr/local/bin", "/usr/bin", "/bin"].map(|directory| Path::new(directory).join(program));
    if !path.iter().any(|path| fs::metadata(path).is_ok()) {
        return;
    }
    let (out, code) = OnHost::new().shell(command);
    assert!(out.contains(expected), "{command}\n{out}");
    assert_eq!(code, "exit status: 0", "{command}\n{out}");
}

#[test]
fn python_computes_forks_threads_and_talks_to_itself() {
    let script = "
import os, socket, subprocess, threading, multiprocessing, tempfile, ssl, mmap, select, signal, asyncio, resource
print(subprocess.check_output(['echo', 'sub']).decode().strip())
with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2]))
thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()
a, b = socket.socketpair(); a.send(b'pair'); print(b.recv(4))
async def main():
    process = await asyncio.create_subprocess_exec('true'); return await process.wait()
print(asyncio.run(main()))
master, slave = os.openpty(); print(os.ttyname(slave).startswith('/dev/pts/'))
os.setuid(1000); print(os.getuid())
";
    works("python3", &format!("python3 -c \"{script}\""), "sub\n[1, 2]\nthread\nb'pair'\n0\nTrue\n1000\n");
}

#[test]
fn node_runs_with_its_threads_and_children() {
    let script = "require('child_process').execSync('true'); require('fs').readFile('/etc/passwd', () => \
                  new (require('worker_threads').Worker)('console.log(\\\"worker\\\")', {eval: true}))";
    works("node", &format!("node -e \"{script}\""), "worker");
    works("npm", "cd /tmp && mkdir p && cd p && npm init -y >/dev/null && npm pkg get name", "\"p\"");
}

#[test]
fn git_commits_and_clones() {
    let command = "cd /tmp && git init -q a && cd a && echo x > f && git add f && \
                   git -c user.name=n -c user.email=e commit -qm first && git clone -q /tmp/a /tmp/b && \
                   git -C /tmp/b log --format=%s && git -C /tmp/b fsck";
    works("git", command, "first");
}

#[test]
fn a_compiler_builds_a_program_that_runs() {
    let source = "#include <stdio.h>\\nint main(void) { puts(\\\"built\\\"); return 0; }\\n";
    works("gcc", &format!("cd /tmp && printf \"{source}\" > a.c && gcc -o a a.c && ./a"), "built");
}

#[test]
fn package_and_system_tools_work() {
    works(
        "dpkg",
        "dpkg-query -W -f '${Status}' dpkg && mkdir /tmp/d && cd /tmp/d && tar cf t /etc/passwd && \
           tar xf t && chown 1000:1000 t && ps aux && df / && stat / && id",
        "install ok installed",
    );
    works("ip", "ip address show lo && ss -tln", "lo");
}
