//! The kernel's settings for forwarding, per link, and who turned them on.
//!
//! That a link forwards only because of us is written into the alias of our own link on the host:
//! `forkpoint:<instance> forwarding=eth0,...`. So it lives exactly as long as the change it describes
//! can, and another instance that finds forwarding on can tell whether it has to inherit the duty of
//! turning it off again.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::survey::Link;

/// The kernel cuts aliases at 255 bytes.
const ALIAS_LIMIT: usize = 255;
const OWNER: &str = "forkpoint:";
const LIST: &str = " forwarding=";

/// The alias of an instance's link on the host. A list that is too long is cut at a name; the rest is
/// known from the instance's file only.
pub(crate) fn alias(instance: &str, forwarding: &BTreeSet<String>) -> String {
    let mut alias = format!("{OWNER}{instance}");
    for (at, name) in forwarding.iter().enumerate() {
        let separator = if at == 0 { LIST } else { "," };
        if alias.len() + separator.len() + name.len() > ALIAS_LIMIT {
            break;
        }
        alias.push_str(separator);
        alias.push_str(name);
    }
    alias
}

/// Whether a link is that of `instance`.
pub(crate) fn is_of(link: &Link, instance: &str) -> bool {
    owner(link) == Some(instance)
}

/// The instance that a link of the host belongs to, if it is one of ours at all.
pub(crate) fn owner(link: &Link) -> Option<&str> {
    link.alias.strip_prefix(OWNER)?.split(' ').next()
}

/// The links that forward because of the owner of `link`.
pub(crate) fn listed(link: &Link) -> impl Iterator<Item = String> {
    let list = owner(link).and_then(|_| link.alias.split_once(LIST)).map_or("", |(_, list)| list);
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Whether `link` forwards what comes in by it. `None` if there is no such link.
pub(crate) fn is_on(link: &str) -> Result<Option<bool>> {
    match std::fs::read_to_string(path(link)) {
        Ok(text) => Ok(Some(text.trim() != "0")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::step("read forwarding of link", link, source)),
    }
}

/// Switches forwarding of what comes in by `link`.
pub(crate) fn set(link: &str, on: bool) -> Result<()> {
    if is_on(link)? == Some(on) {
        return Ok(());
    }
    std::fs::write(path(link), if on { "1" } else { "0" })
        .map_err(|source| Error::step("set forwarding of link", link, source))
}

fn path(link: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv4/conf").join(link).join("forwarding")
}

/// Writes settings below `/proc/sys/net` of the calling thread's namespace. A setting of a part that
/// this kernel does not have, such as IPv6 when it is off, is passed over where `optional`.
pub(crate) fn write_settings(settings: &[(&str, &str, Presence)]) -> Result<()> {
    for (name, value, presence) in settings {
        match std::fs::write(format!("/proc/sys/net/{name}"), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && *presence == Presence::Optional => {}
            Err(source) => return Err(Error::step("write setting net/", *name, source)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Whether every kernel has a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    Required,
    Optional,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(alias: &str) -> Link {
        Link { alias: alias.into(), ..Link::default() }
    }

    #[test]
    fn what_an_alias_says_is_read_back() {
        let names: BTreeSet<_> = ["eth0", "wg0"].map(String::from).into();
        let written = link(&alias("00c0ffee", &names));
        assert!(is_of(&written, "00c0ffee") && !is_of(&written, "00c0ffe"));
        assert_eq!(listed(&written).collect::<BTreeSet<_>>(), names);
        let bare = link(&alias("00c0ffee", &BTreeSet::new()));
        assert!(is_of(&bare, "00c0ffee"));
        assert_eq!(listed(&bare).count(), 0);
        assert_eq!(listed(&link("uplink forwarding=eth0")).count(), 0);
    }

    #[test]
    fn a_long_list_is_cut_at_a_name() {
        let names: BTreeSet<_> = (0..40).map(|i| format!("interface{i:04}")).collect();
        let text = alias("00c0ffee", &names);
        assert!(text.len() <= ALIAS_LIMIT);
        assert!(listed(&link(&text)).all(|name| names.contains(&name)));
    }
}
