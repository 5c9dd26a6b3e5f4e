//! Failures that name the step at which they happened.

use std::fmt::Display;
use std::io;

use forkpoint_jail::report::StepError;
use rustix::io::Errno;

pub(crate) type Result<T> = std::result::Result<T, StepError>;

/// Gives a refusal of the system the name of the step.
pub(crate) trait Step<T> {
    /// The step is a bare action, such as "mount overlay".
    fn step(self, step: &str) -> Result<T>;
    /// The same with what it was done to.
    fn step_on(self, step: &str, what: impl Display) -> Result<T>;
}

impl<T> Step<T> for rustix::io::Result<T> {
    fn step(self, step: &str) -> Result<T> {
        self.map_err(|errno| failure(step, Some(errno), &describe(errno)))
    }

    fn step_on(self, step: &str, what: impl Display) -> Result<T> {
        self.map_err(|errno| failure(&format!("{step} {what}"), Some(errno), &describe(errno)))
    }
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &str) -> Result<T> {
        self.map_err(|error| failure(step, Errno::from_io_error(&error), &error.to_string()))
    }

    fn step_on(self, step: &str, what: impl Display) -> Result<T> {
        self.map_err(|error| failure(&format!("{step} {what}"), Errno::from_io_error(&error), &error.to_string()))
    }
}

pub(crate) fn failure(step: &str, errno: Option<Errno>, message: &str) -> StepError {
    StepError { step: step.to_owned(), errno: errno.map(Errno::raw_os_error), message: message.to_owned() }
}

pub(crate) fn describe(errno: Errno) -> String {
    io::Error::from(errno).to_string()
}
