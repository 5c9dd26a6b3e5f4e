//! What the server builds from packages, as data: packages, settings, and a digest that changes when they do.

use crate::name::DEFAULT;

const PACKAGES: &str = include_str!("../recipes/default.packages");
const DEBIAN_PACKAGES: &str = include_str!("../recipes/debian.packages");
const CUSTOMIZE: &str = include_str!("../recipes/default.sh");

/// Paths left out when packages are unpacked; the same list is set inside for later installations.
pub(crate) const DPKG_OPTIONS: &[&str] = &[
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/groff/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    // The tree is synced once at the end, and worthless before.
    "force-unsafe-io",
];

/// Raised when the code that finishes a root changes what comes out.
const REVISION: u32 = 1;

/// What must be there for the default template to be one.
const REQUIRED: &[&str] = &[
    "usr/bin/bash",
    "usr/bin/python3",
    "usr/bin/python",
    "usr/bin/pip3",
    "usr/bin/node",
    "usr/bin/npm",
    "usr/bin/git",
    "usr/bin/curl",
    "usr/bin/apt-get",
    "usr/bin/ps",
    "workspace",
    "app",
    "home/sandbox",
    "etc/pip.conf",
    "etc/ssl/certs/ca-certificates.crt",
];

/// The same for a bare Debian.
const DEBIAN_REQUIRED: &[&str] =
    &["usr/bin/bash", "usr/bin/apt-get", "workspace", "app", "home/sandbox", "etc/ssl/certs/ca-certificates.crt"];

/// What a template is made of.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) name: String,
    /// The release it is made of; `None`: the preferred one.
    pub(crate) release: Option<String>,
    pub(crate) packages: Vec<&'static str>,
    /// What must be there in the end, as relative paths.
    pub(crate) required: &'static [&'static str],
    /// Shell script, run on the host with the root as its argument.
    pub(crate) customize: &'static str,
    pub(crate) digest: String,
}

impl Recipe {
    /// The recipe of the template `default`. `extra` is whatever else decides the result (a sources file).
    pub(crate) fn standard(extra: &str) -> Self {
        Self::new(DEFAULT.to_owned(), None, PACKAGES, REQUIRED, extra)
    }

    /// The recipe of the template `debian-<release>`: the essential packages, apt, and hardly more.
    pub(crate) fn debian(release: &str, extra: &str) -> Self {
        let name = format!("debian-{release}");
        Self::new(name, Some(release.to_owned()), DEBIAN_PACKAGES, DEBIAN_REQUIRED, extra)
    }

    fn new(
        name: String,
        release: Option<String>,
        packages: &'static str,
        required: &'static [&'static str],
        extra: &str,
    ) -> Self {
        let packages: Vec<_> =
            packages.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        let mut hasher = blake3::Hasher::new();
        let revision = REVISION.to_string();
        let parts = [name.as_str(), std::env::consts::ARCH, revision.as_str(), CUSTOMIZE, extra];
        for part in parts.iter().chain(DPKG_OPTIONS).chain(&packages) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let digest = crate::tree::short_hex(&hasher);
        Self { name, release, packages, required, customize: CUSTOMIZE, digest }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_names_the_recipe_and_its_sources() {
        let plain = Recipe::standard("");
        assert_eq!(plain.digest, Recipe::standard("").digest);
        assert_ne!(plain.digest, Recipe::standard("Types: deb").digest);
        assert!(crate::manifest::is_digest(&plain.digest));
    }

    #[test]
    fn each_release_has_a_name_and_digest_of_its_own() {
        let (one, other) = (Recipe::debian("bookworm", ""), Recipe::debian("trixie", ""));
        assert_eq!((one.name.as_str(), one.release.as_deref()), ("debian-bookworm", Some("bookworm")));
        assert_ne!(one.digest, other.digest);
        assert_ne!(one.digest, Recipe::standard("").digest);
    }

    #[test]
    fn every_line_of_the_package_list_is_one_package_name() {
        for package in Recipe::standard("").packages.into_iter().chain(Recipe::debian("sid", "").packages) {
            let plain = package.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b));
            assert!(plain, "{package:?}");
        }
    }
}
