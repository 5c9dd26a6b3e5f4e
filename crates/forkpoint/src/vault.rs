//! `forkpoint vault`: the operator's view of durable checkpoint data. Runs beside a live server.

mod rebuild;
mod repair;

use crate::{
    config::{self, Config},
    wire,
};
use anyhow::{Context, bail};
use forkpoint_vault::{CollectOptions, MasterKey, Progress, Vault};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Checks, measures and cleans the vault.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Read the vault's structure, and part of its data; fail naming what is damaged or missing
    Check {
        /// How much of the data is read through, in percent
        #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
        read_data: u8,
        #[command(flatten)]
        place: Place,
    },
    /// Count what the vault holds
    Stats {
        #[command(flatten)]
        place: Place,
    },
    /// Remove bytes that no checkpoint needs
    Gc {
        #[command(flatten)]
        place: Place,
    },
    /// Put damaged objects aside and let the server store anew what it has the layers of; fail naming what is lost
    Repair {
        /// How long to wait for a running server to store it, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        wait: u64,
        #[command(flatten)]
        place: Place,
    },
    /// After the database was lost: make the rows of checkpoints again from what the vault tells of them
    Rebuild {
        #[command(flatten)]
        place: Place,
    },
}

/// Which vault.
#[derive(Debug, clap::Args)]
struct Place {
    /// Data directory of the server [default: /var/lib/forkpoint]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The server's settings file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Database of the server, if it is not in the data directory
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

impl Place {
    /// The settings and the data directory.
    fn find(&self) -> anyhow::Result<(Config, PathBuf)> {
        let mut flags = Vec::new();
        if let Some(data_dir) = &self.data_dir {
            flags.push(("data-dir", data_dir.to_str().context("--data-dir must be UTF-8")?.to_owned()));
        }
        if let Some(url) = &self.database_url {
            flags.push(("database-url", url.clone()));
        }
        let config: Config = config::load(self.config.as_deref(), std::env::vars(), &flags)?;
        let data_dir = config.data_dir.canonicalize().context("find data directory")?;
        Ok((config, data_dir))
    }

    async fn open(&self) -> anyhow::Result<Vault> {
        let (config, data_dir) = self.find()?;
        let master = MasterKey::open(&data_dir.join("keys").join("master.key")).context("master key")?;
        wire::open_vault(&config, &data_dir, master).await?.context("this server has no vault (setting vault is off)")
    }
}

/// Opens the vault of a server's data directory, as its settings name it.
pub(crate) async fn open(data_dir: &Path) -> anyhow::Result<Vault> {
    Place { data_dir: Some(data_dir.to_owned()), config: None, database_url: None }.open().await
}

/// Runs a vault command.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    crate::serve::arm_failpoint()?;
    match args.command {
        Command::Check { read_data, place } => {
            let vault = place.open().await?;
            let report = tokio::task::spawn_blocking(move || vault.check(read_data, &Progress::default())).await??;
            let problems: Vec<_> = report
                .problems
                .iter()
                .map(|one| {
                    let affects: Vec<String> = one.affects.iter().map(ToString::to_string).collect();
                    json!({ "object": one.object, "problem": one.problem, "affects": affects })
                })
                .collect();
            print(&json!({
                "objects": report.objects,
                "checkpoints": report.checkpoints,
                "packs": report.packs,
                "packs_read": report.packs_read,
                "bytes_read": report.bytes_read,
                "problems": problems,
                "strangers": report.strangers,
            }));
            if !problems.is_empty() {
                bail!("{} things are wrong with the vault", problems.len());
            }
        }
        Command::Stats { place } => {
            let vault = place.open().await?;
            let stats = tokio::task::spawn_blocking(move || vault.stats(None)).await??;
            print(&json!({
                "organizations": stats.orgs,
                "checkpoints": stats.checkpoints,
                "packs": stats.packs,
                "pack_bytes": stats.pack_bytes,
                "chunks": stats.chunks,
                "objects": stats.objects,
                "bytes": stats.bytes,
                "suspects": stats.suspects,
                "quarantined": stats.quarantined,
            }));
        }
        Command::Gc { place } => {
            let vault = place.open().await?;
            let done = tokio::task::spawn_blocking(move || vault.collect(&CollectOptions::default())).await??;
            let skipped: Vec<_> =
                done.skipped.iter().map(|(org, problem)| json!({ "organization": org, "problem": problem })).collect();
            print(&json!({
                "skipped": skipped,
                "packs_condemned": done.packs_condemned,
                "packs_removed": done.packs_removed,
                "packs_rewritten": done.packs_rewritten,
                "packs_waiting": done.packs_waiting,
            }));
        }
        Command::Repair { wait, place } => repair::run(&place, wait).await?,
        Command::Rebuild { place } => rebuild::run(&place).await?,
    }
    Ok(())
}

#[allow(clippy::print_stdout)]
fn print(value: &serde_json::Value) {
    println!("{value:#}");
}
