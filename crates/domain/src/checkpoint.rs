//! A checkpoint: an immutable saved point, and how far it is safe.

use crate::{
    Invalid,
    ids::{CheckpointId, LayerId, OrgId, SandboxId},
    scope::ScopeSpec,
    server::ServerId,
    template::TemplateRef,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The largest metadata accepted, in bytes of compact JSON.
pub const MAX_METADATA_BYTES: usize = 10 * 1024;
/// The most bytes a captured set may have, unless the server is set otherwise.
pub const DEFAULT_MAX_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// The most files a captured set may have, unless the server is set otherwise.
pub const DEFAULT_MAX_FILES: u64 = 100_000;
/// How long a checkpoint is kept, unless the server is set otherwise, in days.
pub const DEFAULT_RETENTION_DAYS: u32 = 90;

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident, $field:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The value as clients and the database write it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(Invalid::new($field, concat!("must be one of", $(" ", $text),+))),
                }
            }
        }
    };
}

text_enum!(
    /// What a checkpoint holds.
    CheckpointKind, "kind" {
        /// Tree and environment; the scope applies.
        Files = "files",
        /// Memory and processes too.
        Full = "full",
    }
);

text_enum!(
    /// Whether a checkpoint can be used.
    ///
    /// `processing -> ready | failed`; `ready` means that layer and row are on this machine's stable storage.
    CheckpointStatus, "status" {
        /// Its layer is being fixed or measured.
        Processing = "processing",
        /// It can be restored and forked, and stays so.
        Ready = "ready",
        /// It could not be made; it can only be deleted.
        Failed = "failed",
    }
);

text_enum!(
    /// How far a checkpoint has come on its way into the vault. Never shown better than proven.
    Durability, "durability" {
        /// Only the layer on this machine holds it.
        Captured = "captured",
        /// All its data was written to the store and synced.
        Durable = "durable",
        /// All its data was read back from the store and hashed.
        Verified = "verified",
        /// It could not be written to the store.
        Failed = "failed",
    }
);

/// A checkpoint as recorded. Its captured environment is kept sealed beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Its name for ever.
    pub id: CheckpointId,
    /// Whose it is.
    pub org_id: OrgId,
    /// On which server its layer was made; never changes.
    pub server: ServerId,
    /// The sandbox it was captured from (for a clone: its origin's).
    pub sandbox_id: SandboxId,
    /// The checkpoint that the sandbox's layer came from when this one was captured.
    pub parent_id: Option<CheckpointId>,
    /// The checkpoint this one is a clone of.
    pub cloned_from: Option<CheckpointId>,
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What it holds.
    pub kind: CheckpointKind,
    /// Whether it can be used.
    pub status: CheckpointStatus,
    /// Why it failed.
    pub failure: Option<String>,
    /// How far the vault is.
    pub durability: Durability,
    /// Why it is not in the vault, for durability `failed`.
    pub durability_reason: Option<String>,
    /// When all its data was in the store.
    pub durable_at: Option<Timestamp>,
    /// When all its data had been read back.
    pub verified_at: Option<Timestamp>,
    /// What its layer lies on.
    pub template: TemplateRef,
    /// The layer that holds it; shared by clones.
    pub layer: LayerId,
    /// What was captured.
    pub scope: ScopeSpec,
    /// Whether it captured the environment.
    pub has_env: bool,
    /// The caller's own JSON object.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Regular files and symbolic links of the captured set.
    pub file_count: u64,
    /// Bytes of its regular files, hard links once.
    pub size_bytes: u64,
    /// `b3:<hex>` once computed, else empty.
    pub checksum: String,
    /// How long the sandbox stood still, in milliseconds.
    pub pause_ms: f64,
    /// How long the capture took, flush included, in milliseconds.
    pub copy_duration_ms: f64,
    /// When it was captured.
    pub created_at: Timestamp,
    /// When retention removes it, unless it is pinned; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// Whether retention leaves it alone, whatever `expires_at` says.
    pub pinned: bool,
    /// Which step of a recipe it is the outcome of. Such a one is kept only to save repeating the step: it is not
    /// listed, does not go into the vault, and may be removed at any time.
    pub step_key: Option<String>,
}

impl Checkpoint {
    /// Whether it is kept as long as this one.
    pub fn is_kept_as(&self, other: &Self) -> bool {
        (self.expires_at, self.pinned) == (other.expires_at, other.pinned)
    }

    /// When retention removes it; `None`: never.
    pub fn retained_until(&self) -> Option<Timestamp> {
        self.expires_at.filter(|_| !self.pinned)
    }
}

/// How long one checkpoint is kept, where that differs from what the server is set to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Kept this many seconds from now; 0: for ever.
    pub seconds: Option<i64>,
    /// Whether retention leaves it alone.
    pub pinned: Option<bool>,
}

/// The longest retention that can be asked for: 100 years.
pub const MAX_RETENTION_SECONDS: i64 = 100 * 365 * 24 * 3600;

impl Retention {
    /// Checks what was asked for.
    pub fn check(&self) -> Result<(), Invalid> {
        match self.seconds {
            Some(seconds) if !(0..=MAX_RETENTION_SECONDS).contains(&seconds) => Err(Invalid::new(
                "retention_seconds",
                format!("must be between 1 and {MAX_RETENTION_SECONDS}, or 0 to keep it for ever"),
            )),
            _ => Ok(()),
        }
    }

    /// End and pin of a checkpoint made now, on a server that keeps checkpoints for `days`.
    pub fn of_new(&self, now: Timestamp, days: u32) -> (Option<Timestamp>, bool) {
        let end = self.seconds.map_or_else(|| retention_end(now, days), |seconds| after(now, seconds));
        (end, self.pinned.unwrap_or(false))
    }

    /// End and pin of a checkpoint that had `end` and `pinned`. Who takes the pin off begins a new retention: what
    /// was pinned for long would else be gone at once.
    pub fn changed(
        &self,
        end: Option<Timestamp>,
        pinned: bool,
        now: Timestamp,
        days: u32,
    ) -> (Option<Timestamp>, bool) {
        let unpinned = pinned && self.pinned == Some(false);
        let end = match self.seconds {
            Some(seconds) => after(now, seconds),
            None if unpinned && end.is_some() => retention_end(now, days),
            None => end,
        };
        (end, self.pinned.unwrap_or(pinned))
    }
}

fn after(now: Timestamp, seconds: i64) -> Option<Timestamp> {
    (seconds > 0).then(|| now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX))
}

/// Checks a checkpoint's name: 1 to 256 characters, not only blanks, no control characters.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    if name.trim().is_empty() {
        return Err(Invalid::new("name", "is required and must not be empty"));
    }
    if name.chars().count() > 256 {
        return Err(Invalid::new("name", "must have at most 256 characters"));
    }
    if name.chars().any(char::is_control) {
        return Err(Invalid::new("name", "must not contain control characters"));
    }
    Ok(())
}

/// Checks a description: at most 4,096 characters.
pub fn check_description(description: &str) -> Result<(), Invalid> {
    if description.chars().count() > 4096 {
        return Err(Invalid::new("description", "must have at most 4096 characters"));
    }
    if description.contains('\0') {
        return Err(Invalid::new("description", "must not contain a NUL character"));
    }
    Ok(())
}

/// Checks metadata: at most 10 KiB as compact JSON.
pub fn check_metadata(metadata: &serde_json::Map<String, serde_json::Value>) -> Result<(), Invalid> {
    let size = serde_json::to_string(metadata).map_or(usize::MAX, |text| text.len());
    if size > MAX_METADATA_BYTES {
        return Err(Invalid::new(
            "metadata",
            format!("is {size} bytes as compact JSON; at most {MAX_METADATA_BYTES} are allowed"),
        ));
    }
    Ok(())
}

/// When retention removes a checkpoint made now; 0 days: never.
pub fn retention_end(created_at: Timestamp, days: u32) -> Option<Timestamp> {
    (days > 0)
        .then(|| created_at.saturating_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX))
}

/// Limits on one captured set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureLimits {
    /// The most files.
    pub max_files: u64,
    /// The most bytes.
    pub max_bytes: u64,
}

impl Default for CaptureLimits {
    fn default() -> Self {
        Self { max_files: DEFAULT_MAX_FILES, max_bytes: DEFAULT_MAX_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_may_have_exactly_ten_kilobytes() {
        let sized = |bytes: usize| {
            let mut map = serde_json::Map::new();
            map.insert("k".into(), "x".repeat(bytes - r#"{"k":""}"#.len()).into());
            assert_eq!(serde_json::to_string(&map).unwrap().len(), bytes);
            map
        };
        assert!(check_metadata(&sized(MAX_METADATA_BYTES)).is_ok());
        assert_eq!(check_metadata(&sized(MAX_METADATA_BYTES + 1)).unwrap_err().field, "metadata");
    }

    #[test]
    fn names_people_use_are_accepted() {
        for good in ["LR=0.01", "After data preprocessing - cleaned nulls", "été", "a"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "   ", "a\nb", &"x".repeat(257)] {
            assert_eq!(check_name(bad).unwrap_err().field, "name");
        }
    }

    #[test]
    fn retention_counts_days_or_never_ends() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(retention_end(now, 90).unwrap().to_string(), "2026-04-01T00:00:00Z");
        assert_eq!(retention_end(now, 0), None);
    }

    #[test]
    fn retention_can_be_set_for_one_checkpoint_and_is_begun_anew_when_a_pin_is_taken_off() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let default = retention_end(now, 90);
        let set = |seconds, pinned| Retention { seconds, pinned };
        let minute = Some(now + SignedDuration::from_secs(60));
        let long_ago = Some(now - SignedDuration::from_hours(1));
        assert_eq!(set(None, None).of_new(now, 90), (default, false));
        assert_eq!(set(Some(60), Some(true)).of_new(now, 90), (minute, true));
        assert_eq!(set(Some(0), None).of_new(now, 90), (None, false));
        for (asked, had, becomes) in [
            (set(None, None), (minute, false), (minute, false)),
            (set(Some(0), None), (minute, true), (None, true)),
            (set(None, Some(true)), (minute, false), (minute, true)),
            (set(None, Some(false)), (long_ago, true), (default, false)),
            (set(None, Some(false)), (None, true), (None, false)),
            (set(Some(60), Some(false)), (long_ago, true), (minute, false)),
            (set(None, Some(false)), (minute, false), (minute, false)),
        ] {
            assert_eq!(asked.changed(had.0, had.1, now, 90), becomes, "{asked:?} {had:?}");
        }
        for bad in [-1, MAX_RETENTION_SECONDS + 1, i64::MIN] {
            assert_eq!(set(Some(bad), None).check().unwrap_err().field, "retention_seconds");
        }
        assert!(set(Some(0), None).check().is_ok());
    }
}
