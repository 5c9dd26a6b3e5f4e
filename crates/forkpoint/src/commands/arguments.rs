//! Readers for the arguments of commands. What they refuse is a mistake in usage.

use forkpoint_domain::ids::{CheckpointId, SandboxId};
use serde_json::{Map, Value};
use std::{fmt, str::FromStr, time::Duration};

/// A sandbox or a checkpoint, told apart by the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectId {
    /// `sb-…`
    Sandbox(SandboxId),
    /// `cp-…`
    Checkpoint(CheckpointId),
}

impl FromStr for ObjectId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.parse::<uuid::Uuid>().is_ok();
        match (text.parse(), text.parse()) {
            _ if bare => Err("could be a sandbox or a checkpoint: begin it with sb- or cp-".to_owned()),
            (Ok(id), _) => Ok(Self::Sandbox(id)),
            (_, Ok(id)) => Ok(Self::Checkpoint(id)),
            _ => Err("is not an id; it looks like sb-<uuid> or cp-<uuid>".to_owned()),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox(id) => id.fmt(f),
            Self::Checkpoint(id) => id.fmt(f),
        }
    }
}

/// Reads `NAME=VALUE`. The complaint does not repeat the value, which can be a secret.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must look like NAME=VALUE".to_owned()),
    }
}

/// Reads a length of time: a number of seconds, or a number with `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || "must be a length of time like 90, 500ms, 30s, 10m, 2h or 1d".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let millis = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    millis.and_then(|unit| number.checked_mul(unit)).map(Duration::from_millis).ok_or_else(refuse)
}

/// Reads a length of time in whole seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let time = duration(text)?;
    if time.subsec_millis() == 0 { Ok(time.as_secs()) } else { Err("must be whole seconds".to_owned()) }
}

/// Reads a number of bytes, with a unit (`Ki`, `Mi`, `Gi`, `k`, `M`, `G`) or without.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let refuse = || "must be a size like 1048576, 512Mi or 5Gi".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let unit = match unit {
        "" | "B" => 1,
        "k" | "K" => 1_000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        "Gi" => 1 << 30,
        _ => return Err(refuse()),
    };
    number.checked_mul(unit).ok_or_else(refuse)
}

/// Reads permission bits written in octal.
pub(crate) fn octal_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "must be permission bits in octal, like 0644".to_owned())
}

/// Pairs as a JSON object of texts.
pub(crate) fn text_object(pairs: &[(String, String)]) -> Value {
    pairs.iter().map(|(name, value)| (name.clone(), Value::from(value.clone()))).collect::<Map<_, _>>().into()
}

/// Pairs as a JSON object whose values are JSON where they read as such, else texts.
pub(crate) fn json_object(pairs: &[(String, String)]) -> Value {
    let value = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.clone()));
    pairs.iter().map(|(name, text)| (name.clone(), value(text))).collect::<Map<_, _>>().into()
}

/// Puts a field into a request if it was given.
pub(crate) fn set(body: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body[name] = value.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lengths_of_time_as_people_write_them() {
        for (text, millis) in
            [("90", 90_000), ("500ms", 500), ("30s", 30_000), ("10m", 600_000), ("2h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "1.5", "1 s", "1w", "99999999999999999999", "18446744073709551615d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(seconds("2m"), Ok(120));
        assert!(seconds("1500ms").is_err());
    }

    #[test]
    fn pairs_split_at_the_first_equals_sign_and_stay_secret() {
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(pair("A="), Ok(("A".into(), String::new())));
        for bad in ["=secret", "secret"] {
            assert!(!pair(bad).unwrap_err().contains("secret"));
        }
        let pairs = [("n".into(), "0.95".into()), ("s".into(), "LR=0.1".into()), ("b".into(), "true".into())];
        assert_eq!(json_object(&pairs), json!({"n": 0.95, "s": "LR=0.1", "b": true}));
        assert_eq!(text_object(&pairs)["n"], "0.95");
    }

    #[test]
    fn ids_are_told_apart_by_their_prefix() {
        let uuid = "018f5c2e-7a8b-7c3d-9e4f-a1b2c3d4e5f6";
        assert!(matches!(format!("sb-{uuid}").parse(), Ok(ObjectId::Sandbox(_))));
        assert!(matches!(format!("cp-{uuid}").parse(), Ok(ObjectId::Checkpoint(_))));
        assert!(uuid.parse::<ObjectId>().unwrap_err().contains("begin it with"));
        assert!("../x".parse::<ObjectId>().is_err());
    }

    #[test]
    fn sizes_and_modes() {
        assert_eq!(bytes("5Gi"), Ok(5 << 30));
        assert_eq!(bytes("7"), Ok(7));
        assert!(bytes("5 Gi").is_err() && bytes("99999999999G").is_err());
        assert_eq!(octal_mode("0755"), Ok(0o755));
        assert!(octal_mode("0999").is_err() && octal_mode("77777").is_err());
    }
}
