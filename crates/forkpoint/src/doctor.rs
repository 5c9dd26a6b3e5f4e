//! `forkpoint doctor`: what this host can do, what a data directory owns on it, and cleaning up.

use crate::{
    config::{self, Config},
    wire,
};
use anyhow::{Context, bail};
use forkpoint_engine::ports::records::Records;
use forkpoint_runtime::local::{self, Owned};
use serde::Serialize;
use std::{collections::BTreeSet, path::PathBuf, time::Duration};

/// Shows what the host lacks and what a data directory owns; removes orphans or everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data directory to look at [default: /var/lib/forkpoint]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Database that the server of this directory uses; without it, SQLite in the directory
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The server's settings file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Remove what nothing names any more
    #[arg(long, conflicts_with = "purge")]
    repair: bool,
    /// End and remove everything of the data directory: sandboxes, checkpoints, records, all of it
    #[arg(long)]
    purge: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    host: local::HostReport,
    owned: Owned,
    orphans: Vec<local::Orphan>,
    server: Server,
}

/// Whether a server works on the data directory.
#[derive(Debug, Serialize)]
struct Server {
    running: bool,
    pid: Option<u32>,
}

/// How long a running server's work in flight may look like an orphan.
const SECOND_LOOK: Duration = Duration::from_millis(1500);

/// Runs the doctor.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut flags = Vec::new();
    if let Some(data_dir) = &args.data_dir {
        flags.push(("data-dir", data_dir.to_str().context("--data-dir must be UTF-8")?.to_owned()));
    }
    if let Some(url) = &args.database_url {
        flags.push(("database-url", url.clone()));
    }
    let config = config::load(args.config.as_deref(), std::env::vars(), &flags)?;
    let data_dir = config.data_dir.clone();
    if args.purge || args.repair {
        if !data_dir.is_dir() {
            bail!("there is no data directory {}", data_dir.display());
        }
        let data_dir = data_dir.canonicalize()?;
        if args.purge {
            stop_server(&data_dir).await?;
            local::purge(&data_dir).await.context("purge")?;
        } else {
            repair(&config, &data_dir).await?;
        }
    }
    let report = look(&config).await?;
    if args.json {
        print(&serde_json::to_string(&report)?);
    } else {
        print(&render(&report));
    }
    if !report.host.problems().is_empty() {
        bail!("this host lacks what sandboxes need: {}", report.host.problems().join("; "));
    }
    Ok(())
}

async fn look(config: &Config) -> anyhow::Result<Report> {
    let data_dir = config.data_dir.canonicalize().unwrap_or_else(|_| config.data_dir.clone());
    let server = server_of(&data_dir)?;
    let mut orphans = find_orphans(config, &data_dir, server.running).await?;
    if server.running && !orphans.is_empty() {
        // A creation in flight has a group and a layer before it has a row.
        tokio::time::sleep(SECOND_LOOK).await;
        let again: BTreeSet<_> = find_orphans(config, &data_dir, server.running).await?.into_iter().collect();
        orphans.retain(|orphan| again.contains(orphan));
    }
    Ok(Report {
        host: local::probe(&data_dir, wire::layer_driver(config)).await,
        owned: local::owned(&data_dir).await?,
        orphans,
        server,
    })
}

async fn find_orphans(config: &Config, data_dir: &std::path::Path, live: bool) -> anyhow::Result<Vec<local::Orphan>> {
    // Without its database nothing can be said of layers; a server on PostgreSQL leaves no file here.
    let named = if config.database_url.is_some() || data_dir.join("forkpoint.db").exists() {
        let records = wire::open_records(config, data_dir).await?;
        Some(records.layers_in_use().await.context("list the layers in use")?.into_iter().collect())
    } else {
        None
    };
    Ok(local::orphans(data_dir, named, live).await?)
}

fn server_of(data_dir: &std::path::Path) -> anyhow::Result<Server> {
    if !data_dir.join("lock").exists() {
        return Ok(Server { running: false, pid: None });
    }
    let pid = wire::lock_holder(data_dir);
    let running = wire::is_locked(data_dir)?;
    Ok(Server { running, pid: pid.filter(|_| running) })
}

/// A running server repairs by itself; else this process does what a start would do.
async fn repair(config: &Config, data_dir: &std::path::Path) -> anyhow::Result<()> {
    let Some(_lock) = wire::lock(data_dir)? else {
        // Its reconcilers look every 15 seconds and collect every minute.
        return Ok(());
    };
    let parts = wire::open(&Config { slot_pool: 0, ..config.clone() }, data_dir).await?;
    parts.platform.recover().await;
    parts.platform.drain().await;
    drop(parts.platform);
    parts.runtime.close().await;
    Ok(())
}

/// Ends a server that works on the directory, so that it does not make anew what is removed.
async fn stop_server(data_dir: &std::path::Path) -> anyhow::Result<()> {
    let server = server_of(data_dir)?;
    let Some(pid) = server.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw) else {
        return Ok(());
    };
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("end the running server")?;
    for _ in 0..400 {
        if !wire::is_locked(data_dir)? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the server that works on {} did not end within 40 seconds", data_dir.display())
}

fn render(report: &Report) -> String {
    let mut text = String::from("Host\n");
    for check in report.host.checks() {
        text += &format!("  {} {:<22} {}\n", if check.good { "ok " } else { "NO " }, check.name, check.detail);
    }
    text += "\nOwned by this data directory\n";
    for (name, count) in report.owned.rows() {
        text += &format!("  {name:<12} {count}\n");
    }
    text += &format!(
        "\nServer: {}\n",
        match report.server.pid {
            Some(pid) => format!("running (process {pid})"),
            None => "stopped".into(),
        }
    );
    if report.orphans.is_empty() {
        text += "Orphans: none\n";
    } else {
        text += "Orphans (forkpoint doctor --repair removes them):\n";
        for orphan in &report.orphans {
            text += &format!("  {} {}\n", orphan.kind, orphan.name);
        }
    }
    text
}

#[allow(clippy::print_stdout)]
fn print(text: &str) {
    println!("{}", text.trim_end());
}
