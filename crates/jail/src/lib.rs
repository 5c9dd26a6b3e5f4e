//! The host's side of the jail: what a sandbox is to be built from, the launch of one, and what holds its processes.
//!
//! The building itself is done by the program `forkpoint-jail` of this package, a single-threaded process of its
//! own, because namespaces, credentials and mounts of a process with threads cannot be changed safely. This library
//! tells it what to build ([`Spec`]), starts it and waits for the agent ([`Launcher`]), makes the system call filter
//! once ([`seccomp::program`]), and holds processes and limits in control groups ([`cgroups`]).

pub mod cgroups;
pub mod host;
pub mod launcher;
pub mod process;
pub mod report;
pub mod seccomp;
pub mod spec;

pub use cgroups::{CgroupJoin, Cgroups, Group, Limits, Usage};
pub use launcher::{LaunchError, Launched, Launcher};
pub use spec::{IdentityFile, Resource, Rlimit, Spec};
