//! The HTTP server of metrics: `GET /metrics`, and nothing else.

use std::convert::Infallible;
use std::pin::pin;
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
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::activity::{Activities, Activity, Refused};
use crate::net::{Connection, Drain, Principal, Stream};
use crate::passwords::{SharedPasswords, TOO_LONG, Unauthenticated, client_of};

/// The path that Prometheus asks for.
const PATH: &str = "/metrics";
/// The type of every other response.
const TEXT: &str = "text/plain; charset=utf-8";
/// How many connections are served at once. A scraper needs one.
const CONNECTIONS: usize = 16;
/// How long a client may take for the head of a request, and how long its connection may be idle: Prometheus asks again after a
/// minute, by default.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a client may take from its connection to a request that is admitted: who only connects keeps others out.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last, whatever is done with it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a drain waits for the first request of a connection that was accepted just before, and again for the response: a scraper
/// that has connected has asked by then, and one that is silent is not waited for.
const LAST_REQUEST: Duration = Duration::from_secs(1);
const CHALLENGE: &str = "Basic realm=\"linkspan\", charset=\"UTF-8\"";

/// Serves metrics to scrapers.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    metrics: Metrics,
    passwords: SharedPasswords,
    activities: Activities,
    connections: Semaphore,
}

impl MetricsServer {
    /// `passwords` are those of clients over TCP, where they need one. Tells `activities` of those that are refused.
    pub(crate) fn new(metrics: Metrics, passwords: SharedPasswords, activities: Activities) -> Self {
        Self { metrics, passwords, activities, connections: Semaphore::new(CONNECTIONS) }
    }

    /// Serves one connection until either side ends it. Once `drain` is cancelled, a request that is on its way gets its response.
    pub(crate) async fn serve<T: Stream + 'static>(self: Arc<Self>, connection: Connection<T>, drain: Drain) {
        // One too many is closed: its scraper tries again.
        let Ok(_permit) = self.connections.try_acquire() else {
            self.activities.emit(Activity::Refused { door: "metrics", reason: Refused::Limit });
            return tracing::debug!("a connection for metrics was closed: {CONNECTIONS} are open");
        };
        let Connection { io, peer } = connection;
        let is_admitted = Arc::new(AtomicBool::new(false));
        let answered = CancellationToken::new();
        let service = service_fn(|request| {
            let (server, peer, is_admitted) = (self.clone(), peer.clone(), is_admitted.clone());
            let first = answered.clone().drop_guard();
            async move {
                let _first = first;
                let response = server.respond(&request, &peer).await;
                let is_refused = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&response.status());
                is_admitted.fetch_or(!is_refused, Ordering::Relaxed);
                Ok::<_, Infallible>(response)
            }
        });
        let strange = async {
            tokio::time::sleep(FIRST_TIMEOUT).await;
            if is_admitted.load(Ordering::Relaxed) {
                std::future::pending().await
            }
        };
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let mut served = pin!(http.serve_connection(TokioIo::new(io), service));
        let drained = async {
            drain.cancelled().await;
            let _ = timeout(LAST_REQUEST, answered.cancelled()).await;
        };
        tokio::select! {
            outcome = timeout(CONNECTION_TIMEOUT, served.as_mut()) => if let Ok(Err(error)) = outcome {
                tracing::debug!(%error, "a connection for metrics broke off");
            },
            () = strange => tracing::debug!("a connection for metrics is closed: nothing was admitted on it in time"),
            () = drained => {
                served.as_mut().graceful_shutdown();
                if timeout(LAST_REQUEST, served).await.is_err() {
                    tracing::debug!("a connection for metrics is closed: its last response was not read");
                }
            }
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    fn connect(begun: CancellationToken) -> (DuplexStream, JoinHandle<()>) {
        let metrics = Metrics::new(Default::default(), Default::default(), Default::default(), Arc::new(|| 0));
        let server = Arc::new(MetricsServer::new(metrics, SharedPasswords::default(), Activities::default()));
        let (client, io) = duplex(1 << 20);
        let peer = Principal::Unix { uid: 0, gid: 0, pid: None };
        (client, tokio::spawn(server.serve(Connection { io, peer }, Drain::from(begun))))
    }

    #[tokio::test(start_paused = true)]
    async fn who_connected_just_before_the_end_gets_a_response_and_who_is_silent_holds_up_nobody() {
        let begun = CancellationToken::new();
        begun.cancel();
        let (mut client, served) = connect(begun.clone());
        tokio::time::sleep(LAST_REQUEST / 2).await;
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("linkspan_"), "{response}");
        served.await.unwrap();

        let started = Instant::now();
        let (_silent, served) = connect(begun);
        served.await.unwrap();
        assert!(started.elapsed() <= 2 * LAST_REQUEST);
    }

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
