//! Which package sources a template is built from: the distribution's own among those of the host's apt.
//!
//! No mirror is named in this program. On a host with Debian bookworm among its sources that release is
//! taken; on any other, the host's own release (then the template is of that release).

mod host;
mod parse;

use std::fmt::Write as _;

pub use host::HostApt;
pub use parse::{parse_deb822, parse_one_line};

/// The release that templates are made of where the host has it.
const PREFERRED_RELEASE: &str = "bookworm";

/// Components of Debian's and Ubuntu's own archives; other archives name theirs otherwise as a rule.
const COMPONENTS: &[&str] =
    &["main", "contrib", "non-free", "non-free-firmware", "universe", "restricted", "multiverse"];

/// Releases by standing rather than by name.
const STANDINGS: &[&str] = &["stable", "oldstable", "oldoldstable", "testing", "unstable", "sid", "devel"];

/// One entry of apt's configuration, for packages in binary form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where the archive is; any scheme that apt knows.
    pub uris: Vec<String>,
    /// Suites, such as `bookworm-updates`.
    pub suites: Vec<String>,
    /// Components, such as `main`.
    pub components: Vec<String>,
    /// The keys that it must be signed with.
    pub signed_by: SignedBy,
    /// Further fields by their deb822 name, such as (`Trusted`, `yes`).
    pub options: Vec<(String, String)>,
}

/// What `Signed-By` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedBy {
    /// Nothing: any key that apt trusts.
    Anything,
    /// Key files or fingerprints.
    Named(Vec<String>),
    /// A key written into the entry; lines as they stand, the first after the colon.
    Embedded(Vec<String>),
}

/// The sources of one release, ready to be written for mmdebstrap and into the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Release name, such as `bookworm`.
    pub release: String,
    /// Entries reduced to that release, its updates and its security updates.
    pub sources: Vec<Source>,
}

/// Picks the distribution's own entries out of `sources`, and one release among them.
///
/// `own_release` is the host's `VERSION_CODENAME`; `origin` tells the `Origin` of an already fetched
/// Release file by (URI, suite). An entry is the distribution's if its keyring is, or, where it names no
/// keyring, its origin, or, where nothing was fetched yet, if suites and components are those of such an
/// archive. `Err` tells what was found instead.
///
/// # Errors
/// A phrase for people, if nothing is left.
pub fn select(
    sources: &[Source],
    own_release: &str,
    origin: &dyn Fn(&str, &str) -> Option<String>,
) -> Result<Selection, String> {
    let own = own_entries(sources, own_release, origin);
    let has = |wanted: &str| own.iter().any(|s| s.suites.iter().any(|suite| suite == wanted));
    let release = [PREFERRED_RELEASE, own_release]
        .into_iter()
        .chain(STANDINGS.iter().copied())
        .find(|release| !release.is_empty() && has(release))
        .ok_or_else(|| {
            format!(
                "{} entries, of them {} of the distribution itself, none for {PREFERRED_RELEASE} or the host's own release {own_release:?}",
                sources.len(),
                own.len()
            )
        })?
        .to_owned();
    Ok(reduce(own, release))
}

/// The same for a certain release.
///
/// # Errors
/// A phrase for people, if the host has no sources for it.
pub fn select_release(
    sources: &[Source],
    own_release: &str,
    origin: &dyn Fn(&str, &str) -> Option<String>,
    release: &str,
) -> Result<Selection, String> {
    let own = own_entries(sources, own_release, origin);
    let suites: std::collections::BTreeSet<&str> =
        own.iter().flat_map(|source| &source.suites).map(String::as_str).collect();
    if !suites.contains(release) {
        let known: Vec<_> = suites.into_iter().filter(|suite| !suite.contains('-')).collect();
        return Err(format!("none for {release:?}; there are {}", known.join(", ")));
    }
    Ok(reduce(own, release.to_owned()))
}

/// The distribution's own entries, each with those of its suites that are.
fn own_entries(sources: &[Source], own_release: &str, origin: &dyn Fn(&str, &str) -> Option<String>) -> Vec<Source> {
    let mut own: Vec<Source> = Vec::new();
    for source in sources {
        let mut source = source.clone();
        source.uris.retain(|uri| !uri.starts_with("cdrom:"));
        source.suites.retain(|suite| !suite.ends_with('/'));
        let uris = source.uris.clone();
        let looks_own =
            |suite: &str| is_own(&source, suite, own_release, &|s| uris.iter().find_map(|uri| origin(uri, s)));
        let suites = source.suites.iter().filter(|s| looks_own(s)).cloned().collect();
        source.suites = suites;
        if !source.uris.is_empty() && !source.suites.is_empty() {
            own.push(source);
        }
    }
    own
}

/// What of the entries is of a release, its updates and its security updates.
fn reduce(mut own: Vec<Source>, release: String) -> Selection {
    for source in &mut own {
        source.suites.retain(|suite| {
            suite.strip_prefix(&release).is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"))
        });
    }
    own.retain(|source| !source.suites.is_empty());
    Selection { release, sources: own }
}

fn is_own(source: &Source, suite: &str, own_release: &str, origin: &dyn Fn(&str) -> Option<String>) -> bool {
    match &source.signed_by {
        SignedBy::Named(keys) => keys.iter().all(|key| {
            let file = key.rsplit('/').next().unwrap_or_default();
            key.starts_with('/') && (file.starts_with("debian-archive-") || file.starts_with("ubuntu-archive-"))
        }),
        SignedBy::Anything | SignedBy::Embedded(_) => match origin(suite) {
            Some(origin) => matches!(origin.as_str(), "Debian" | "Ubuntu"),
            None => {
                let base = suite.split('-').next().unwrap_or_default();
                let known = base == own_release || base == PREFERRED_RELEASE || STANDINGS.contains(&base);
                let plain = source.components.iter().all(|c| COMPONENTS.contains(&c.as_str()));
                known && plain && source.signed_by == SignedBy::Anything
            }
        },
    }
}

impl Selection {
    /// The entries as mmdebstrap and the host's apt read them, in deb822 form.
    #[must_use]
    pub fn for_build(&self) -> String {
        self.sources.iter().map(|source| render(source, &source.uris, &source.signed_by)).collect()
    }

    /// The entries for apt inside the template: without credentials; mirror lists, which are files of the
    /// host, replaced by what `mirrors` gives for their URI; key files kept only if `has_key` finds them
    /// inside.
    #[must_use]
    pub fn for_inside(&self, mirrors: &dyn Fn(&str) -> Vec<String>, has_key: &dyn Fn(&str) -> bool) -> String {
        let mut text = String::new();
        for source in &self.sources {
            let uris: Vec<String> = source
                .uris
                .iter()
                .flat_map(|uri| if uri.starts_with("mirror+file:") { mirrors(uri) } else { vec![uri.clone()] })
                .map(|uri| without_credentials(&uri))
                .collect();
            let signed_by = match &source.signed_by {
                SignedBy::Named(keys) if !keys.iter().all(|key| has_key(key)) => &SignedBy::Anything,
                other => other,
            };
            if !uris.is_empty() {
                text += &render(source, &uris, signed_by);
            }
        }
        text
    }
}

fn without_credentials(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

fn render(source: &Source, uris: &[String], signed_by: &SignedBy) -> String {
    let mut text = String::from("Types: deb\n");
    let fields = [("URIs", uris), ("Suites", &source.suites), ("Components", &source.components)];
    for (name, values) in fields {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {}", values.join(" "));
    }
    match signed_by {
        SignedBy::Anything => {}
        SignedBy::Named(keys) => {
            let _ = writeln!(text, "Signed-By: {}", keys.join(" "));
        }
        SignedBy::Embedded(lines) => {
            let _ = writeln!(text, "Signed-By:{}", lines.join("\n"));
        }
    }
    for (name, value) in &source.options {
        let _ = writeln!(text, "{name}: {value}");
    }
    text.push('\n');
    text
}
