//! Takes the exit status of every child, own or orphaned, and passes it to whoever waits for it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rustix::process::{Pid, WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use crate::startup::StartError;

/// Knows the running commands by pid.
///
/// All children are reaped on the agent's one thread. So a pid in the table names the process that
/// was started as long as no await lies between looking and using it, and a status cannot come
/// before [`Reaper::adopt`] if that follows the fork without an await.
#[derive(Default, Clone)]
pub(crate) struct Reaper {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    children: RefCell<HashMap<i32, oneshot::Sender<WaitStatus>>>,
    reaped: Notify,
}

impl Reaper {
    /// Starts to reap, for as long as the event loop runs.
    pub(crate) fn start(&self) -> Result<(), StartError> {
        let mut signals =
            signal(SignalKind::child()).map_err(|error| StartError::step("listen for ended processes", error))?;
        let reaper = self.clone();
        tokio::task::spawn_local(async move {
            loop {
                reaper.reap();
                if signals.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Waits for a child that was forked in this same step.
    pub(crate) fn adopt(&self, pid: Pid) -> oneshot::Receiver<WaitStatus> {
        let (sender, receiver) = oneshot::channel();
        self.shared.children.borrow_mut().insert(pid.as_raw_nonzero().get(), sender);
        receiver
    }

    /// Whether this command was started and its status was not taken yet.
    pub(crate) fn is_running(&self, pid: Pid) -> bool {
        self.shared.children.borrow().contains_key(&pid.as_raw_nonzero().get())
    }

    /// Resolves after processes were reaped.
    pub(crate) async fn reaped(&self) {
        self.shared.reaped.notified().await;
    }

    fn reap(&self) {
        // Any child: each command leads a process group of its own, and orphans come from all of
        // them. One signal can stand for any number of ended children.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(sender) = self.shared.children.borrow_mut().remove(&pid.as_raw_nonzero().get()) {
                // Nobody waits any more for a detached command.
                let _ = sender.send(status);
            }
        }
        self.shared.reaped.notify_waiters();
    }
}
