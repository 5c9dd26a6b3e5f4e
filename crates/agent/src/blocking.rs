//! Runs work that can wait for the disk away from the event loop.

use std::sync::{Arc, Mutex, PoisonError};

use forkpoint_protocol::ErrorKind;
use tokio::sync::{Semaphore, oneshot};

use crate::failure::Failure;

/// Threads at the same time, all requests together; they count in the sandbox's process limit.
const THREADS: usize = 6;
/// File work neither recurses nor keeps large things on the stack.
const STACK: usize = 256 * 1024;

static PERMITS: Semaphore = Semaphore::const_new(THREADS);

/// Runs `work` on a thread of its own and returns what it returns.
///
/// A thread costs some ten microseconds and leaves nothing behind when idle. Where none can be had,
/// since the sandbox's processes are used up, the work is done in place: the event loop then
/// waits, but files can still be read and processes be ended.
pub(crate) async fn run<T, F>(work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Failure> + Send + 'static,
{
    let permit = PERMITS.acquire().await.map_err(|_| Failure::new(ErrorKind::Busy, "the agent is ending"))?;
    let (sender, receiver) = oneshot::channel();
    // The closure is shared so that it is still here when the thread does not come to be.
    let shared = Arc::new(Mutex::new(Some((work, sender))));
    let for_thread = Arc::clone(&shared);
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        let taken = for_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((work, sender)) = taken {
            let _ = sender.send(work());
        }
        // Held by the thread, not by the caller, who may give up waiting.
        drop(permit);
    });
    if thread.is_err() {
        let taken = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
        return match taken {
            Some((work, _)) => work(),
            None => Err(Failure::new(ErrorKind::Other, "file work was lost")),
        };
    }
    drop(shared);
    receiver.await.unwrap_or_else(|_| Err(Failure::new(ErrorKind::Other, "file work ended unexpectedly")))
}
