//! Runs `nft` in the calling thread's network namespace.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::error::{Error, Result};

/// Loads rules as one transaction: all of them, or none.
pub(crate) fn load(place: &'static str, rules: &str) -> Result<()> {
    let output = run(place, &["-f", "-"], rules)?;
    if output.status.success() { Ok(()) } else { Err(refused(place, &output)) }
}

/// How many rules the table `inet <table>` has; `None` if there is no such table.
pub(crate) fn count_rules(place: &'static str, table: &str) -> Result<Option<usize>> {
    let output = run(place, &["--json", "--terse", "list", "table", "inet", table], "")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return if said.contains("No such file") { Ok(None) } else { Err(refused(place, &output)) };
    }
    let unreadable = |reason: String| Error::Rules { place, reason };
    let listing: Value = serde_json::from_slice(&output.stdout).map_err(|error| unreadable(error.to_string()))?;
    let objects = listing["nftables"].as_array().ok_or_else(|| unreadable("no list in nft's answer".into()))?;
    Ok(Some(objects.iter().filter(|object| object.get("rule").is_some()).count()))
}

/// The chains of other programs that drop forwarded packets unless a rule of theirs accepts them, as
/// `family table chain`.
pub(crate) fn foreign_forward_drops() -> Result<Vec<String>> {
    let output = run("the host", &["--json", "list", "chains"], "")?;
    let listing: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let chains = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(chains
        .iter()
        .map(|object| &object["chain"])
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop")
        .filter(|chain| chain["family"] != "ip6" && chain["family"] != "bridge")
        .map(|chain| {
            let text = |key: &str| chain[key].as_str().unwrap_or("?").to_owned();
            format!("{} {} {}", text("family"), text("table"), text("name"))
        })
        .filter(|name| !name.starts_with("inet forkpoint"))
        .collect())
}

/// What `nft --version` says.
pub(crate) fn version() -> Result<String> {
    let output = run("the host", &["--version"], "")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn run(place: &'static str, arguments: &[&str], input: &str) -> Result<Output> {
    let failed = |source: std::io::Error| Error::Rules {
        place,
        reason: match source.kind() {
            std::io::ErrorKind::NotFound => "nft was not found; install the package nftables".into(),
            _ => format!("nft could not be run: {source}"),
        },
    };
    let mut child = Command::new("nft")
        .args(arguments)
        .env("PATH", search_path())
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft that ends before reading everything says on standard error why; that is reported below.
        match stdin.write_all(input.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(failed(error));
            }
            _ => {}
        }
    }
    child.wait_with_output().map_err(failed)
}

/// The places for administrators' programs are not on everyone's path.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

fn refused(place: &'static str, output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let reason: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).take(3).collect();
    Error::Rules { place, reason: format!("nft answered {}: {}", output.status, reason.join(" / ")) }
}
