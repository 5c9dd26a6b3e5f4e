//! How often a key may ask and an address may register, each by a token bucket of its own.

use super::error::{ApiError, ApiResult, Code};
use crate::options::ServerOptions;
use axum::http::{HeaderMap, HeaderName};
use forkpoint_domain::ids::ApiKeyId;
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DefaultKeyedStateStore,
};
use std::{
    fmt,
    hash::Hash,
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

/// Full buckets are forgotten every so many requests, so that memory does not grow with keys and addresses seen.
const SWEEP_EVERY: u32 = 1024;

/// The limits in force.
#[derive(Debug)]
pub(crate) struct Limits {
    requests: Option<Buckets<ApiKeyId>>,
    registrations: Option<Buckets<IpAddr>>,
}

/// Where a key stands after a request, for the response's headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    limit: u32,
    remaining: u32,
}

impl Limits {
    pub(crate) fn new(options: &ServerOptions) -> Self {
        Self {
            requests: options.rate_limit_per_minute.map(Buckets::new),
            registrations: options.register_limit_per_minute.map(Buckets::new),
        }
    }

    pub(crate) fn count_request(&self, key: ApiKeyId) -> ApiResult<Option<Standing>> {
        self.requests.as_ref().map(|buckets| buckets.take(&key, "requests with this key")).transpose()
    }

    pub(crate) fn count_registration(&self, address: IpAddr) -> ApiResult<()> {
        let Some(buckets) = &self.registrations else { return Ok(()) };
        buckets.take(&network(address), "registrations from this address").map(|_| ())
    }
}

impl Standing {
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        // Until the bucket is full again.
        let reset = u64::from(self.limit - self.remaining.min(self.limit)) * 60 / u64::from(self.limit.max(1));
        for (name, value) in [
            ("x-ratelimit-limit", u64::from(self.limit)),
            ("x-ratelimit-remaining", u64::from(self.remaining)),
            ("x-ratelimit-reset", reset),
        ] {
            headers.insert(HeaderName::from_static(name), value.into());
        }
    }
}

/// Whoever has one IPv6 address has its /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => match six.to_ipv4_mapped() {
            Some(four) => four.into(),
            None => std::net::Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64)).into(),
        },
    }
}

struct Buckets<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
    per_minute: NonZeroU32,
    taken: AtomicU32,
}

impl<K: Hash + Eq + Clone> fmt::Debug for Buckets<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").field("per_minute", &self.per_minute).finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(per_minute: NonZeroU32) -> Self {
        let limiter = RateLimiter::keyed(Quota::per_minute(per_minute)).with_middleware::<StateInformationMiddleware>();
        Self { limiter, clock: DefaultClock::default(), per_minute, taken: AtomicU32::new(0) }
    }

    fn take(&self, key: &K, what: &str) -> ApiResult<Standing> {
        if self.taken.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        let limit = self.per_minute.get();
        match self.limiter.check_key(key) {
            Ok(state) => Ok(Standing { limit, remaining: state.remaining_burst_capacity() }),
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let seconds = (wait.as_millis().div_ceil(1000) as u64).max(1);
                Err(ApiError::new(
                    Code::RateLimited,
                    format!("at most {limit} {what} a minute; try again in {seconds} s"),
                )
                .detail("limit", limit)
                .retry_after(seconds))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_share_a_bucket() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:2"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}
