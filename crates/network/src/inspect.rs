//! What an instance has on this host, and how it is taken away. Both work with the server stopped or
//! running, from what the kernel shows.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use serde::Serialize;

use crate::error::Result;
use crate::forwarding;
use crate::hub::blocking;
use crate::lock::HostLock;
use crate::namespace;
use crate::netlink::route;
use crate::netlink::{Family, Netlink};
use crate::nft;
use crate::options::check_instance;
use crate::rules::{HUB_TABLE, host_table, without_host_table};
use crate::slot::number_of_link;
use crate::state;
use crate::survey;

/// Counts of what belongs to an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Owned {
    /// The host's link to the hub, and one link per slot. (The other ends go with them.)
    pub links: usize,
    /// Rules on the host and in the hub.
    pub rules: usize,
    /// The hub's namespace, and one per slot.
    pub namespaces: usize,
    /// The bind mount that holds the hub's namespace.
    pub mounts: usize,
}

/// Counts what `instance`, whose hub is bound below `run_dir`, has on this host.
///
/// # Errors
/// The step that was refused, such as a missing `nft`.
pub async fn owned(instance: &str, run_dir: &Path) -> Result<Owned> {
    check_instance(instance)?;
    let (instance, run_dir) = (instance.to_owned(), run_dir.to_owned());
    blocking(move || count(&instance, &run_dir)).await
}

fn count(instance: &str, run_dir: &Path) -> Result<Owned> {
    let mut owned = Owned::default();
    let mut host = Netlink::open(Family::Route)?;
    owned.links = survey::links(&mut host)?.iter().filter(|link| forwarding::is_of(link, instance)).count();
    owned.rules = nft::count_rules("the host", &host_table(instance))?.unwrap_or(0);
    if let Some(hub) = namespace::bound_to(&run_dir.join("hub"))? {
        let (slots, rules) = namespace::on_thread(Some(hub.as_fd()), || {
            let slots = slot_links(&mut Netlink::open(Family::Route)?)?.len();
            Ok((slots, nft::count_rules("the hub", HUB_TABLE)?.unwrap_or(0)))
        })?;
        owned.mounts = 1;
        owned.namespaces = 1 + slots;
        owned.links += slots;
        owned.rules += rules;
    }
    Ok(owned)
}

/// Takes away everything that `instance` has on this host: slots, link, rules, the hub's namespace, what
/// was changed about forwarding, and the memory of it. Returns what there was. Sandboxes that still run
/// lose their network. Can be repeated, and repeats what a killed predecessor began.
///
/// # Errors
/// The step that was refused; the steps behind it have not been done.
pub async fn purge(instance: &str, run_dir: &Path) -> Result<Owned> {
    check_instance(instance)?;
    let (instance, run_dir) = (instance.to_owned(), run_dir.to_owned());
    blocking(move || {
        let _lock = HostLock::take()?;
        let owned = count(&instance, &run_dir)?;
        remove(&instance, &run_dir)?;
        Ok(owned)
    })
    .await
}

fn remove(instance: &str, run_dir: &Path) -> Result<()> {
    let mut host = Netlink::open(Family::Route)?;
    let links = survey::links(&mut host)?;
    let (mine, others): (Vec<_>, Vec<_>) = links.iter().partition(|link| forwarding::is_of(link, instance));
    let mut restore: BTreeSet<String> =
        mine.iter().flat_map(|link| forwarding::listed(link).collect::<Vec<_>>()).collect();
    if let Some(state) = state::load(run_dir)?
        && state.boot_id == state::boot_id()?
    {
        restore.extend(state.forwarding);
    }
    // Others that need it have taken over the duty.
    for link in &others {
        forwarding::listed(link).for_each(|name| {
            restore.remove(&name);
        });
    }

    // The link goes after forwarding is restored: it carries the memory of that.
    for name in &restore {
        if forwarding::is_on(name)?.is_some() {
            forwarding::set(name, false)?;
        }
    }
    let path = run_dir.join("hub");
    if let Some(hub) = namespace::bound_to(&path)? {
        // A server that still runs keeps the namespace alive; it must not keep slots.
        namespace::on_thread(Some(hub.as_fd()), || {
            let mut hub = Netlink::open(Family::Route)?;
            let slots = slot_links(&mut hub)?;
            let deletions: Vec<_> = slots.iter().map(|name| route::delete_link(name).or(Errno::NODEV)).collect();
            hub.execute(&deletions)
        })?;
    }
    for link in &mine {
        host.execute(&[route::delete_link(&link.name).or(Errno::NODEV)])?;
    }
    nft::load("the host", &without_host_table(instance))?;
    namespace::remove_bound(&path)?;
    state::remove(run_dir)
}

fn slot_links(hub: &mut Netlink) -> Result<Vec<String>> {
    let links = survey::links(hub)?;
    Ok(links.into_iter().map(|link| link.name).filter(|name| number_of_link(name).is_some()).collect())
}
