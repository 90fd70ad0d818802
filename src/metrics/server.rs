//! The HTTP server of metrics: `GET /metrics`, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::Metrics;
use crate::activity::{Activities, Activity, Refused};
use crate::http_server::{self, Limits};
use crate::net::{Connection, Drain, Principal, Stream};
use crate::passwords::{SharedPasswords, TOO_LONG, Unauthenticated, client_of};

/// The path that Prometheus asks for.
const PATH: &str = "/metrics";
/// The type of every other response.
const TEXT: &str = "text/plain; charset=utf-8";
/// How many connections are served at once. A scraper needs one.
pub(crate) const CONNECTIONS: usize = 16;
/// How long scrapers may take: Prometheus asks again after a minute, by default.
const LIMITS: Limits = Limits {
    first: Duration::from_secs(5),
    head: Duration::from_secs(5),
    idle: Duration::from_secs(90),
    response: Some(Duration::from_secs(10)),
    stall: Duration::from_secs(10),
};
/// How long a client may take from its connection to a request that is admitted.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
const CHALLENGE: &str = "Basic realm=\"linkspan\", charset=\"UTF-8\"";

/// Serves metrics to scrapers.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    metrics: Metrics,
    passwords: SharedPasswords,
    activities: Activities,
}

impl MetricsServer {
    /// `passwords` are those of clients over TCP, where they need one. Tells `activities` of those that are refused.
    pub(crate) fn new(metrics: Metrics, passwords: SharedPasswords, activities: Activities) -> Self {
        Self { metrics, passwords, activities }
    }

    /// Serves one connection until either side ends it. Once `drain` is cancelled, a request that is on its way gets its response.
    pub(crate) async fn serve<T: Stream + 'static>(self: Arc<Self>, connection: Connection<T>, drain: Drain) {
        let is_admitted = AtomicBool::new(false);
        let strange = async {
            tokio::time::sleep(FIRST_TIMEOUT).await;
            if is_admitted.load(Ordering::Relaxed) {
                std::future::pending().await
            }
        };
        let served = http_server::serve(connection, "metrics", drain, LIMITS, |request, peer| {
            let (server, is_admitted) = (&self, &is_admitted);
            async move {
                let response = server.respond(&request, &peer).await;
                let is_refused = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&response.status());
                is_admitted.fetch_or(!is_refused, Ordering::Relaxed);
                response
            }
        });
        tokio::select! {
            () = served => {}
            () = strange => tracing::debug!("a connection for metrics is closed: nothing was admitted on it in time"),
        }
    }

    async fn respond(&self, request: &Request<Incoming>, peer: &Principal) -> Response<Full<Bytes>> {
        if let Err(why) = client_of(&self.passwords, peer, request.headers().get(AUTHORIZATION)).await {
            let reason = match why {
                Unauthenticated::Busy => Refused::Limit,
                _ => Refused::Unauthenticated,
            };
            self.activities.emit(Activity::Refused { door: "metrics", reason });
            return refused(why);
        }
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, "there is nothing here; see GET /metrics\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics can only be read\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|accepted| accepted.to_str().ok());
        let is_open_metrics = accepted.flat_map(|list| list.split(',')).any(wants_open_metrics);
        match self.metrics.text(is_open_metrics) {
            Ok((text, kind)) => response(StatusCode::OK, kind, text),
            Err(error) => {
                tracing::error!(%error, "metrics could not be written");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n")
            }
        }
    }
}

/// Whether an entry of `Accept` is the type of OpenMetrics. Prometheus names it before its own.
fn wants_open_metrics(accepted: &str) -> bool {
    let (kind, parameters) = accepted.split_once(';').unwrap_or((accepted, ""));
    let refused = |parameter: &str| matches!(parameter.trim(), "q=0" | "q=0.0");
    kind.trim().eq_ignore_ascii_case("application/openmetrics-text") && !parameters.split(';').any(refused)
}

fn refused(why: Unauthenticated) -> Response<Full<Bytes>> {
    let message = match why {
        Unauthenticated::NoCredentials => "a name and a password are expected (`basic_auth` of Prometheus)",
        Unauthenticated::Wrong => "there is no such user, or the password is another",
        Unauthenticated::TooLong => TOO_LONG,
        Unauthenticated::Busy => {
            let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "too many passwords are being checked\n");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
    };
    let mut response = response(StatusCode::UNAUTHORIZED, TEXT, format!("{message}\n"));
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, TEXT, text.to_owned())
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_format_that_it_asks_for() {
        for (accepted, expected) in [
            ("application/openmetrics-text;version=1.0.0;q=0.8", true),
            (" application/openmetrics-text", true),
            ("Application/OpenMetrics-Text", true),
            ("application/openmetrics-text;q=0", false),
            ("text/plain;version=0.0.4;q=0.5", false),
            ("*/*", false),
        ] {
            assert_eq!(wants_open_metrics(accepted), expected, "{accepted}");
        }
    }
}
