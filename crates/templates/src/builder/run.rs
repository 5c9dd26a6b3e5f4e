//! The mmdebstrap process: started so that it never outlives its builder, read line by line, stoppable.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::output::Output;
use crate::progress::{Cancel, Reporter};
use crate::recipe::{DPKG_OPTIONS, Recipe};
use crate::sources::{HostApt, Selection};
use crate::{Error, Result};

/// mmdebstrap runs as the first process of a pid namespace that dies with `unshare`, which dies with the
/// thread that started it: a kill -9 of the builder leaves no process and, since the mount namespace goes
/// too, no mount. The umask is the usual one, whatever the server's.
const GUARD: &str = "umask 022; exec setpriv --pdeathsig KILL -- \
    unshare --mount --pid --fork --kill-child --mount-proc -- \"$@\" 2>&1";

/// The environment that gets through: how to reach archives.
const PASSED: &[&str] = &["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// Longest line of output that is looked at; the rest of a longer one counts as another line.
const LINE_LIMIT: usize = 64 * 1024;

pub(super) fn mmdebstrap(
    recipe: &Recipe,
    selection: &Selection,
    staging: &Path,
    root: &Path,
    log: &Path,
    cancel: &Cancel,
    reporter: &mut Reporter<'_>,
) -> Result<()> {
    let sources = staging.join("build.sources");
    let customize = staging.join("customize.sh");
    fs::write(&sources, selection.for_build()).map_err(Error::io("write", &sources))?;
    fs::write(&customize, recipe.customize).map_err(Error::io("write", &customize))?;

    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "sh", "mmdebstrap"]);
    command.args(["--mode=root", "--variant=apt", "--format=directory", "--verbose"]);
    command.arg(format!("--include={}", recipe.packages.join(",")));
    command.arg("--aptopt=Acquire::Languages \"none\"");
    for setting in HostApt::transport() {
        command.arg(format!("--aptopt={}", setting.trim_end_matches(';')));
    }
    for option in DPKG_OPTIONS {
        command.arg(format!("--dpkgopt={option}"));
    }
    command.arg("--customize-hook=sh \"$FORKPOINT_CUSTOMIZE\" \"$1\"");
    // An empty suite: the sources file says all.
    command.arg("").arg(root).arg(&sources);
    command.env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").env("HOME", "/root");
    command.env("FORKPOINT_CUSTOMIZE", &customize);
    for (name, value) in std::env::vars_os() {
        if PASSED.contains(&name.to_string_lossy().to_ascii_lowercase().as_str()) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    check_installed()?;

    let mut child = command.spawn().map_err(Error::io("start", "sh"))?;
    let mut output = Output::new();
    let read = follow(&mut child, &mut output, log, cancel, reporter);
    let status = child.wait().map_err(Error::io("wait for", "mmdebstrap"))?;
    read?;
    if status.success() {
        return Ok(());
    }
    if output.says_full() {
        let source = std::io::ErrorKind::StorageFull.into();
        return Err(Error::Io { action: "build", path: staging.to_path_buf(), source });
    }
    let reason = format!("mmdebstrap ended with {status}: {}", output.failure());
    Err(Error::Build { name: recipe.name.clone(), reason, log: log.to_path_buf() })
}

fn check_installed() -> Result<()> {
    let programs =
        [("mmdebstrap", "mmdebstrap"), ("unshare", "util-linux"), ("setpriv", "util-linux"), ("apt-get", "apt")];
    for (program, package) in programs {
        let found = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"]
            .iter()
            .any(|directory| Path::new(directory).join(program).exists());
        if !found {
            return Err(Error::MissingProgram { program, package });
        }
    }
    Ok(())
}

/// Reads the output to its end, into `log` and `output`; kills the process if it is not to go on.
fn follow(
    child: &mut Child,
    output: &mut Output,
    log: &Path,
    cancel: &Cancel,
    reporter: &mut Reporter<'_>,
) -> Result<()> {
    let mut log_file = File::create(log).map_err(Error::io("create", log))?;
    let Some(pipe) = child.stdout.take() else {
        return Ok(());
    };
    let (sender, lines) = mpsc::sync_channel::<Vec<u8>>(64);
    let reader = std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            let limited = &mut std::io::Read::take(&mut pipe, LINE_LIMIT as u64);
            match limited.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            }
        }
    });
    let mut place = output.line("");
    let result = loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                if let Err(source) = log_file.write_all(&line) {
                    break Err(Error::Io { action: "write", path: log.to_path_buf(), source });
                }
                place = output.line(&String::from_utf8_lossy(&line));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break Ok(()),
        }
        if let Err(error) = cancel.check().and_then(|()| reporter.report(place.0, place.1)) {
            break Err(error);
        }
    };
    if result.is_err() {
        // Ends `unshare`, and by it everything in its pid namespace; it may have ended by itself.
        let _ = child.kill();
    }
    // The pipe's end tells that the last of them is gone, and nothing writes to the tree any more.
    lines.iter().for_each(drop);
    let _ = reader.join();
    result
}
