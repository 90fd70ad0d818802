//! For how long something is kept for a client.

use std::time::{Duration, SystemTime};

use crate::export_v1::limits::{DEFAULT_TTL, MAX_LIFETIME};

/// The life of an export or a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub(super) opened: SystemTime,
    pub(super) expires: SystemTime,
}

impl Lifetime {
    pub(super) fn new(ttl: Option<Duration>) -> Self {
        let opened = SystemTime::now();
        let mut lifetime = Self { opened, expires: opened };
        lifetime.renew(ttl);
        lifetime
    }

    /// That of what was opened at `opened` by an earlier process: as if it were renewed now.
    pub(super) fn since(opened: SystemTime) -> Self {
        let mut lifetime = Self { opened, expires: opened };
        lifetime.renew(None);
        lifetime
    }

    /// The latest time that it can be renewed to.
    pub(super) fn latest(&self) -> SystemTime {
        self.opened + MAX_LIFETIME
    }

    /// Puts off the end; it never comes nearer.
    pub(super) fn renew(&mut self, ttl: Option<Duration>) {
        let requested = SystemTime::now() + ttl.unwrap_or(DEFAULT_TTL).min(MAX_LIFETIME);
        self.expires = self.expires.max(requested.min(self.latest()));
    }

    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        self.expires <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_up_to_its_limit_and_never_shortened() {
        let mut lifetime = Lifetime::new(Some(Duration::from_secs(60)));
        let first = lifetime.expires;
        lifetime.renew(Some(Duration::from_secs(1)));
        assert_eq!(lifetime.expires, first);
        lifetime.renew(Some(MAX_LIFETIME * 2));
        assert_eq!(lifetime.expires, lifetime.latest());
        assert!(lifetime.is_over(lifetime.latest()) && !lifetime.is_over(lifetime.opened));
    }
}
