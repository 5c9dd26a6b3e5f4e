//! The two formats of apt's sources: deb822 (`*.sources`) and one line an entry (`*.list`).
//! What apt would refuse is skipped here: apt itself complains about it.

use super::{SignedBy, Source};

/// Fields with a place of their own, or of no use for a template of one architecture and no translations.
const KNOWN: &[&str] = &[
    "types",
    "uris",
    "suites",
    "components",
    "signed-by",
    "enabled",
    "architectures",
    "languages",
    "targets",
    "description",
    "x-repolib-name",
];

/// Entries of a file in deb822 form that are enabled and of type `deb`.
#[must_use]
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            found.extend(stanza(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, lines)) = fields.last_mut() {
                lines.push(line.to_owned());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), vec![value.to_owned()]));
        }
    }
    found
}

fn stanza(fields: &[(String, Vec<String>)]) -> Option<Source> {
    let lines = |wanted: &str| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, v)| v);
    let words = |wanted: &str| -> Vec<String> {
        lines(wanted).into_iter().flatten().flat_map(|l| l.split_whitespace()).map(str::to_owned).collect()
    };
    let enabled = words("enabled").first().is_none_or(|v| is_true(v));
    if !enabled || !words("types").iter().any(|t| t == "deb") {
        return None;
    }
    let (uris, suites) = (words("uris"), words("suites"));
    if uris.is_empty() || suites.is_empty() {
        return None;
    }
    let signed_by = match lines("signed-by") {
        None => SignedBy::Anything,
        Some(lines) if lines.iter().any(|l| l.contains("BEGIN PGP")) => SignedBy::Embedded(lines.clone()),
        Some(_) => named(words("signed-by")),
    };
    let options = fields
        .iter()
        .filter(|(name, _)| !KNOWN.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(name, _)| (name.clone(), words(name).join(" ")))
        .collect();
    Some(Source { uris, suites, components: words("components"), signed_by, options })
}

/// Entries of a file with one entry a line that are of type `deb`.
#[must_use]
pub fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let mut rest = line.strip_prefix("deb").filter(|r| r.starts_with([' ', '\t', '[']))?.trim_start();
    let (mut signed_by, mut options) = (SignedBy::Anything, Vec::new());
    if let Some(inner) = rest.strip_prefix('[') {
        let (inside, after) = inner.split_once(']')?;
        rest = after;
        for (name, value) in inside.split_whitespace().filter_map(|o| o.split_once('=')) {
            match name {
                "signed-by" => signed_by = named(value.split(',').map(str::to_owned).collect()),
                "arch" | "lang" | "target" => {}
                _ => options.push((field_name(name), value.replace(',', " "))),
            }
        }
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    let components = words.collect();
    Some(Source { uris: vec![uri], suites: vec![suite], components, signed_by, options })
}

fn named(keys: Vec<String>) -> SignedBy {
    if keys.is_empty() { SignedBy::Anything } else { SignedBy::Named(keys) }
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "1" | "with" | "enable")
}

/// `check-valid-until` as `Check-Valid-Until`.
fn field_name(option: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|c| c.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    option.split('-').map(capital).collect::<Vec<_>>().join("-")
}
