//! Who a request comes from, and whether it may be served now: nothing behind this runs without a caller.

use super::{
    App,
    error::{ApiError, ApiResult, Code},
    extract::Query,
    limit::Standing,
    observe::MadeBy,
};
use crate::options::Readiness;
use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use forkpoint_engine::Caller;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Lets a request with a valid key through, with its `Caller` as extension.
pub(crate) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let in_address = socket_token(&request);
    match admit(&app, request.headers(), in_address).await {
        Ok((caller, standing)) => {
            let made_by = MadeBy(caller.org_id);
            request.extensions_mut().insert(caller);
            let mut response = next.run(request).await;
            response.extensions_mut().insert(made_by);
            if let Some(standing) = standing {
                standing.write(response.headers_mut());
            }
            response
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn admit(app: &App, headers: &HeaderMap, in_address: Option<String>) -> ApiResult<(Caller, Option<Standing>)> {
    require_ready(app)?;
    let caller = match in_address {
        Some(key) => app.platform.authenticate(&key).await?,
        None => app.platform.authenticate(presented_key(headers)?).await?,
    };
    let standing = app.limits.count_request(caller.key_id)?;
    Ok((caller, standing))
}

/// Lets a request without key through, a bounded number of each address.
pub(crate) async fn guard_registration(State(app): State<App>, request: Request, next: Next) -> Response {
    // Without a connection there is no address: all of them count as one.
    let address = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip());
    match require_ready(&app).and_then(|()| app.limits.count_registration(address)) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Refuses before any effect as long as the server cannot create sandboxes.
fn require_ready(app: &App) -> ApiResult<()> {
    match &*app.options.ready.borrow() {
        Readiness::Ready => Ok(()),
        Readiness::NotYet { reason, progress } => {
            Err(ApiError::new(Code::NotReady, format!("the server is not ready yet: {progress}"))
                .detail("reason", *reason))
        }
    }
}

/// The key in the address of a WebSocket, since browsers can send one nowhere else; a header goes before it. Other
/// requests have no such way: addresses end up in logs and histories.
fn socket_token(request: &Request) -> Option<String> {
    let headers = request.headers();
    let is_socket = headers.get(header::UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket");
    let route = request.extensions().get::<MatchedPath>()?;
    if !is_socket || !route.as_str().ends_with("/ws") || presented_key(headers).is_ok() {
        return None;
    }
    let query = Query::parse(request.uri()).ok()?;
    query.get(&["token"]).map(str::to_owned)
}

/// The key of a request: `Authorization: ApiKey …` before `Authorization: Bearer …` before `x-api-key`.
fn presented_key(headers: &HeaderMap) -> ApiResult<&str> {
    let under = |wanted: &str| {
        headers.get_all(header::AUTHORIZATION).iter().find_map(|value| {
            let (scheme, key) = std::str::from_utf8(value.as_bytes()).ok()?.trim().split_once(' ')?;
            scheme.eq_ignore_ascii_case(wanted).then(|| key.trim())
        })
    };
    under("ApiKey")
        .or_else(|| under("Bearer"))
        .or_else(|| headers.get("x-api-key").and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).map(str::trim))
        .filter(|key| !key.is_empty())
        .ok_or_else(|| {
            let message = "no API key: send it as 'Authorization: ApiKey <key>', 'Authorization: Bearer <key>' or 'x-api-key: <key>'";
            ApiError::new(Code::Unauthorized, message)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pairs: &[(&'static str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        presented_key(&headers).ok().map(str::to_owned)
    }

    #[test]
    fn keys_are_found_in_every_form_and_in_one_order() {
        assert_eq!(key(&[("authorization", "ApiKey a")]).as_deref(), Some("a"));
        assert_eq!(key(&[("authorization", "apikey  a ")]).as_deref(), Some("a"));
        assert_eq!(key(&[("authorization", "BEARER a")]).as_deref(), Some("a"));
        assert_eq!(key(&[("x-api-key", "a")]).as_deref(), Some("a"));
        assert_eq!(
            key(&[("authorization", "Bearer b"), ("authorization", "ApiKey a"), ("x-api-key", "x")]).as_deref(),
            Some("a")
        );
        assert_eq!(key(&[("authorization", "Bearer b"), ("x-api-key", "x")]).as_deref(), Some("b"));
        assert_eq!(key(&[("authorization", "Basic b"), ("x-api-key", "x")]).as_deref(), Some("x"));
        for none in [&[][..], &[("authorization", "Basic b")], &[("authorization", "ApiKey")], &[("x-api-key", "")]] {
            assert_eq!(key(none), None, "{none:?}");
        }
    }
}
