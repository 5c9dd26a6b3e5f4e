//! Reading mmdebstrap's verbose output: how far it is, and what went wrong.

use crate::progress::Stage;

/// Where each stage begins and ends, in percent of the whole; fitted to a build of about a minute.
const SPANS: &[(Stage, u8, u8)] =
    &[(Stage::Updating, 0, 4), (Stage::Downloading, 4, 10), (Stage::Extracting, 10, 13), (Stage::Installing, 13, 90)];

/// How many lines at the end of the output can still explain a failure.
const KEPT_LINES: usize = 200;

/// Follows the output line by line.
#[derive(Debug)]
pub(crate) struct Output {
    stage: Stage,
    steps: u64,
    packages: u64,
    tail: std::collections::VecDeque<String>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { stage: Stage::Updating, steps: 0, packages: 0, tail: std::collections::VecDeque::new() }
    }

    /// Takes one line and tells where the build is now.
    pub(crate) fn line(&mut self, line: &str) -> (Stage, u8) {
        let line = line.trim_end();
        if let Some(phase) = line.strip_prefix("I: ") {
            let stage = match phase {
                p if p.starts_with("running apt-get update") => Some(Stage::Updating),
                p if p.starts_with("downloading packages") => Some(Stage::Downloading),
                p if p.starts_with("extracting archives") => Some(Stage::Extracting),
                p if p.starts_with("installing ") => Some(Stage::Installing),
                _ => None,
            };
            // Installing is two phases, first the essential packages, then the rest.
            if let Some(stage) = stage.filter(|s| *s > self.stage) {
                self.stage = stage;
                self.steps = 0;
            }
        } else if let Some(packages) = newly_installed(line) {
            self.packages += packages;
        } else if ["Get:", "Unpacking ", "Setting up "].iter().any(|p| line.starts_with(p)) {
            self.steps += 1;
        }
        self.tail.push_back(line.chars().take(500).collect());
        if self.tail.len() > KEPT_LINES {
            self.tail.pop_front();
        }
        (self.stage, self.percent())
    }

    /// The stage's share by the number of steps seen: one a package to fetch, two to unpack and set up, and
    /// the larger part of the packages is only announced in the middle of installing.
    fn percent(&self) -> u8 {
        let expected = match self.stage {
            Stage::Downloading => self.packages,
            // Essential packages are few; the rest is fetched, unpacked and set up in this stage.
            Stage::Installing => 3 * self.packages.max(400),
            _ => 8,
        };
        let Some(&(_, from, to)) = SPANS.iter().find(|(stage, ..)| *stage == self.stage) else {
            return 0;
        };
        let part = u64::from(to - from) * self.steps.min(expected) / expected.max(1);
        from + u8::try_from(part).unwrap_or(0)
    }

    /// Whether the output says that the disk was full.
    pub(crate) fn says_full(&self) -> bool {
        self.tail
            .iter()
            .any(|l| l.contains("No space left on device") || l.contains("You don't have enough free space"))
    }

    /// The lines that tell most about a failure: errors if there are some, else the last ones.
    pub(crate) fn failure(&self) -> String {
        let is_error = |l: &&String| {
            ["E: ", "Err:", "dpkg: error", "sh: ", "unshare: ", "setpriv: "].iter().any(|p| l.starts_with(p))
        };
        let mut lines: Vec<&str> = self.tail.iter().filter(is_error).map(String::as_str).collect();
        if lines.is_empty() {
            lines = self.tail.iter().rev().take(5).rev().map(String::as_str).collect();
        }
        lines.dedup();
        let start = lines.len().saturating_sub(5);
        if lines.is_empty() { "mmdebstrap said nothing".to_owned() } else { lines[start..].join("; ") }
    }
}

/// The number in `0 upgraded, 448 newly installed, 0 to remove and 0 not upgraded.`
fn newly_installed(line: &str) -> Option<u64> {
    let (before, _) = line.split_once(" newly installed")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_percentages_follow_the_output_and_never_go_back() {
        let mut lines = vec![
            "I: chroot architecture amd64 is equal to the host's architecture".to_owned(),
            "I: running apt-get update...".to_owned(),
            "Get:1 http://mirror.example.invalid/debian bookworm InRelease [151 kB]".to_owned(),
            "I: downloading packages with apt...".to_owned(),
            "0 upgraded, 89 newly installed, 0 to remove and 0 not upgraded.".to_owned(),
        ];
        lines.extend((0..89).map(|n| format!("Get:{n} http://mirror.example.invalid/debian bookworm/main x")));
        lines.push("I: extracting archives...".to_owned());
        lines.push("I: installing essential packages...".to_owned());
        lines.push("I: installing remaining packages inside the chroot...".to_owned());
        lines.push("0 upgraded, 448 newly installed, 0 to remove and 0 not upgraded.".to_owned());
        lines.extend((0..448).map(|n| format!("Unpacking p{n} (1.0) ...")));
        lines.extend((0..448).map(|n| format!("Setting up p{n} (1.0) ...")));
        let mut output = Output::new();
        let seen: Vec<_> = lines.iter().map(|l| output.line(l)).collect();
        assert!(seen.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1), "{seen:?}");
        assert_eq!(seen[93], (Stage::Downloading, 10));
        let (stage, percent) = seen[seen.len() - 1];
        assert!(stage == Stage::Installing && percent > 50, "{percent}");
    }

    #[test]
    fn a_failure_is_told_by_its_error_lines() {
        let mut output = Output::new();
        for line in ["Reading package lists...", "E: Unable to locate package x", "I: removing tempdir"] {
            output.line(line);
        }
        assert_eq!(output.failure(), "E: Unable to locate package x");
        assert!(!output.says_full());
        output.line("dpkg: error processing archive: No space left on device");
        assert!(output.says_full());
    }
}
