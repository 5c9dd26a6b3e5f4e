//! Which of a host's package sources are taken, by samples of both formats.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;

use forkpoint_templates::sources::{HostApt, Selection, SignedBy, parse_deb822, parse_one_line, select};

const DEBIAN_DEB822: &str = "\
# the distribution
Types: deb deb-src
URIs: http://mirror.example.invalid/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.invalid/debian-security
# a comment inside
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Check-Valid-Until: no

Types: deb
URIs: https://cloud.example.invalid/apt
Suites: cloud-sdk-bookworm
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example.invalid/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.example.invalid/debian
Suites: bookworm
Components: main
";

fn nothing_fetched(_: &str, _: &str) -> Option<String> {
    None
}

fn pairs(selection: &Selection) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for source in &selection.sources {
        for uri in &source.uris {
            found.extend(source.suites.iter().map(|suite| (uri.clone(), suite.clone())));
        }
    }
    found
}

fn pair(uri: &str, suite: &str) -> (String, String) {
    (uri.to_owned(), suite.to_owned())
}

#[test]
fn of_deb822_sources_only_the_enabled_own_ones_of_the_release_are_taken() {
    let selection = select(&parse_deb822(DEBIAN_DEB822), "bookworm", &nothing_fetched).unwrap();
    assert_eq!(selection.release, "bookworm");
    let main = "http://mirror.example.invalid/debian";
    let security = "http://mirror.example.invalid/debian-security";
    assert_eq!(
        pairs(&selection),
        [pair(main, "bookworm"), pair(main, "bookworm-updates"), pair(security, "bookworm-security")]
    );
    let text = selection.for_build();
    assert!(text.contains("Check-Valid-Until: no") && text.contains("Components: main contrib"), "{text}");
    assert_eq!(parse_deb822(&text), selection.sources, "what is written is read back the same");
}

#[test]
fn of_one_line_sources_only_the_own_ones_are_taken() {
    let text = "\
# deb http://off.example.invalid/debian bookworm main
deb http://mirror.example.invalid/debian bookworm main contrib # why not
deb [ arch=amd64,arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no ] http://mirror.example.invalid/debian-security/ bookworm-security main
deb-src http://mirror.example.invalid/debian bookworm main
deb [signed-by=/etc/apt/keyrings/vendor.gpg] http://vendor.example.invalid/debian bookworm main
deb http://vendor.example.invalid/engine bookworm stable
deb http://vendor.example.invalid/pg bookworm-pgdg main
deb http://flat.example.invalid/debian ./
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
debris http://x.example.invalid/ bookworm main
deb
";
    let sources = parse_one_line(text);
    let selection = select(&sources, "bookworm", &nothing_fetched).unwrap();
    assert_eq!(
        pairs(&selection),
        [
            pair("http://mirror.example.invalid/debian", "bookworm"),
            pair("http://mirror.example.invalid/debian-security/", "bookworm-security"),
        ]
    );
    assert_eq!(selection.sources[1].options, [("Check-Valid-Until".to_owned(), "no".to_owned())]);
}

#[test]
fn the_origin_of_what_was_fetched_decides_where_no_keyring_is_named() {
    let text = "deb http://a.example.invalid/debian bookworm main\ndeb http://b.example.invalid/debian bookworm main\n";
    let origin = |uri: &str, _: &str| Some(if uri.contains("//a.") { "Debian" } else { "Somebody" }.to_owned());
    let selection = select(&parse_one_line(text), "bookworm", &origin).unwrap();
    assert_eq!(pairs(&selection), [pair("http://a.example.invalid/debian", "bookworm")]);
}

#[test]
fn the_release_is_bookworm_if_present_else_the_hosts_own() {
    let table = [
        (
            "trixie",
            "deb http://m.example.invalid/debian trixie main\ndeb http://m.example.invalid/debian bookworm main\n",
            "bookworm",
        ),
        (
            "trixie",
            "deb http://m.example.invalid/debian trixie main\ndeb http://m.example.invalid/debian trixie-updates main\n",
            "trixie",
        ),
        (
            "noble",
            "deb http://m.example.invalid/ubuntu noble main universe\ndeb http://m.example.invalid/ubuntu noble-security main\n",
            "noble",
        ),
        ("bookworm", "deb http://m.example.invalid/debian stable main\n", "stable"),
    ];
    for (own, text, release) in table {
        let selection = select(&parse_one_line(text), own, &nothing_fetched).unwrap();
        assert_eq!(selection.release, release, "{text}");
        let only = selection.sources.iter().flat_map(|s| &s.suites).all(|s| s.starts_with(release));
        assert!(only, "{selection:?}");
    }
    let vendor = "deb [signed-by=/etc/apt/keyrings/v.gpg] http://v.example.invalid/x bookworm main\n";
    let reason = select(&parse_one_line(vendor), "bookworm", &nothing_fetched).unwrap_err();
    assert!(reason.contains("1 entries, of them 0"), "{reason}");
}

#[test]
fn an_ubuntu_host_keeps_its_components_and_drops_backports_and_vendors() {
    let text = "\
Types: deb
URIs: http://m.example.invalid/ubuntu/
Suites: noble noble-updates noble-backports
Components: main universe restricted multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
URIs: https://vendor.example.invalid/linux/ubuntu
Suites: noble
Components: stable
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBFit
 -----END PGP PUBLIC KEY BLOCK-----
";
    let sources = parse_deb822(text);
    assert!(matches!(&sources[1].signed_by, SignedBy::Embedded(lines) if lines.len() == 5));
    let selection = select(&sources, "noble", &nothing_fetched).unwrap();
    let uri = "http://m.example.invalid/ubuntu/";
    assert_eq!(pairs(&selection), [pair(uri, "noble"), pair(uri, "noble-updates")]);
    assert_eq!(selection.sources[0].components.len(), 4);
}

#[test]
fn inside_there_are_no_credentials_no_host_files_and_only_keys_that_exist_there() {
    let text = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://user:secret@m.example.invalid/debian bookworm main
deb [signed-by=/etc/apt/keyrings/debian-archive-own.gpg] mirror+file:/etc/apt/mirrors/debian.list bookworm-updates main
";
    let selection = select(&parse_one_line(text), "bookworm", &nothing_fetched).unwrap();
    let mirrors = |uri: &str| {
        assert_eq!(uri, "mirror+file:/etc/apt/mirrors/debian.list");
        vec!["http://one.example.invalid/debian".to_owned(), "http://two.example.invalid/debian".to_owned()]
    };
    let inside = selection.for_inside(&mirrors, &|key| key.starts_with("/usr/share/keyrings/"));
    assert!(!inside.contains("secret") && !inside.contains("mirror+file") && !inside.contains("own.gpg"), "{inside}");
    assert!(inside.contains("URIs: https://m.example.invalid/debian\n"), "{inside}");
    assert!(inside.contains("URIs: http://one.example.invalid/debian http://two.example.invalid/debian\n"), "{inside}");
    assert!(selection.for_build().contains("user:secret@"), "building needs the credentials");
}

#[test]
fn a_hosts_configuration_is_read_from_all_its_files_and_no_others() {
    let etc = tempfile::tempdir().unwrap();
    let parts = etc.path().join("sources.list.d");
    fs::create_dir(&parts).unwrap();
    fs::write(etc.path().join("sources.list"), "deb http://a.example.invalid/debian bookworm main\n").unwrap();
    fs::write(parts.join("b.list"), "deb http://b.example.invalid/debian bookworm-updates main\n").unwrap();
    fs::write(parts.join("c.sources"), DEBIAN_DEB822).unwrap();
    fs::write(parts.join("d.list.disabled"), "deb http://d.example.invalid/debian bookworm main\n").unwrap();
    let sources = HostApt::at(etc.path()).sources().unwrap();
    let uris: Vec<_> = sources.iter().flat_map(|s| &s.uris).map(String::as_str).collect();
    assert_eq!(
        uris,
        [
            "http://a.example.invalid/debian",
            "http://b.example.invalid/debian",
            "http://mirror.example.invalid/debian",
            "http://mirror.example.invalid/debian-security",
            "https://cloud.example.invalid/apt",
        ]
    );
    let empty = tempfile::tempdir().unwrap();
    let error = HostApt::at(empty.path()).select(None).unwrap_err().to_string();
    assert!(error.starts_with("no usable Debian or Ubuntu package source in "), "{error}");
}

#[test]
fn damaged_sources_never_make_the_parser_panic() {
    for text in [
        "",
        ":",
        "\n\n",
        " x",
        "Types:\n",
        "deb [",
        "deb ]",
        "deb [a=b",
        "deb[] u s",
        "Types: deb\nURIs:\nSuites: \n",
        "\u{0}\u{fffd}: deb",
    ] {
        let _ = parse_one_line(text);
        let _ = parse_deb822(text);
    }
}
