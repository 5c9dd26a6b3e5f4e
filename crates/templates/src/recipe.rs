//! The default template's recipe, as data: packages, settings, and a digest that changes when they do.

use crate::name::DEFAULT;

const PACKAGES: &str = include_str!("../recipes/default.packages");
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

/// What a template is made of.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) packages: Vec<&'static str>,
    /// Shell script, run on the host with the root as its argument.
    pub(crate) customize: &'static str,
    pub(crate) digest: String,
}

impl Recipe {
    /// The recipe of the template `default`. `extra` is whatever else decides the result (a sources file).
    pub(crate) fn standard(extra: &str) -> Self {
        let packages: Vec<_> =
            PACKAGES.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        let mut hasher = blake3::Hasher::new();
        let revision = REVISION.to_string();
        let parts = [DEFAULT, std::env::consts::ARCH, revision.as_str(), CUSTOMIZE, extra];
        for part in parts.iter().chain(DPKG_OPTIONS).chain(&packages) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let digest = crate::tree::short_hex(&hasher);
        Self { name: DEFAULT, packages, customize: CUSTOMIZE, digest }
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
    fn every_line_of_the_package_list_is_one_package_name() {
        for package in Recipe::standard("").packages {
            let plain = package.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b));
            assert!(plain, "{package:?}");
        }
    }
}
