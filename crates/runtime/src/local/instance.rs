//! One sandbox that runs.

use crate::agent_client::AgentClient;
use forkpoint_domain::ids::{LayerId, SandboxId};
use forkpoint_engine::ports::runtime::Instance;
use forkpoint_jail::Group;
use std::net::Ipv4Addr;
use tokio_util::sync::CancellationToken;

/// Everything the runtime holds of a running sandbox.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) sandbox: SandboxId,
    pub(super) layer: LayerId,
    pub(super) slot: u16,
    pub(super) address: Ipv4Addr,
    pub(super) group: Group,
    pub(super) agent: AgentClient,
    /// Cancelled before its processes are ended: whoever waits for its agent stops waiting.
    pub(super) gone: CancellationToken,
}

impl Running {
    pub(super) fn describe(&self) -> Instance {
        Instance { sandbox: self.sandbox, layer: self.layer, address: self.address.to_string() }
    }
}
