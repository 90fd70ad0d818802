//! Calls of a build that come while its request is planned follow that request: a builder waits only 3 s for a build that a call
//! names (BuildKit `util/registrar/registrar.go`, `solver/llbsolver/history.go`), and part of that may be over by then.

use std::collections::HashMap;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::http2::{Body, PooledConnection, ProxyError};

/// How long a call waits for a request on its connection, as long as a builder would. Clients send both at once.
const REQUEST: Duration = Duration::from_secs(3);
/// How long a call waits for the plan of its build's request: longer than a plan takes that waits for the builder and for the
/// [caches](super::super::cache), and shorter than the 15 s that clients wait (BuildKit `frontend/gateway/grpcclient/client.go`).
const PLANS: Duration = Duration::from_secs(12);

/// How many builds of one connection are remembered, beside those whose plans are being made.
const MAX_BUILDS: usize = 1024;

/// The builds whose requests have come on one connection, or were waited for, by their ids; each with how many of its requests the
/// builder has not got.
#[derive(Debug, Default)]
pub(super) struct Planning(watch::Sender<HashMap<String, usize>>);

/// The plan of a request that is being made, until this is dropped.
pub(super) struct Plan<'a> {
    planning: &'a Planning,
    build: String,
}

impl Planning {
    /// The request for `build` has come.
    pub(super) fn begin(&self, build: &str) -> Plan<'_> {
        self.0.send_modify(|builds| *remembered(builds, build) += 1);
        Plan { planning: self, build: build.to_owned() }
    }

    /// Whether the request for `build` has come, or was waited for.
    pub(super) fn knows(&self, build: &str) -> bool {
        self.0.borrow().contains_key(build)
    }

    /// Waits until the builder has the request for `build`, if it has come.
    pub(super) async fn made(&self, build: &str) {
        let mut builds = self.0.subscribe();
        // A request that was not sent by then is refused, or its builder does not respond: that is said by the call itself.
        let _ = timeout(PLANS, builds.wait_for(|builds| builds.get(build).is_none_or(|&plans| plans == 0))).await;
    }

    /// The same for a call that only a build makes whose request comes on this connection.
    pub(super) async fn begun(&self, build: &str) {
        let mut builds = self.0.subscribe();
        if timeout(REQUEST, builds.wait_for(|builds| builds.contains_key(build))).await.is_err() {
            // It comes by another way, and later calls need not wait for it.
            self.0.send_modify(|builds| _ = remembered(builds, build));
        }
        self.made(build).await;
    }
}

/// The number of `build`, for which others make room whose requests the builder has.
fn remembered<'a>(builds: &'a mut HashMap<String, usize>, build: &str) -> &'a mut usize {
    if builds.len() >= MAX_BUILDS && !builds.contains_key(build) {
        builds.retain(|_, plans| *plans > 0);
    }
    builds.entry(build.to_owned()).or_default()
}

impl Plan<'_> {
    /// Sends the request that was planned, and then lets those pass that wait for it.
    pub(super) async fn send(
        self,
        upstream: &PooledConnection,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ProxyError> {
        let mut sending = pin!(upstream.send(request));
        // The connection has it from now on; the response comes when the build has ended.
        let sent = std::future::poll_fn(|context| Poll::Ready(sending.as_mut().poll(context))).await;
        drop(self);
        match sent {
            Poll::Ready(response) => response,
            Poll::Pending => sending.await,
        }
    }
}

impl Drop for Plan<'_> {
    fn drop(&mut self) {
        self.planning.0.send_modify(|builds| {
            if let Some(plans) = builds.get_mut(&self.build) {
                *plans -= 1;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_follows_the_requests_of_its_build() {
        let planning = Planning::default();
        planning.made("a").now_or_never().unwrap();
        let (first, second) = (planning.begin("a"), planning.begin("a"));
        let mut waiting = Box::pin(planning.begun("a"));
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        assert!((&mut waiting).now_or_never().is_none());
        drop(second);
        waiting.now_or_never().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_build_of_a_connection_waits_for_its_own_request() {
        let planning = Planning::default();
        drop(planning.begin("first"));
        let _slow = planning.begin("slow");
        let mut waiting = Box::pin(planning.begun("second"));
        assert!((&mut waiting).now_or_never().is_none(), "its request has not come");
        let second = planning.begin("second");
        assert!((&mut waiting).now_or_never().is_none(), "its plan is not made");
        drop(second);
        waiting.now_or_never().unwrap();
        assert!(planning.knows("second") && !planning.knows("third"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_come_is_waited_for_once() {
        let (planning, begun) = (Planning::default(), Instant::now());
        planning.begun("a").await;
        assert_eq!(begun.elapsed(), REQUEST);
        planning.begun("a").now_or_never().unwrap();
        let _plan = planning.begin("a");
        planning.made("a").await;
        assert_eq!(begun.elapsed(), REQUEST + PLANS);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_builds_those_stay_whose_plans_are_made() {
        let planning = Planning::default();
        let _plan = planning.begin("slow");
        (0..2 * MAX_BUILDS).for_each(|n| drop(planning.begin(&n.to_string())));
        assert!(planning.0.borrow().len() <= MAX_BUILDS);
        assert!(planning.made("slow").now_or_never().is_none());
    }
}
