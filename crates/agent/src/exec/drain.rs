//! Goes on reading pipes that background processes hold after their command has been answered.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::agent::Agent;

/// Pipes read at the same time. Who leaves more background writers than that behind gets a broken
/// pipe; the agent must have descriptors left for the host.
const MOST: usize = 256;

/// How many pipes are being read.
#[derive(Default)]
pub(crate) struct Drains {
    count: Cell<usize>,
}

/// Reads and drops until nobody holds the pipe any more.
pub(super) fn adopt(agent: &Rc<Agent>, fd: AsyncFd<OwnedFd>) {
    let count = &agent.drains.count;
    if count.get() >= MOST {
        return;
    }
    count.set(count.get() + 1);
    let agent = Rc::clone(agent);
    tokio::task::spawn_local(async move {
        while let Ok(mut guard) = fd.readable().await {
            guard.retain_ready();
            let mut scratch = agent.scratch.borrow_mut();
            match fd.try_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut scratch[..])?)) {
                Ok(0) => break,
                Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    break;
                }
                _ => {}
            }
        }
        agent.drains.count.set(agent.drains.count.get() - 1);
    });
}
