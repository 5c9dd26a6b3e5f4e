//! Starting and ending a sandbox's processes.

use super::{
    LocalRuntime, blocking, failed, identity,
    instance::Running,
    memory::{self, Remembered},
    templates::Known,
};
use crate::agent_client::AgentClient;
use forkpoint_domain::{ids::SandboxId, limits::Limits, sandbox::StopReason};
use forkpoint_engine::{
    failpoint::{Point, pass},
    ports::runtime::{Death, Instance, Launch, RuntimeError},
};
use forkpoint_jail::{Group, Spec, process};
use forkpoint_network::Slot;
use forkpoint_protocol::{AgentConfig, Token};
use std::{
    fs::File,
    io::Read,
    net::{SocketAddr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, PoisonError},
};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// Where the agent listens, inside.
pub(super) const AGENT_PORT: u16 = 4650;
/// How many requests one agent serves at a time.
const MAX_REQUESTS: u32 = 512;

impl LocalRuntime {
    pub(super) async fn start(&self, launch: &Launch) -> Result<Instance, RuntimeError> {
        if self.inner.running(launch.sandbox).is_some() {
            return Err(RuntimeError::Failed { step: "launch", problem: "the sandbox runs already".into() });
        }
        let template = self.known_version(&launch.template).await?;
        let slot = self.inner.slots.take().await.map_err(|error| match error {
            forkpoint_network::Error::NoSlot(_) => RuntimeError::NoCapacity("all network slots are in use".into()),
            error => failed("make network slot")(error),
        })?;
        pass(Point::LaunchSlot);
        let number = slot.number;
        match self.start_in_slot(launch, &template, slot).await {
            Ok(running) => Ok(running.describe()),
            Err(error) => {
                if let Err(error) = self.inner.hub.free_slot(number).await {
                    tracing::warn!(slot = number, %error, "could not free a network slot");
                }
                Err(error)
            }
        }
    }

    async fn start_in_slot(&self, launch: &Launch, template: &Known, slot: Slot) -> Result<Arc<Running>, RuntimeError> {
        let inner = self.inner.clone();
        let (launch, template) = (launch.clone(), template.clone());
        let token = Token(rand::random());
        let address = slot.outer;
        let number = slot.number;
        let (remembered, group) = blocking(move || {
            let limits = group_limits(&launch.limits);
            let group = inner
                .cgroups
                .create(&inner.name, &launch.sandbox.to_string(), &limits)
                .map_err(failed("make control group"))?;
            pass(Point::LaunchGroup);
            let started = inner.start_blocking(&launch, &template, &slot, &group, token);
            if started.is_err() {
                end_group(&group);
                let _ = memory::forget(&inner.data_dir, launch.sandbox);
            }
            Ok((started?, group))
        })
        .await?;
        let sandbox = remembered.sandbox;
        let running = match self.watch(remembered, group.clone(), token) {
            Ok(running) => running,
            Err(error) => {
                let inner = self.inner.clone();
                let ended = blocking(move || {
                    end_group(&group);
                    memory::forget(&inner.data_dir, sandbox).map_err(failed("forget sandbox"))
                });
                ended.await?;
                return Err(error);
            }
        };
        pass(Point::LaunchWatched);
        debug_assert_eq!((running.slot, running.address), (number, address));
        Ok(running)
    }

    /// Takes a started sandbox into the list of those that run, and watches its first process.
    pub(super) fn watch(&self, one: Remembered, group: Group, token: Token) -> Result<Arc<Running>, RuntimeError> {
        let running = Arc::new(Running {
            sandbox: one.sandbox,
            layer: one.layer,
            slot: one.slot,
            address: one.address,
            group,
            agent: AgentClient::new(SocketAddr::V4(SocketAddrV4::new(one.address, AGENT_PORT)), token.0),
            gone: CancellationToken::new(),
        });
        let first = process::open(one.pid, one.start_time).map_err(failed("open first process"))?;
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).insert(one.sandbox, running.clone());
        tokio::spawn(wait_for_death(first, running.clone(), self.inner.deaths.clone()));
        Ok(running)
    }

    pub(super) async fn finish(&self, sandbox: SandboxId) -> Result<(), RuntimeError> {
        let known = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&sandbox);
        if let Some(running) = &known {
            running.gone.cancel();
        }
        let inner = self.inner.clone();
        let ended = blocking(move || {
            // By name, so that what a failed or killed launch left is ended too.
            let group = inner.cgroups.group(&inner.name, &sandbox.to_string()).map_err(failed("find control group"))?;
            // Before anything ends: what is remembered and dead has ended by itself.
            memory::forget(&inner.data_dir, sandbox).map_err(failed("forget sandbox"))?;
            pass(Point::EndForgotten);
            group.kill_all().map_err(failed("end processes"))?;
            pass(Point::EndKilled);
            group.remove().map_err(failed("remove control group"))?;
            pass(Point::EndGroup);
            inner.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(&sandbox);
            Ok(())
        })
        .await;
        match (known, ended) {
            (Some(running), Ok(())) => {
                // Behind the answer: the number is quarantined by its link, so nothing depends on when.
                let hub = self.inner.hub.clone();
                tokio::spawn(async move {
                    if let Err(error) = hub.free_slot(running.slot).await {
                        tracing::warn!(slot = running.slot, %error, "could not free a network slot");
                    }
                    pass(Point::EndSlot);
                });
                Ok(())
            }
            (Some(running), Err(error)) => {
                // Still ours to end: the next try must find it.
                self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).insert(sandbox, running);
                Err(error)
            }
            (None, ended) => ended,
        }
    }
}

impl super::Inner {
    /// Builds the sandbox and remembers it.
    fn start_blocking(
        &self,
        launch: &Launch,
        template: &Known,
        slot: &Slot,
        group: &Group,
        token: Token,
    ) -> Result<Remembered, RuntimeError> {
        let layer = self.layers.path(launch.layer.uuid());
        if !layer.is_dir() {
            return Err(RuntimeError::LayerMissing(launch.layer));
        }
        let limited = self
            .layers
            .limit(launch.layer.uuid(), launch.limits.disk_bytes)
            .map_err(super::trees::failed("limit layer"))?;
        if !limited {
            tracing::debug!(sandbox.id = %launch.sandbox, "this layer store cannot limit what a sandbox writes");
        }
        let config = AgentConfig {
            version: forkpoint_protocol::VERSION,
            token,
            listen: SocketAddrV4::new(forkpoint_network::SLOT_PEER, AGENT_PORT),
            default_user: template.user.clone().unwrap_or_else(|| "sandbox".to_owned()),
            refuse_local: true,
            max_requests: MAX_REQUESTS,
        };
        let mut spec =
            Spec::new(&identity::host_name(launch.sandbox), &template.root, &layer, slot.uid_base, group.join());
        spec.seccomp.clone_from(&self.seccomp);
        spec.identity = identity::files(launch.sandbox, self.hub.resolver().is_some());
        spec.agent_config = postcard::to_stdvec(&config).map_err(failed("encode agent settings"))?;
        let launched = self.launcher.launch(&spec, slot.netns.as_fd()).map_err(failed("start sandbox"))?;
        pass(Point::LaunchJail);
        let remembered = Remembered {
            sandbox: launch.sandbox,
            layer: launch.layer,
            boot_id: memory::boot_id().map_err(failed("read boot id"))?,
            pid: launched.pid,
            start_time: launched.start_time,
            slot: slot.number,
            address: slot.outer,
            token,
        };
        memory::remember(&self.data_dir, &remembered).map_err(failed("remember sandbox"))?;
        pass(Point::LaunchRemembered);
        Ok(remembered)
    }
}

/// Ends and removes a group as far as possible; the next start or reconciliation does the rest.
pub(super) fn end_group(group: &Group) {
    if let Err(error) = group.kill_all().and_then(|()| group.remove()) {
        tracing::warn!(%error, "could not end a control group");
    }
}

fn group_limits(limits: &Limits) -> forkpoint_jail::Limits {
    forkpoint_jail::Limits { memory_bytes: limits.memory_bytes, cpu_millis: limits.cpu_millis, pids: limits.pids }
}

async fn wait_for_death(
    first: Option<OwnedFd>,
    running: Arc<Running>,
    deaths: tokio::sync::mpsc::UnboundedSender<Death>,
) {
    if let Some(first) = first
        && let Ok(first) = watched(first)
    {
        tokio::select! {
            _ = first.readable() => {}
            () = running.gone.cancelled() => return,
        }
    }
    // Ended by us, or by itself?
    if running.gone.is_cancelled() {
        return;
    }
    running.gone.cancel();
    let out_of_memory = running.group.usage().is_ok_and(|usage| usage.oom_kills > 0);
    let reason = if out_of_memory { StopReason::OutOfMemory } else { StopReason::Died };
    // Nobody listens only when the server is ending.
    let _ = deaths.send(Death { sandbox: running.sandbox, reason });
}

/// A process descriptor that can be waited for.
#[allow(unsafe_code)]
fn watched(first: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value that is registered, so it stays open and the same one
    // until it is taken out of the reactor.
    unsafe { AsyncFd::register(first) }.map_err(Into::into)
}

/// Refuses a program that is missing or needs a C library: inside a sandbox there may be none.
pub(super) fn require_static(program: &Path) -> Result<(), RuntimeError> {
    let unfit = |problem: String| RuntimeError::Failed { step: "check programs", problem };
    let mut image = Vec::new();
    File::open(program)
        .and_then(|file| file.take(4096).read_to_end(&mut image))
        .map_err(|error| unfit(format!("{}: {error}; build the whole workspace", program.display())))?;
    if has_interpreter(&image) {
        return Err(unfit(format!(
            "{} is linked dynamically; build it in the workspace's folder, whose .cargo/config.toml links it statically",
            program.display()
        )));
    }
    Ok(())
}

/// Whether an ELF64 image asks for a dynamic loader (program header PT_INTERP, 3).
fn has_interpreter(image: &[u8]) -> bool {
    let half = |at: usize| image.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let (Some(size), Some(count)) = (half(0x36), half(0x38)) else { return true };
    let Some(start) = image.get(0x20..0x28).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes) else {
        return true;
    };
    if !image.starts_with(b"\x7fELF\x02\x01") {
        return true;
    }
    (0..usize::from(count)).any(|index| {
        let at = start as usize + index * usize::from(size);
        image.get(at..at + 4).is_none_or(|kind| kind == [3, 0, 0, 0])
    })
}
