//! Prefixed, type-safe identifiers: a prefix and a UUID, parsed at the edge.
//!
//! Each id prints in one way (`sb-…`, `cp-…`) and parses from every spelling that a dialect uses:
//! its prefixes with `-` or `_`, or the bare UUID.

use crate::Invalid;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $field:literal, $shown:literal, [$($other:literal),*]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What the id starts with when it is printed.
            pub const PREFIX: &'static str = $shown;

            /// Wraps a UUID that some other part made or stored.
            pub const fn from_uuid(uuid: Uuid) -> Self { Self(uuid) }

            /// The UUID behind the prefix.
            pub const fn uuid(&self) -> Uuid { self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($shown, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                let bare = [$shown, $($other),*]
                    .iter()
                    .find_map(|prefix| text.strip_prefix(prefix))
                    .unwrap_or(text);
                // Only the hyphenated form: the others would give one object several names.
                match Uuid::try_parse(bare) {
                    Ok(uuid) if bare.len() == 36 => Ok(Self(uuid)),
                    _ => Err(Invalid::new($field, concat!("is not a valid id; it looks like ", $shown, "<uuid>"))),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

prefixed_id!(
    /// Names a sandbox.
    SandboxId, "sandbox_id", "sb-", ["sb_", "sbx-", "sbx_"]);
prefixed_id!(
    /// Names a checkpoint.
    CheckpointId, "checkpoint_id", "cp-", ["cp_", "snap-", "snap_"]);
prefixed_id!(
    /// Names an organisation, the owner of everything.
    OrgId, "org_id", "org_", ["org-"]);
prefixed_id!(
    /// Names a user of an organisation.
    UserId, "user_id", "user_", ["user-"]);
prefixed_id!(
    /// Names an API key (not its text).
    ApiKeyId, "api_key_id", "key_", ["key-"]);
prefixed_id!(
    /// Names a copy-on-write layer on this machine.
    LayerId, "layer_id", "layer-", []);
prefixed_id!(
    /// Names an entry of the event log.
    EventId, "event_id", "evt_", ["evt-"]);
prefixed_id!(
    /// Names a terminal, or a background command, of one sandbox.
    TerminalId, "terminal_id", "term-", ["term_"]);

prefixed_id!(
    /// Names one build of a recipe.
    BuildId, "build_id", "bld-", ["bld_"]);

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn every_spelling_names_the_same_object() {
        let expected = CheckpointId::from_uuid(UUID.parse().unwrap());
        for text in [format!("cp-{UUID}"), format!("cp_{UUID}"), format!("snap-{UUID}"), UUID.to_owned()] {
            assert_eq!(text.parse::<CheckpointId>().unwrap(), expected, "{text}");
        }
        assert_eq!(expected.to_string(), format!("cp-{UUID}"));
    }

    #[test]
    fn malformed_ids_are_refused_naming_the_field() {
        for text in ["", "cp-", "cp-123", "sb-01890a5dac96774bbcceb302099a8057", "cp-cp-", "create", "../etc"] {
            let refusal = text.parse::<CheckpointId>().unwrap_err();
            assert_eq!(refusal.field, "checkpoint_id", "{text}");
        }
        // Another object's prefix is malformed here, not unknown.
        assert!(format!("sb-{UUID}").parse::<CheckpointId>().is_err());
    }
}
