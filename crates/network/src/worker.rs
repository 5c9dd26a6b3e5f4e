//! The threads that live in the hub and make and free slots there.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::namespace;
use crate::netlink::{Family, Netlink};

type Job = Box<dyn FnOnce(&mut HubThread) + Send>;

/// What a thread in the hub has at hand.
#[derive(Debug)]
pub(crate) struct HubThread {
    /// Links and routes of the hub.
    pub(crate) route: Netlink,
    /// Tracked connections of the hub and of the host.
    pub(crate) connections: [Netlink; 2],
    hub: Arc<OwnedFd>,
    is_lost: bool,
}

impl HubThread {
    fn enter(hub: Arc<OwnedFd>) -> Result<Self> {
        let on_host = Netlink::open(Family::Netfilter)?;
        namespace::enter(hub.as_fd(), "hub")?;
        let connections = [Netlink::open(Family::Netfilter)?, on_host];
        Ok(Self { route: Netlink::open(Family::Route)?, connections, hub, is_lost: false })
    }

    /// Makes a network namespace, runs `work` in it and returns to the hub. The thread keeps nothing
    /// of the new namespace.
    pub(crate) fn in_new_namespace<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<(OwnedFd, T)> {
        let made = namespace::enter_new().and_then(|namespace| Ok((namespace, work()?)));
        if let Err(error) = namespace::enter(self.hub.as_fd(), "hub") {
            // A thread that is somewhere else must not touch anything again.
            self.is_lost = true;
            return Err(error);
        }
        made
    }
}

/// A fixed set of [`HubThread`]s and the queue of what they have to do. They end with the queue.
#[derive(Debug)]
pub(crate) struct Workers {
    queue: mpsc::Sender<Job>,
}

impl Workers {
    /// Starts `count` threads in the namespace `hub`. Called in the host's namespace.
    pub(crate) fn start(count: usize, hub: &Arc<OwnedFd>) -> Result<Self> {
        let (queue, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..count.clamp(1, 16) {
            let (jobs, hub) = (Arc::clone(&jobs), Arc::clone(hub));
            let (report, ready) = mpsc::channel();
            std::thread::Builder::new()
                .name("slots".into())
                .spawn(move || match HubThread::enter(hub) {
                    Ok(thread) => {
                        let _ = report.send(Ok(()));
                        serve(thread, &jobs);
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                })
                .map_err(|source| Error::step("start", "a thread", source))?;
            ready.recv().unwrap_or(Err(Error::Stopped))?;
        }
        Ok(Self { queue })
    }

    /// Runs `work` on one of the threads. It runs to its end even if nobody waits for the result any
    /// more; the result is dropped then.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut HubThread) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, result) = oneshot::channel();
        let job: Job = Box::new(move |thread| {
            // A result that nobody waits for undoes itself when it is dropped.
            let _ = sender.send(work(thread));
        });
        self.queue.send(job).map_err(|_| Error::Stopped)?;
        result.await.unwrap_or(Err(Error::Stopped))
    }
}

fn serve(mut thread: HubThread, jobs: &Mutex<mpsc::Receiver<Job>>) {
    while !thread.is_lost {
        // The guard is dropped before the job runs, so that another thread waits for the next one.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(&mut thread),
            Err(mpsc::RecvError) => return,
        }
    }
}
