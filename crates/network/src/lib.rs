//! The network of the sandboxes of one data directory: a hub namespace, and one slot per sandbox.
//!
//! Every sandbox sees the same `eth0` (10.0.0.2/30, gateway 10.0.0.1) in a network namespace of its
//! own. The other end of its link, `s<N>`, lies in the *hub*, a namespace in which stateless rules
//! give it an address that is unique on the host. The hub forwards nothing but answers, questions to
//! the resolver, and what goes to public addresses. The host sees one link `fp<I>`, one route and one
//! table of rules per data directory.
//!
//! ```text
//!  sandbox                     hub                                   host
//!  eth0 10.0.0.2/30 ──── s<N>  raw: saddr := 10.213.x.N        ┌── fp<I>   input: answers only
//!                              dns: 10.0.0.1:53 -> resolver    │           forward: public only
//!                              forward: policy drop   hub ─────┘           postrouting: masquerade
//! ```
//!
//! What is absent on purpose: no address or listener of the hub is reachable from a sandbox, no
//! process runs in the hub, and making a slot starts no process and loads no rule.

mod address;
mod conntrack;
mod error;
mod forwarding;
mod hub;
mod inspect;
mod lock;
mod namespace;
mod netlink;
mod nft;
mod numbers;
mod options;
mod pool;
mod probe;
mod resolvers;
mod rules;
mod slot;
mod state;
mod survey;
mod worker;

pub use address::{Cidr, Plan};
pub use error::{Error, Result};
pub use hub::Hub;
pub use inspect::{Owned, owned, purge};
pub use options::HubOptions;
pub use pool::SlotPool;
pub use probe::{Check, NetworkProbe, probe};
pub use slot::{SLOT_GATEWAY, SLOT_INTERFACE, SLOT_NETMASK, SLOT_PEER, Slot};
