//! What can go wrong with the network, each error naming the step and the thing it was done to.

use std::io;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the network layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot work, found before anything was changed.
    #[error("{field} is {value:?}; it must be {expected}")]
    Setting {
        /// Name of the setting.
        field: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// The kernel or the filesystem refused a step.
    #[error("{step} {subject}: {source}")]
    Step {
        /// The action, such as `create link`.
        step: &'static str,
        /// The interface, file or namespace it was done to.
        subject: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `nft` is missing or refused rules.
    #[error("load rules in {place}: {reason}")]
    Rules {
        /// `the host` or `the hub`.
        place: &'static str,
        /// What `nft` said, or why it could not be started.
        reason: String,
    },
    /// Every subnet of the pool is taken or overlaps something of the host.
    #[error(
        "no subnet of network_pool {pool} is free ({reason}); choose a network_pool that no address or route of this host overlaps"
    )]
    NoSubnet {
        /// The pool that was searched.
        pool: String,
        /// Why the last candidate was refused.
        reason: String,
    },
    /// The hub lost its link to the host, and the subnet it had was taken meanwhile.
    #[error(
        "the hub has {slots} slots in subnet {subnet}, but that subnet is no longer free ({reason}); stop these sandboxes first"
    )]
    SubnetLost {
        /// How many slots still hang on the hub.
        slots: usize,
        /// The subnet their addresses are in.
        subnet: String,
        /// What took it.
        reason: String,
    },
    /// All slots are in use.
    #[error("all {0} network slots are in use; delete or stop sandboxes")]
    NoSlot(usize),
    /// A slot number that is out of range, or not in the state that the call needs.
    #[error("slot {number} {problem}")]
    Slot {
        /// The slot's number.
        number: u16,
        /// What is wrong with it.
        problem: String,
    },
    /// The hub's threads have ended.
    #[error("the hub's worker threads have ended")]
    Stopped,
}

impl Error {
    /// Wraps the kernel's answer to a step.
    pub(crate) fn step(step: &'static str, subject: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Step { step, subject: subject.into(), source: source.into() }
    }

    /// The errno of a refused step, if this is one.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Step { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
