//! `forkpoint serve`: the server's life from start to graceful end.

use crate::{
    config::{self, Config},
    control,
    front::Front,
    wire::{self, Parts},
};
use anyhow::{Context, bail};
use forkpoint_server::{ConnectionOptions, Readiness, SandboxCounts, ServerOptions};
use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// How often layers are given room ahead of need.
const GROW_EVERY: Duration = Duration::from_millis(500);
/// How often freed network slots are made ready for the next.
const NETWORK_EVERY: Duration = Duration::from_secs(3);
/// How often the host's resolvers are read again.
const RESOLVERS_EVERY: Duration = Duration::from_secs(30);
/// How long operations in flight may take at the end.
const DRAIN: Duration = Duration::from_secs(30);

/// Runs the server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where everything is kept [default: /var/lib/forkpoint]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address and port of the API [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Database; without it, SQLite in the data directory
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Settings file (TOML); see docs/operations.md
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Args {
    fn load(&self) -> anyhow::Result<Config> {
        let mut flags = Vec::new();
        if let Some(data_dir) = &self.data_dir {
            flags.push(("data-dir", data_dir.to_str().context("--data-dir must be UTF-8")?.to_owned()));
        }
        if let Some(listen) = self.listen {
            flags.push(("listen", listen.to_string()));
        }
        if let Some(url) = &self.database_url {
            flags.push(("database-url", url.clone()));
        }
        config::load(self.config.as_deref(), std::env::vars(), &flags)
    }
}

/// Runs until SIGTERM or SIGINT; sandboxes go on without it.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let config = args.load()?;
    start_log(&config);
    arm_failpoint()?;
    if !rustix::process::geteuid().is_root() {
        bail!("forkpoint serve must run as root: it makes namespaces, mounts and control groups");
    }
    raise_descriptor_limit();
    let data_dir = wire::prepare_data_dir(&config.data_dir)?;
    let Some(_lock) = wire::lock(&data_dir)? else {
        let holder = wire::lock_holder(&data_dir).map_or_else(String::new, |pid| format!(" (process {pid})"));
        bail!("another server works on {}{holder}", data_dir.display());
    };
    let listener = TcpListener::bind(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
    let address = listener.local_addr().context("read own address")?;
    tracing::info!(%address, data_dir = %data_dir.display(), "listening");

    let (ready, readiness) = watch::channel(Readiness::not_yet("opening", ""));
    let stop = CancellationToken::new();
    let front = Front::new(readiness.clone());
    let stopping = stop.clone().cancelled_owned();
    let serving = forkpoint_server::serve(listener, front.router(), ConnectionOptions::default(), stopping);
    let serving = tokio::spawn(serving);

    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
    let outcome = tokio::select! {
        outcome = work(&config, &data_dir, address, &ready, front, readiness) => outcome,
        _ = terminate.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
    };
    let outcome = match outcome {
        Ok(Some(server)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(Some(server))
        }
        other => other,
    };
    tracing::info!("ending; sandboxes go on");
    if let Ok(Some(server)) = &outcome {
        // They take long, and what their finished steps left saves the next ones the time.
        server.parts.platform.end_builds();
    }
    stop.cancel();
    if tokio::time::timeout(DRAIN, serving).await.is_err() {
        tracing::warn!("requests in flight did not end in time");
    }
    if let Some(mut server) = outcome? {
        server.background.shutdown().await;
        if tokio::time::timeout(DRAIN, server.parts.platform.drain()).await.is_err() {
            tracing::warn!("operations in flight did not end in time");
        }
        // The runtime takes its mount and network off the host only when nobody else can use them.
        drop(server.parts.platform);
        server.parts.runtime.close().await;
    }
    Ok(())
}

/// What runs while the server serves.
struct Running {
    parts: Parts,
    background: tokio::task::JoinSet<()>,
}

/// Opens everything, makes the default template ready, and begins to serve.
async fn work(
    config: &Config,
    data_dir: &std::path::Path,
    address: SocketAddr,
    ready: &watch::Sender<Readiness>,
    front: Front,
    readiness: watch::Receiver<Readiness>,
) -> anyhow::Result<Option<Running>> {
    let parts = wire::open(config, data_dir).await?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Before recovery: rows that are nobody's are taken over, and then brought in step.
    parts.platform.enroll(&host, &address.to_string()).await.context("tell other servers of this one")?;
    wire::note_enrolled(data_dir)?;
    ready.send_replace(Readiness::not_yet("recovering", "bringing records and host in step"));
    parts.platform.recover().await;
    make_template(&parts, ready).await?;
    let counted = parts.platform.clone();
    let counts = SandboxCounts::new(move || {
        let platform = counted.clone();
        Box::pin(async move { platform.count_sandboxes().await.unwrap_or_default() })
    });
    let options = ServerOptions {
        metrics: config.metrics,
        sandbox_counts: Some(counts),
        rate_limit_per_minute: config.rate_limit_per_minute.and_then(NonZeroU32::new),
        ..ServerOptions::new(readiness)
    };
    front.open(forkpoint_server::router(parts.platform.clone(), options));
    let mut background = parts.platform.start_reconcilers(host, address.to_string());
    let (runtime, spares) = (parts.runtime.clone(), config.warm_pool);
    background.spawn(async move { runtime.keep_spares(spares).await });
    let (platform, asked_in) = (parts.platform.clone(), data_dir.to_owned());
    background.spawn(async move { control::serve(&asked_in, platform).await });
    let runtime = parts.runtime.clone();
    background.spawn(async move {
        loop {
            tokio::time::sleep(GROW_EVERY).await;
            if let Err(error) = runtime.grow_layers().await {
                tracing::warn!(%error, "could not give layers more room");
            }
        }
    });
    let runtime = parts.runtime.clone();
    background.spawn(async move {
        loop {
            tokio::time::sleep(NETWORK_EVERY).await;
            if let Err(error) = runtime.reconcile_network().await {
                tracing::warn!(%error, "could not bring the network in step");
            }
        }
    });
    let runtime = parts.runtime.clone();
    background.spawn(async move {
        loop {
            tokio::time::sleep(RESOLVERS_EVERY).await;
            if let Err(error) = runtime.refresh_resolvers().await {
                tracing::warn!(%error, "could not read the host's resolvers");
            }
        }
    });
    ready.send_replace(Readiness::Ready);
    tracing::info!("ready");
    Ok(Some(Running { parts, background }))
}

async fn make_template(parts: &Parts, ready: &watch::Sender<Readiness>) -> anyhow::Result<()> {
    let store = parts.runtime.templates().clone();
    let told = ready.clone();
    let made = tokio::task::spawn_blocking(move || {
        store.ensure_default(&mut |progress| {
            tracing::info!("making the default template: {progress}");
            told.send_replace(Readiness::not_yet("making_template", progress.to_string()));
        })
    });
    let template = made.await.context("make the default template")?.context("make the default template")?;
    tracing::info!(template.digest = %template.digest, "default template is ready");
    Ok(())
}

/// Takes as many file descriptors as this process may have: each connection and each command needs some.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// Lets this process die at the step that the environment names; see `engine/failpoint.rs`.
pub(crate) fn arm_failpoint() -> anyhow::Result<()> {
    match std::env::var_os("FORKPOINT_FAILPOINT") {
        Some(point) => forkpoint_engine::failpoint::arm(&point.to_string_lossy(), die).context("FORKPOINT_FAILPOINT"),
        None => Ok(()),
    }
}

/// Ends this process as a power cut would: nothing is tidied up.
fn die() -> ! {
    loop {
        // A signal that cannot be refused; it may take a moment to arrive.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
}

fn start_log(config: &Config) {
    let filter = EnvFilter::try_from_env("FORKPOINT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    if config.log_format == "json" {
        registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).init();
    } else {
        registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false)).init();
    }
}
