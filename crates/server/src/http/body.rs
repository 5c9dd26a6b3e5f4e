//! JSON bodies: read within bounds, and refused naming the field that is wrong and what would be right.

use super::{
    error::{ApiError, ApiResult, Code},
    extract::idempotency_key,
    memory::{FREE, Share},
};
use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::{header, request::Parts},
};
use forkpoint_engine::{Pace, operations::idempotency::IdempotencyKey};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use std::time::Duration;

/// The largest JSON body taken, in bytes; larger content goes through the raw file route.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// How long a client may take for the next piece of a body.
pub(crate) const BODY_PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// Memory for a body is taken in steps of so many bytes.
pub(crate) const STEP: usize = 1 << 20;

/// A JSON object of type `T` in a body of at most `MOST` bytes. A missing body is `{}`; the content type does not
/// matter.
#[derive(Debug)]
pub(crate) struct Json<T, const MOST: usize = MAX_BODY_BYTES>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned, const MOST: usize> FromRequest<S> for Json<T, MOST> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        let (parts, body) = request.into_parts();
        parse(&read(&parts, body, MOST).await?).map(Self)
    }
}

/// A JSON object that may be sent twice and is acted on once.
#[derive(Debug)]
pub(crate) struct Submitted<T> {
    pub(crate) value: T,
    pub(crate) key: Option<IdempotencyKey>,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Submitted<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        let (parts, body) = request.into_parts();
        let body = read(&parts, body, MAX_BODY_BYTES).await?;
        let key = idempotency_key(&parts.method, &parts.uri, &parts.headers, &body)?;
        Ok(Self { value: parse(&body)?, key })
    }
}

/// Reads a whole body within its bounds of size, time and memory.
async fn read(parts: &Parts, mut body: Body, most: usize) -> ApiResult<Bytes> {
    let too_large = || {
        let hint = if most == MAX_BODY_BYTES { "; send large files to /files/raw" } else { "" };
        let message = format!("the body is larger than {most} bytes{hint}");
        ApiError::new(Code::TooLarge, message).detail("limit_bytes", most)
    };
    let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    let (share, mut room, pace) = (Share::of(&parts.extensions), FREE, Pace::begin());
    loop {
        let piece = match tokio::time::timeout(BODY_PIECE_TIMEOUT, body.frame()).await {
            Err(_) => return Err(ApiError::new(Code::RequestTimeout, "the body did not come; nothing was done")),
            Ok(None) => break,
            Ok(Some(Err(_))) => {
                return Err(ApiError::new(Code::InvalidRequest, "the body broke off; nothing was done"));
            }
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        let size = first.len() + whole.len() + piece.len();
        if size > most {
            return Err(too_large());
        }
        if pace.is_too_slow(size as u64) {
            let message = format!("the body comes slower than {} bytes a second; nothing was done", Pace::LEAST);
            return Err(ApiError::new(Code::RequestTimeout, message));
        }
        while size > room {
            // Once as it came, once as what was read from it.
            share.take(2 * STEP).await?;
            room += STEP;
        }
        // Most bodies come in one piece, which then needs no copy.
        if first.is_empty() && whole.is_empty() {
            first = piece;
        } else {
            if whole.is_empty() {
                whole = std::mem::take(&mut first).into();
            }
            whole.extend_from_slice(&piece);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

/// Parses a body as a JSON object.
fn parse<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    let body = match body.trim_ascii() {
        [] => b"{}",
        body => body,
    };
    let mut source = serde_json::Deserializer::from_slice(body);
    // serde would also take an array, field by field.
    let is_object = body.first() == Some(&b'{');
    let parsed = match is_object {
        true => serde_path_to_error::deserialize(&mut source).map_err(|error| {
            let path = error.path().to_string();
            refuse(&path, error.inner())
        })?,
        false => {
            let problem = match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
                Err(error) => refuse("", &error),
                Ok(_) => {
                    ApiError::new(Code::InvalidRequest, "the body must be a JSON object, like {\"name\": \"value\"}")
                }
            };
            return Err(problem);
        }
    };
    source.end().map_err(|error| refuse("", &error))?;
    Ok(parsed)
}

/// Says in the API's words what serde found wrong at `path`.
fn refuse(path: &str, error: &serde_json::Error) -> ApiError {
    let full = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let problem = full.strip_suffix(&place).unwrap_or(&full);
    if !matches!(error.classify(), Category::Data) {
        return ApiError::new(Code::InvalidJson, format!("the body is not valid JSON: {problem}{place}"))
            .detail("line", error.line())
            .detail("column", error.column());
    }
    let path = if path == "." { "" } else { path };
    if let Some(name) = quoted_after(problem, "missing field `") {
        return ApiError::invalid(joined(path, name), "is required");
    }
    if let Some(name) = quoted_after(problem, "duplicate field `") {
        return ApiError::invalid(joined(path, name), "is given twice (a field has one value, in one spelling)");
    }
    if let Some(name) = quoted_after(problem, "unknown field `") {
        // The path may already name the unknown field itself.
        let path = path.strip_suffix(name).map_or(path, |rest| rest.trim_end_matches('.'));
        let name: String = name.chars().take(100).collect();
        return ApiError::invalid(joined(path, &name), format!("unknown field; known are: {}", known_fields(problem)));
    }
    let problem: String = plain_words(problem).chars().take(500).collect();
    ApiError::invalid(if path.is_empty() { "body" } else { path }, problem)
}

/// The names in serde's list of expected fields, each in its snake_case spelling.
fn known_fields(problem: &str) -> String {
    let expected = problem.rsplit_once("expected ").map_or("", |(_, expected)| expected);
    let names = expected.split('`').skip(1).step_by(2);
    names.filter(|name| !name.contains(char::is_uppercase)).collect::<Vec<_>>().join(", ")
}

fn quoted_after<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(before)?;
    rest.split_once('`').map(|(name, _)| name)
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Replaces the names of our types by what a JSON writer calls them.
fn plain_words(problem: &str) -> String {
    let Some((found, expected)) = problem.rsplit_once("expected ") else { return problem.to_owned() };
    let expected = match expected {
        "i32" | "i64" => "a whole number",
        "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "f64" => "a number",
        "a map" => "an object",
        "a sequence" => "an array",
        "a boolean" => "true or false",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Sample {
        name: String,
        #[serde(alias = "timeoutSeconds")]
        timeout_seconds: Option<i64>,
        env: Option<BTreeMap<String, String>>,
        files: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        path: String,
    }

    #[test]
    fn refusals_name_the_field_and_what_would_be_right() {
        for (body, expected) in [
            ("", "name: is required"),
            ("{}", "name: is required"),
            (r#"{"name":5}"#, "name: invalid type: integer `5`, expected a string"),
            (
                r#"{"name":"a","timeout_seconds":"x"}"#,
                "timeout_seconds: invalid type: string \"x\", expected a whole number",
            ),
            (r#"{"name":"a","env":{"A":1}}"#, "env.A: invalid type: integer `1`, expected a string"),
            (r#"{"name":"a","env":[]}"#, "env: invalid type: sequence, expected an object"),
            (r#"{"name":"a","files":[{"path":"/a"},{}]}"#, "files[1].path: is required"),
            (r#"{"name":"a","files":[{"path":"/a","x":1}]}"#, "files[0].x: unknown field; known are: path"),
            (r#"{"name":"a","name":"b"}"#, "name: is given twice (a field has one value, in one spelling)"),
            ("[\"a\"]", "the body must be a JSON object, like {\"name\": \"value\"}"),
            ("{\"name\":\n\"a\",}", "the body is not valid JSON: trailing comma at line 2 column 5"),
            ("{\"name\":\"a\"} x", "the body is not valid JSON: trailing characters at line 1 column 14"),
        ] {
            assert_eq!(parse::<Sample>(body.as_bytes()).unwrap_err().message, expected, "{body}");
        }
        let unknown = parse::<Sample>(br#"{"name":"a","nmae":1}"#).unwrap_err();
        assert_eq!(unknown.message, "nmae: unknown field; known are: name, timeout_seconds, env, files");
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        let deep = format!("{{\"name\":\"a\",\"files\":{}", "[".repeat(100_000));
        assert_eq!(parse::<Sample>(deep.as_bytes()).unwrap_err().code.parts().0, 400);
        assert!(parse::<Sample>("[".repeat(100_000).as_bytes()).is_err());
    }
}
