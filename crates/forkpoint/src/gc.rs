//! `forkpoint gc`: removes what may be removed now, by the server that works on the data directory or without one.

use crate::{
    config::{self, Config},
    control::{self, Removed},
    wire,
};
use anyhow::{Context, bail};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Removes what may go now: what stopped sandboxes and checkpoints left whose retention is over, layers that nothing
/// names, versions of templates that nothing needs, unfinished imports and stale caches.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data directory to clean [default: /var/lib/forkpoint]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Database that the server of this directory uses; without it, SQLite in the directory
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The server's settings file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Collects, and prints what went.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut flags = Vec::new();
    if let Some(data_dir) = &args.data_dir {
        flags.push(("data-dir", data_dir.to_str().context("--data-dir must be UTF-8")?.to_owned()));
    }
    if let Some(url) = &args.database_url {
        flags.push(("database-url", url.clone()));
    }
    let config = config::load(args.config.as_deref(), std::env::vars(), &flags)?;
    if !config.data_dir.join("id").exists() {
        bail!("{} is no data directory that a server has worked on", config.data_dir.display());
    }
    let data_dir = config.data_dir.canonicalize().context("find data directory")?;
    let removed = match wire::lock(&data_dir)? {
        None => control::ask_to_collect(&data_dir, args.dry_run).await?,
        Some(_lock) => collect_alone(&config, &data_dir, args.dry_run).await?,
    };
    if args.json {
        print(&json!({ "dry_run": args.dry_run, "removed": removed }).to_string());
    } else {
        print(&render(&removed, args.dry_run));
    }
    Ok(())
}

/// Without a server, this process does what one would.
async fn collect_alone(config: &Config, data_dir: &Path, dry_run: bool) -> anyhow::Result<Vec<Removed>> {
    let parts = wire::open(&Config { slot_pool: 0, ..config.clone() }, data_dir).await?;
    let collected = parts.platform.collect_now(dry_run).await;
    parts.platform.drain().await;
    drop(parts.platform);
    parts.runtime.close().await;
    Ok(collected?.into_iter().map(Removed::from).collect())
}

fn render(removed: &[Removed], dry_run: bool) -> String {
    let mut text = String::new();
    for one in removed {
        text += &format!("{:<20} {:>15} bytes  {}\n", one.kind, one.bytes, one.name);
    }
    let bytes: u64 = removed.iter().map(|one| one.bytes).sum();
    let did = if dry_run { "would remove" } else { "removed" };
    text + &format!("{did} {} things with {bytes} bytes (what they share with others counted too)", removed.len())
}

#[allow(clippy::print_stdout)]
fn print(text: &str) {
    println!("{text}");
}
