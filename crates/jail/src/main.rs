//! `forkpoint-jail`: builds one sandbox, lets the agent go in it, and ends.
//!
//! It is started by [`forkpoint_jail::Launcher`] with three descriptors: 0 the order, 1 the pipe for the report, 2
//! the network namespace. It has one thread and uses no others, since namespaces and credentials belong to threads.
//!
//! Two processes share the work. The *outer* one stays on the host: it joins the control groups and the network
//! namespace, makes the user namespace, and knows the host's process ids. The *inner* one is the first process of the
//! new pid namespace: it builds the tree, gives up its rights and becomes the agent. It becomes the agent only on the
//! outer one's word, which comes after the report; so whenever the outer one is killed, either the report is out or
//! the inner one ends by itself.

mod inner;
mod outer;
mod step;
mod sys;
mod userns;

use std::os::fd::{AsFd, OwnedFd};

use forkpoint_jail::report::{Line, StepError};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio;

use step::Step;

/// Own descriptors start here, out of the way of those that the agent gets.
const FIRST_OWN_FD: i32 = 16;

/// What was inherited on purpose.
struct Inherited {
    order: OwnedFd,
    report: OwnedFd,
    netns: OwnedFd,
}

fn main() {
    let Ok(Inherited { order, report, netns }) = take_inherited() else {
        // Without a report there is nobody to tell.
        std::process::exit(2);
    };
    let report: &'static OwnedFd = Box::leak(Box::new(report));
    std::panic::set_hook(Box::new(move |panic| tell(report, "run the jail", &panic.to_string())));
    if let Err(failure) = outer::run(order, report, &netns) {
        write_line(report, &Line::Failed { error: failure });
        std::process::exit(1);
    }
}

/// Closes everything else, moves the three descriptors out of the way, and leaves /dev/null in their place.
fn take_inherited() -> step::Result<Inherited> {
    sys::close_foreign().step("close foreign descriptors")?;
    let take = |descriptor| fcntl_dupfd_cloexec(descriptor, FIRST_OWN_FD).step("take the descriptors");
    let inherited =
        Inherited { order: take(stdio::stdin())?, report: take(stdio::stdout())?, netns: take(stdio::stderr())? };
    let null = openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step("open /dev/null")?;
    replace_standard(&null)?;
    Ok(inherited)
}

/// Makes `descriptor` the standard input, output and error.
fn replace_standard(descriptor: &OwnedFd) -> step::Result<()> {
    stdio::dup2_stdin(descriptor).step("set standard input")?;
    stdio::dup2_stdout(descriptor).step("set standard output")?;
    stdio::dup2_stderr(descriptor).step("set standard error")
}

fn tell(report: &OwnedFd, step: &str, message: &str) {
    let error = StepError { step: step.to_owned(), errno: None, message: message.to_owned() };
    write_line(report, &Line::Failed { error });
}

/// One write, so that lines of two processes never mix. If nobody reads any more there is nobody to tell.
fn write_line(report: impl AsFd, line: &Line) {
    let _ = rustix::io::write(report, &line.to_bytes());
}
