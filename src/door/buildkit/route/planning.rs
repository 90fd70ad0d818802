//! Calls of a build that come while its request is planned follow that request: a builder waits only 3 s for a build that a call
//! names (BuildKit `util/registrar/registrar.go`, `solver/llbsolver/history.go`), and part of that may be over by then.

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
/// How long a call waits for the plans of requests.
const PLANS: Duration = Duration::from_secs(10);

/// The requests for builds on one connection that the builder has not got.
#[derive(Debug, Default)]
pub(super) struct Planning(watch::Sender<Planned>);

#[derive(Debug, Default)]
struct Planned {
    /// Whether a request has come, or was waited for.
    has_come: bool,
    under_way: usize,
}

/// A request whose plan is being made, until this is dropped.
pub(super) struct Plan<'a>(&'a Planning);

impl Planning {
    /// A request has come.
    pub(super) fn begin(&self) -> Plan<'_> {
        self.0.send_modify(|planned| *planned = Planned { has_come: true, under_way: planned.under_way + 1 });
        Plan(self)
    }

    /// Waits until the builder has all requests that have come.
    pub(super) async fn made(&self) {
        let mut plans = self.0.subscribe();
        // A plan that takes longer is a builder that does not respond: it says so itself.
        let _ = timeout(PLANS, plans.wait_for(|planned| planned.under_way == 0)).await;
    }

    /// The same for a call that only a build has whose request comes on this connection.
    pub(super) async fn begun(&self) {
        let mut plans = self.0.subscribe();
        if timeout(REQUEST, plans.wait_for(|planned| planned.has_come)).await.is_err() {
            // It comes by another way, and later calls need not wait for it.
            self.0.send_modify(|planned| planned.has_come = true);
        }
        self.made().await;
    }
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
        self.0.0.send_modify(|planned| planned.under_way -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_follows_the_requests_that_came_before_it() {
        let planning = Planning::default();
        planning.made().now_or_never().unwrap();
        let (first, second) = (planning.begin(), planning.begin());
        let mut waiting = Box::pin(planning.begun());
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        assert!((&mut waiting).now_or_never().is_none());
        drop(second);
        waiting.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_come_is_waited_for_once() {
        let (planning, begun) = (Planning::default(), Instant::now());
        planning.begun().await;
        assert_eq!(begun.elapsed(), REQUEST);
        planning.begun().now_or_never().unwrap();
        let _plan = planning.begin();
        planning.made().await;
        assert_eq!(begun.elapsed(), REQUEST + PLANS);
    }
}
