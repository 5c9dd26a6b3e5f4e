//! The memory of a server while it stores a large checkpoint.

use super::{Stop, progress};
use crate::{
    client::Client,
    commands::{Failure, bench::spawn::Server},
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// How long writing so many bytes inside may take.
const WRITE_WITHIN_MS: u64 = 600_000;

/// The most memory that a server for this alone ever had, in MiB, after it stored a checkpoint of `bytes`.
pub(super) async fn measure(parent: &Path, bytes: u64, stop: &mut Stop) -> Result<f64, Failure> {
    progress("starting a server");
    let settings = [
        ("FORKPOINT_MAX_CHECKPOINT_BYTES", (bytes * 2).to_string()),
        ("FORKPOINT_SANDBOX_DISK_BYTES", (bytes * 2).to_string()),
    ];
    let (server, client) = Server::start_with(parent, &settings).await?;
    let measured = tokio::select! {
        measured = store(&server, &client, bytes) => measured,
        () = stop.wait() => Err(Failure::Other("interrupted".to_owned())),
    };
    server.stop().await?;
    measured
}

async fn store(server: &Server, client: &Client, bytes: u64) -> Result<f64, Failure> {
    let made = client.post("/sandbox/create", &json!({})).await?;
    let id = text(&made, "id")?;
    progress("writing the files of a large checkpoint");
    // Noise: nothing of it can be compressed away or met twice.
    let command = format!("head -c {bytes} /dev/urandom | split -b 256M - /workspace/part && sync");
    let body = json!({ "command": command, "timeout": WRITE_WITHIN_MS });
    let wrote = client.post(&format!("/sandbox/{id}/execute"), &body).await?;
    if wrote["exit_code"] != 0 {
        return Err(Failure::Other(format!("the files could not be written: {wrote}")));
    }
    progress("storing it");
    let made = client.post(&format!("/sandbox/{id}/checkpoints"), &json!({ "name": "large" })).await?;
    let path = format!("/checkpoints/{}", text(&made, "id")?);
    loop {
        let now = client.get(&path, &[]).await?;
        match now["durability"].as_str() {
            Some("verified") => break,
            Some("captured" | "durable") => tokio::time::sleep(Duration::from_millis(200)).await,
            _ => return Err(Failure::Other(format!("the checkpoint did not become durable: {now}"))),
        }
    }
    let pid = server.pid().ok_or_else(|| Failure::Other("the server ended".to_owned()))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(Failure::io("look at the server"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| Failure::Other("the kernel does not tell the server's memory".to_owned()))
}

fn text(object: &Value, field: &str) -> Result<String, Failure> {
    let found = object[field].as_str().map(str::to_owned);
    found.ok_or_else(|| Failure::Other(format!("the server's answer has no {field}: {object}")))
}
