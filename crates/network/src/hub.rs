//! The hub of one data directory, opened by the server.

mod open;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::address::Plan;
use crate::error::{Error, Result};
use crate::namespace;
use crate::numbers::Numbers;
use crate::options::HubOptions;
use crate::slot::{self, Slot, link_name, lock, number_of_link};
use crate::survey;
use crate::worker::{HubThread, Workers};

/// The hub: makes, frees and adopts slots. Clones are the same hub.
#[derive(Clone, Debug)]
pub struct Hub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: HubOptions,
    plan: Plan,
    mtu: u32,
    resolver: Mutex<Option<Ipv4Addr>>,
    netns: Arc<OwnedFd>,
    /// The namespace in which the hub was opened.
    host: Arc<OwnedFd>,
    numbers: Arc<Mutex<Numbers>>,
    /// Make slots.
    workers: Workers,
    /// Removes slots, which makes it wait for other processors; nobody who wants a slot should too.
    reaper: Workers,
    doomed: Arc<Doomed>,
}

/// Slots to be removed at the next opportunity, and who waits for that.
type Doomed = Mutex<Vec<(Vec<u16>, oneshot::Sender<Result<()>>)>>;

/// So many numbers are swept at the latest.
const SWEEP_AT: usize = 64;

impl Hub {
    /// Opens the hub of an instance: makes what is missing and adopts what is there, whatever a killed
    /// predecessor left. Sandboxes that run keep their network.
    ///
    /// Numbers of slots that are found on the hub are not handed out until [`Hub::adopt_slot`] or
    /// [`Hub::reconcile`] has decided about them.
    ///
    /// # Errors
    /// Settings that cannot work, no free subnet, and whatever step the kernel or `nft` refused.
    pub async fn open(options: HubOptions) -> Result<Self> {
        let opened = {
            let options = options.clone();
            blocking(move || open::open(&options)).await?
        };
        let inner = Inner {
            plan: opened.plan,
            mtu: opened.mtu,
            resolver: Mutex::new(opened.resolver),
            netns: opened.netns,
            host: opened.host,
            numbers: Arc::new(Mutex::new(Numbers::new(opened.slots))),
            workers: opened.workers,
            reaper: opened.reaper,
            doomed: Arc::default(),
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes a slot. If the caller stops waiting, the slot is given back.
    ///
    /// # Errors
    /// [`Error::NoSlot`] if all are in use; otherwise the step that the kernel refused.
    pub async fn make_slot(&self) -> Result<Slot> {
        let (plan, mtu) = (self.inner.plan, self.inner.mtu);
        let numbers = Arc::clone(&self.inner.numbers);
        let (claim, slot) = self.inner.workers.run(move |thread| slot::make(thread, &numbers, plan, mtu)).await?;
        claim.keep();
        Ok(slot)
    }

    /// Cuts a slot off the hub, whatever still lives in it. A number that is free is left alone.
    ///
    /// The number can be handed out again when its connections have been forgotten, in the hub and on
    /// the host. That is done for many numbers at once: by every [`Hub::reconcile`], when enough have
    /// come together, or when no other number is left.
    ///
    /// # Errors
    /// The step that was refused; a repeated call or [`Hub::reconcile`] tries it again.
    pub async fn free_slot(&self, number: u16) -> Result<()> {
        {
            let mut numbers = lock(&self.inner.numbers);
            if !numbers.is_taken(number) || !numbers.begin_removal(number) {
                return Ok(());
            }
        }
        self.remove(&[number]).await?;
        if lock(&self.inner.numbers).dirty() >= SWEEP_AT {
            self.sweep().await?;
        }
        Ok(())
    }

    /// Removes slots whose removal has been begun, together with those that others want removed.
    async fn remove(&self, gone: &[u16]) -> Result<()> {
        let (sender, result) = oneshot::channel();
        self.inner.doomed.lock().unwrap_or_else(PoisonError::into_inner).push((gone.to_vec(), sender));
        let (numbers, doomed) = (Arc::clone(&self.inner.numbers), Arc::clone(&self.inner.doomed));
        self.inner
            .reaper
            .run(move |thread| {
                remove_doomed(thread, &numbers, &doomed);
                Ok(())
            })
            .await?;
        result.await.unwrap_or(Err(Error::Stopped))
    }

    async fn sweep(&self) -> Result<()> {
        let (plan, numbers) = (self.inner.plan, Arc::clone(&self.inner.numbers));
        self.inner.reaper.run(move |thread| slot::sweep(thread, &numbers, plan)).await
    }

    /// Gives back a number whose slot was never handed to anyone. The kernel takes down the namespace,
    /// and with it the link, when the last descriptor is closed.
    pub(crate) fn release_unused(&self, slot: Slot) {
        let number = slot.number;
        drop(slot);
        lock(&self.inner.numbers).release(number);
    }

    /// Takes over the slot of a sandbox that was started by an earlier process: `pid` is a process in it.
    ///
    /// # Errors
    /// [`Error::Slot`] if the number is in use already, has no link, or `pid` lives in another namespace
    /// than the slot's.
    pub async fn adopt_slot(&self, number: u16, pid: u32) -> Result<Slot> {
        let (plan, numbers) = (self.inner.plan, Arc::clone(&self.inner.numbers));
        self.inner
            .workers
            .run(move |thread| {
                let refused = |problem: String| Error::Slot { number, problem };
                let name = link_name(number);
                let netns = namespace::open(Path::new(&format!("/proc/{pid}/ns/net")))?;
                let link = survey::link(&mut thread.route, &name)?
                    .ok_or_else(|| refused(format!("has no link {name} in the hub")))?;
                // A number in a file and a process id prove nothing; the two ends of the link do.
                let id = survey::namespace_id(&mut thread.route, netns.as_fd(), &name)?;
                if id.is_none() || id != link.peer_namespace {
                    return Err(refused(format!("is not the network of process {pid}")));
                }
                if !lock(&numbers).adopt(number) {
                    return Err(refused("is in use already".into()));
                }
                Ok(Slot { number, outer: plan.outer(number), uid_base: plan.uid_base(number), netns })
            })
            .await
    }

    /// The numbers in use, lowest first; slots that wait in a pool are among them.
    pub fn used(&self) -> Vec<u16> {
        lock(&self.inner.numbers).used()
    }

    /// Removes the slots that neither `in_use` names nor this process handed out. Returns which they were.
    /// Then forgets the connections of all slots that are gone, and makes their numbers free.
    ///
    /// # Errors
    /// The step that was refused. What was not removed is tried again by the next call.
    pub async fn reconcile(&self, in_use: &[u16]) -> Result<Vec<u16>> {
        let numbers = Arc::clone(&self.inner.numbers);
        let in_use = in_use.to_vec();
        let gone = self
            .inner
            .workers
            .run(move |thread| {
                // Looked up in this order: a slot made in between has its number in use already.
                let links = survey::links(&mut thread.route)?;
                let mut numbers = lock(&numbers);
                let linked = links.iter().filter_map(|link| number_of_link(&link.name));
                let mut gone: Vec<u16> = linked.chain(numbers.held()).collect();
                gone.retain(|number| !in_use.contains(number) && !numbers.is_used(*number));
                gone.sort_unstable();
                gone.dedup();
                gone.retain(|number| numbers.begin_removal(*number));
                Ok(gone)
            })
            .await?;
        if !gone.is_empty() {
            self.remove(&gone).await?;
        }
        self.sweep().await?;
        Ok(gone)
    }

    /// Looks up the host's resolvers and uplinks again and adapts the rules. Returns the resolver that
    /// sandboxes' questions go to now.
    ///
    /// # Errors
    /// The step that was refused; the rules are the old or the new.
    pub async fn refresh_resolvers(&self) -> Result<Option<Ipv4Addr>> {
        let inner = Arc::clone(&self.inner);
        let resolver =
            blocking(move || open::refresh(&inner.options, inner.plan, inner.host.as_fd(), inner.netns.as_fd()))
                .await?;
        *self.inner.resolver.lock().unwrap_or_else(PoisonError::into_inner) = resolver;
        Ok(resolver)
    }

    /// The resolver that questions to the gateway go to; `None` if the host has none that can be
    /// reached from a sandbox.
    pub fn resolver(&self) -> Option<Ipv4Addr> {
        *self.inner.resolver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hub's index, link name, addresses and uids.
    pub fn plan(&self) -> Plan {
        self.inner.plan
    }

    /// The size of packets, in bytes, on all links.
    pub fn mtu(&self) -> u32 {
        self.inner.mtu
    }
}

/// Removes everything that waits for it, in one go.
fn remove_doomed(thread: &mut HubThread, numbers: &Mutex<Numbers>, doomed: &Doomed) {
    let batch = std::mem::take(&mut *doomed.lock().unwrap_or_else(PoisonError::into_inner));
    let gone: Vec<u16> = batch.iter().flat_map(|(gone, _)| gone).copied().collect();
    if gone.is_empty() {
        return;
    }
    let removed = slot::cut_off(&mut thread.route, &gone);
    let mut numbers = lock(numbers);
    gone.iter().for_each(|number| numbers.end_removal(*number, removed.is_ok()));
    drop(numbers);
    for (gone, waiting) in batch {
        let answer = removed.as_ref().copied().map_err(|error| Error::Slot {
            number: gone.first().copied().unwrap_or(0),
            problem: format!("could not be removed: {error}"),
        });
        // Whoever does not wait any more finds the number held or dirty.
        let _ = waiting.send(answer);
    }
}

/// Runs work that blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Stopped))
}
