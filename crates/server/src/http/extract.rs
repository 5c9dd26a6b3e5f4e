//! Ids, query parameters and one-time keys of a request, refused in the API's own words.

use super::error::{ApiError, ApiResult};
use axum::{
    extract::{FromRequestParts, Path},
    http::{HeaderMap, Method, Uri, request::Parts},
};
use forkpoint_domain::Invalid;
use forkpoint_engine::operations::idempotency::IdempotencyKey;
use sha2::{Digest, Sha256};
use std::str::FromStr;

/// The id in a route's path: malformed is 400, unknown is for the engine to say.
#[derive(Debug)]
pub(crate) struct Id<T>(pub(crate) T);

impl<S: Send + Sync, T: FromStr<Err = Invalid> + Send> FromRequestParts<S> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::invalid("id", "is not valid UTF-8 once percent-decoded"))?;
        Ok(Self(text.parse::<T>()?))
    }
}

/// The query parameters of a request, decoded strictly: a lossy path would name another file.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(uri: &Uri) -> ApiResult<Self> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)
                .ok_or_else(|| ApiError::invalid("query", "has a name that is not percent-encoded UTF-8"))?;
            let value =
                decode(value).ok_or_else(|| ApiError::invalid(name.as_str(), "is not percent-encoded UTF-8"))?;
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::invalid(name, "is given twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The parameter, unless it is missing or empty; `camel` is its other spelling.
    pub(crate) fn get(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .find_map(|name| self.0.iter().find(|(known, _)| known == name))
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// The parameter, which must be there.
    pub(crate) fn required(&self, name: &str) -> ApiResult<&str> {
        self.get(&[name]).ok_or_else(|| ApiError::invalid(name, format!("is required: add ?{name}=… to the address")))
    }

    /// A switch: `true`, `1`, `false`, `0`.
    pub(crate) fn flag(&self, name: &str) -> ApiResult<Option<bool>> {
        match self.get(&[name]).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(_) => Err(ApiError::invalid(name, "must be true or false")),
        }
    }

    /// A whole number that is not negative.
    pub(crate) fn position(&self, name: &str) -> ApiResult<Option<u64>> {
        let number = self.get(&[name]).map(str::parse::<u64>).transpose();
        number.map_err(|_| ApiError::invalid(name, "must be a whole number that is not negative"))
    }

    /// A whole number of at least 1 and at most `most`.
    pub(crate) fn count(&self, name: &str, most: u32) -> ApiResult<Option<u32>> {
        let Some(text) = self.get(&[name]) else { return Ok(None) };
        match text.parse::<u32>() {
            Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::invalid(name, format!("must be a whole number between 1 and {most}"))),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        Self::parse(&parts.uri)
    }
}

/// Percent-decodes one name or value; `+` is a blank.
fn decode(text: &str) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
                let [Some(high), Some(low)] = digits else { return None };
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The request's `Idempotency-Key` with what it stands for; `None` if there is none.
pub(crate) fn idempotency_key(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> ApiResult<Option<IdempotencyKey>> {
    const NAME: &str = "Idempotency-Key";
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value
        .to_str()
        .ok()
        .filter(|text| (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()));
    let (Some(text), None) = (text, values.next()) else {
        return Err(ApiError::invalid(NAME, "must be one header of 1 to 255 visible ASCII characters"));
    };
    let mut digest = Sha256::new();
    for part in [method.as_str(), uri.path()] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    digest.update(body);
    Ok(Some(IdempotencyKey { key: text.to_owned(), fingerprint: hex::encode(digest.finalize()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> ApiResult<Query> {
        Query::parse(&format!("/x?{text}").parse().unwrap())
    }

    #[test]
    fn query_values_decode_strictly() {
        let parsed = query("path=%2Fa%20b%C3%BC+c&recursive=True&limit=5&empty=").unwrap();
        assert_eq!(parsed.get(&["path"]), Some("/a bü c"));
        assert_eq!(parsed.flag("recursive").unwrap(), Some(true));
        assert_eq!(parsed.count("limit", 10).unwrap(), Some(5));
        assert_eq!(parsed.get(&["empty"]), None);
        for bad in ["path=%ff", "path=%zz", "path=%4", "a=1&a=2"] {
            assert!(query(bad).is_err(), "{bad}");
        }
        for bad in ["limit=0", "limit=11", "limit=-1", "limit=x", "limit=99999999999"] {
            assert!(query(bad).unwrap().count("limit", 10).is_err(), "{bad}");
        }
        assert!(query("recursive=maybe").unwrap().flag("recursive").is_err());
    }

    #[test]
    fn the_same_key_for_another_body_has_another_fingerprint() {
        let uri: Uri = "/api/v1/sandbox".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", "a".parse().unwrap());
        let print = |body: &[u8]| idempotency_key(&Method::POST, &uri, &headers, body).unwrap().unwrap().fingerprint;
        assert_eq!(print(b"{}"), print(b"{}"));
        assert_ne!(print(b"{}"), print(b"{ }"));
        for bad in ["", "has blank", &"x".repeat(256)] {
            headers.insert("idempotency-key", bad.parse().unwrap());
            assert!(idempotency_key(&Method::POST, &uri, &headers, b"").is_err(), "{bad}");
        }
    }
}
