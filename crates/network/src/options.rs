//! What the caller decides about a hub.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::address::Cidr;
use crate::error::{Error, Result};

/// How a hub is opened. [`HubOptions::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// The data directory's instance: 8 hexadecimal digits in lower case.
    pub instance: String,
    /// Where the hub's namespace is bound (`hub`) and remembered (`hub.json`).
    pub run_dir: PathBuf,
    /// The prefix that hubs on this host take their /22 out of.
    pub network_pool: Cidr,
    /// Resolvers of the host, of which the first answers questions to the gateway. `None` reads the
    /// host's own configuration; an empty list means no name resolution.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// Links of the host by which sandboxes may leave. `None` takes those of the default routes.
    pub uplinks: Option<Vec<String>>,
    /// How many connections one sandbox may have open to the outside, so that none can fill the
    /// host's table of connections.
    pub connections_per_slot: u32,
    /// Threads that make and free slots.
    pub threads: usize,
}

impl HubOptions {
    /// The default settings for `instance`, kept under `run_dir`.
    pub fn new(instance: impl Into<String>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            instance: instance.into(),
            run_dir: run_dir.into(),
            network_pool: Cidr::new(Ipv4Addr::new(10, 213, 0, 0), 18),
            resolvers: None,
            uplinks: None,
            connections_per_slot: 4096,
            threads: 2,
        }
    }
}

/// Checks that `instance` is 8 lower-case hexadecimal digits: it becomes part of a table's name and of
/// rules.
pub(crate) fn check_instance(instance: &str) -> Result<()> {
    if instance.len() == 8 && instance.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(Error::Setting {
        field: "instance",
        value: instance.to_owned(),
        expected: "8 lower-case hexadecimal digits".into(),
    })
}
