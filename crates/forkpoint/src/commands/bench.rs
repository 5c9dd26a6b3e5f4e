//! `forkpoint bench`: measures a server through HTTP, beside the kernel's floor in the same run.

mod floor;
mod host;
mod peers;
mod report;
mod row;
mod rows;
mod spawn;
mod stats;
mod vault;
mod world;

pub(crate) use floor::{FloorArgs, floor_main};

use super::{Context, Failure, arguments};
use crate::{
    client::{Client, Connection},
    output::{Cell, Output},
};
use clap::ValueEnum as _;
use host::HostFacts;
use report::Report;
use row::{Name, Row};
use rows::{Bench, Sizes};
use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};
use tokio::signal::unix::{SignalKind, signal};

/// What to measure, and where to write it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<PartOf>,
    #[command(flatten)]
    connection: Connection,
    /// Start a server for this alone, and remove it afterwards
    #[arg(long, conflicts_with_all = ["url", "key", "profile"])]
    spawn: bool,
    /// Where the started server's data directory is made [default: the system's temporary directory]
    #[arg(long, requires = "spawn", value_name = "DIR")]
    spawn_in: Option<PathBuf>,
    /// Measurements a row
    #[arg(long, default_value_t = 200, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    runs: usize,
    /// Only this row; can be repeated
    #[arg(long, value_name = "ROW")]
    only: Vec<Name>,
    /// Measure podman and runsc too, where they are installed
    #[arg(long)]
    peers: bool,
    /// The root file system that peers run in [default: that of the started server's template]
    #[arg(long, requires = "peers", value_name = "DIR")]
    peer_root: Option<PathBuf>,
    /// The template to measure with
    #[arg(long)]
    template: Option<String>,
    /// Callers of the row exec-parallel
    #[arg(long, default_value_t = 8, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    callers: usize,
    /// Bytes of the big layer
    #[arg(long, default_value = "5Gi", value_parser = arguments::bytes, value_name = "SIZE")]
    big_bytes: u64,
    /// Files of the big layer
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    big_files: u64,
    /// Live sandboxes in the rows about many
    #[arg(long, default_value_t = 300, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    live: usize,
    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the result as Markdown to this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// End with 1 when a target is not reached
    #[arg(long)]
    strict: bool,
}

/// What is measured by itself.
#[derive(Debug, clap::Subcommand)]
enum PartOf {
    /// Measure how checkpoints go into the vault and come back, beside restic
    Vault(vault::Args),
}

impl Args {
    /// The rows to measure, in their order; the floor is always among them.
    fn chosen(&self) -> Vec<Name> {
        let wanted = |name: &Name| match self.only.is_empty() {
            true => self.peers || !name.is_peer(),
            false => *name == Name::Floor || self.only.contains(name),
        };
        Name::value_variants().iter().copied().filter(wanted).collect()
    }
}

/// Measures, cleans up in every case, and reports what was measured.
pub(crate) async fn run(args: Args, early: Connection) -> Result<u8, Failure> {
    if let Some(PartOf::Vault(args)) = args.part {
        return vault::run(args, Output::new(false), &mut Stop::listen()?).await;
    }
    // A file that cannot be written must show now, not after the measurements.
    for path in [&args.json, &args.markdown].into_iter().flatten() {
        std::fs::write(path, "").map_err(Failure::io(format!("write {}", path.display())))?;
    }
    let mut stop = Stop::listen()?;
    let context = Context { connection: args.connection.clone().or(early), output: Output::new(false) };
    let (server, client) = if args.spawn {
        progress("starting a server");
        let parent = args.spawn_in.clone().unwrap_or_else(std::env::temp_dir);
        let (server, client) = spawn::Server::start(&parent).await?;
        (Some(server), client)
    } else {
        (None, context.client()?)
    };
    let mut rows = Vec::new();
    let measured = measure(&args, &client, server.as_ref(), &mut rows, &mut stop).await;
    let stopped = match server {
        Some(server) => server.stop().await,
        None => Ok(()),
    };
    let (host, interrupted) = measured?;
    stopped?;
    let report = Report { host, rows };
    write(&report, &args, context.output)?;
    let failed = report.rows.iter().any(|row| row.failed);
    let missed = args.strict && report.rows.iter().any(|row| row.reached == Some(false));
    Ok(if interrupted { 130 } else { u8::from(failed || missed) })
}

/// Measures all rows; gives the host's facts and whether it was interrupted. Leaves nothing on the server.
async fn measure(
    args: &Args,
    client: &Client,
    server: Option<&spawn::Server>,
    rows: &mut Vec<Row>,
    stop: &mut Stop,
) -> Result<(HostFacts, bool), Failure> {
    let data_dir = server.map(spawn::Server::data_dir);
    let host = HostFacts::look(client, data_dir.as_deref()).await;
    let sizes = Sizes {
        runs: args.runs,
        callers: args.callers,
        big_bytes: args.big_bytes,
        big_files: args.big_files,
        live: args.live,
    };
    let wants_peers = args.peers || args.only.iter().any(|name| name.is_peer());
    let peer_root = args.peer_root.clone().or_else(|| server.and_then(spawn::Server::template_root));
    let world = world::World::new(client.clone(), args.template.clone());
    let mut bench = Bench::new(world, sizes, wants_peers.then(|| peers::Peers::new(peer_root)));
    let chosen = args.chosen();
    let interrupted = tokio::select! {
        () = Box::pin(measure_rows(&mut bench, &chosen, rows)) => false,
        () = stop.wait() => true,
    };
    if interrupted {
        progress("interrupted; removing what was made");
    }
    let peers = match &mut bench.peers {
        Some(peers) => peers.clear().await,
        None => Ok(()),
    };
    bench.world.clear().await?;
    peers?;
    Ok((host, interrupted))
}

async fn measure_rows(bench: &mut Bench, chosen: &[Name], rows: &mut Vec<Row>) {
    for &name in chosen {
        progress(&format!("{} …", name.as_str()));
        let measured = match bench.measure(name).await {
            Ok(measured) => bench.release(name, chosen).await.map(|()| measured),
            Err(failure) => {
                // What a failed row left must not disturb the next ones. If even that fails, they will say so.
                let _ = bench.reset().await;
                Err(failure)
            }
        };
        let row = match measured {
            Ok(measured) => Row::judge(name, measured, bench.medians.get(&Name::Floor).copied()),
            Err(failure) => Row::failure(name, failure.to_string()),
        };
        if let Some(summary) = &row.summary {
            bench.medians.insert(name, summary.p50);
        }
        let figures = report::cells(&row);
        progress(&format!("{}: p50 {}, p99 {} {}", name.as_str(), figures[1], figures[3], row.note));
        rows.push(row);
    }
}

/// SIGINT and SIGTERM, which end the bench in order.
#[derive(Debug)]
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::io("listen to signals"));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// One line for whoever watches.
fn progress(text: &str) {
    let mut to = std::io::stderr().lock();
    // The measurement matters more than its commentary.
    let _ = writeln!(to, "{}{}", if to.is_terminal() { "· " } else { "" }, crate::output::clean(text));
}

fn write(report: &Report, args: &Args, output: Output) -> Result<(), Failure> {
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|row| std::iter::once(row.name.as_str()).chain(report::cells(row)).map(Cell::Text).collect())
        .collect();
    let headers = ["ROW", "RUNS", "P50", "P95", "P99", "MAX", "×FLOOR", "TARGET", "REACHED"];
    output.table(&headers, &rows)?;
    let save = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(Failure::io(format!("write {}", path.display())))
    };
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report)
            .map_err(|error| Failure::Other(format!("encode the result: {error}")))?;
        save(path, text + "\n")?;
    }
    if let Some(path) = &args.markdown {
        save(path, report.markdown())?;
    }
    Ok(())
}
