//! Who may call: clients by their connection or their password, and not those whose rights this API cannot keep to.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN};
use http::{Method, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::traced::{span_of, traced};
use crate::activity::Refused;
use crate::net::Principal;
use crate::passwords::{SharedPasswords, TOO_LONG, Unauthenticated, client_of};

/// What is asked before a call.
#[derive(Clone)]
pub struct Admission {
    /// The users, where clients over TCP need a certificate or a password.
    pub passwords: SharedPasswords,
    /// Whether a client may call at all.
    pub admits: Arc<dyn Fn(&Principal) -> bool + Send + Sync>,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("passwords", &self.passwords).finish_non_exhaustive()
    }
}

/// Why a call is not admitted, if it is its client's doing, and what the client is told.
type Denial = (Option<Refused>, Status);

/// The response to a call that is not admitted. The reason is with it, for whoever counts.
fn response((reason, status): Denial) -> Response<Body> {
    let mut response = status.into_http();
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    response
}

impl Admission {
    /// The client of a call.
    async fn client(&self, peer: Option<Principal>, authorization: Option<HeaderValue>) -> Result<Principal, Denial> {
        let peer = peer.ok_or_else(|| (None, Status::internal("the connection of the call has no peer")))?;
        let client = client_of(&self.passwords, &peer, authorization.as_ref()).await.map_err(|why| {
            let message = match why {
                Unauthenticated::NoCredentials => "a certificate is expected, or `authorization: Basic` metadata",
                Unauthenticated::Wrong => "there is no such user, or the password is another",
                Unauthenticated::TooLong => TOO_LONG,
                Unauthenticated::Busy => {
                    let busy = Status::unavailable("too many passwords are being checked; try again");
                    return (Some(Refused::Limit), busy);
                }
            };
            (Some(Refused::Unauthenticated), Status::unauthenticated(message))
        })?;
        if (self.admits)(&client) {
            return Ok(client);
        }
        let message = "this client is limited by rules, which only the registry door can keep to; use that";
        Err((Some(Refused::Policy), Status::permission_denied(format!("{client}: {message}"))))
    }
}

/// Refuses what a page in a browser can send with its user's certificate: no client of gRPC has an `Origin`, or another content
/// type. A GET asks for the status, and changes nothing.
fn refuse_pages(method: &Method, headers: &HeaderMap) -> Option<Status> {
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let from_page = headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site");
    (from_page || !(is_grpc || *method == Method::GET))
        .then(|| Status::permission_denied("requests of web pages are refused; expected `application/grpc`"))
}

impl<S> Layer<S> for Admission {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted { admission: self.clone(), inner }
    }
}

/// A service behind an [`Admission`].
#[derive(Debug, Clone)]
pub struct Admitted<S> {
    admission: Admission,
    inner: S,
}

impl<S> Service<Request<Body>> for Admitted<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut call: Request<Body>) -> Self::Future {
        // The one that is ready is this one, and not its clone.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let admission = self.admission.clone();
        // tonic adds it to every request, from `Connected::connect_info` of the stream.
        let peer = call.extensions().get::<Principal>().cloned();
        let authorization = call.headers().get(AUTHORIZATION).cloned();
        let refusal = refuse_pages(call.method(), call.headers());
        Box::pin(async move {
            if let Some(status) = refusal {
                return Ok(response((Some(Refused::Policy), status)));
            }
            match admission.client(peer, authorization).await {
                Ok(client) => {
                    call.extensions_mut().insert(client);
                    let span = span_of(&call);
                    // Called within it, too: some of what a call begins is spawned.
                    let called = span.in_scope(|| inner.call(call));
                    Ok(traced(span.clone(), called.instrument(span).await?))
                }
                Err(denial) => Ok(response(denial)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write as _;
    use std::net::SocketAddr;

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use tonic::Code;
    use tower::ServiceExt as _;

    use super::*;
    use crate::passwords::Passwords;

    /// What a call gets: its client, or the code of its refusal.
    async fn called(admission: &Admission, peer: &Principal, credentials: Option<&str>) -> Result<Principal, Code> {
        let inner = tower::service_fn(async |call: Request<Body>| {
            let mut response = Response::new(Body::empty());
            response.extensions_mut().extend(call.extensions().clone());
            Ok::<_, Infallible>(response)
        });
        let mut call = Request::new(Body::empty());
        call.extensions_mut().insert(peer.clone());
        call.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(credentials) = credentials {
            let value = format!("Basic {}", BASE64_STANDARD.encode(credentials));
            call.headers_mut().insert(AUTHORIZATION, value.parse().unwrap());
        }
        let response = admission.layer(inner).oneshot(call).await.unwrap();
        match Status::from_header_map(response.headers()) {
            Some(status) => Err(status.code()),
            None => Ok(response.extensions().get::<Principal>().unwrap().clone()),
        }
    }

    #[test]
    fn pages_are_refused() {
        let refused = |method: Method, headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            refuse_pages(&method, &headers.collect()).is_some()
        };
        let grpc = ("content-type", "application/grpc+proto");
        assert!(!refused(Method::POST, &[grpc]) && !refused(Method::GET, &[]));
        assert!(refused(Method::GET, &[("origin", "null")]));
        for headers in [
            &[][..],
            &[("content-type", "text/plain")],
            &[grpc, ("origin", "null")],
            &[grpc, ("sec-fetch-site", "cross-site")],
        ] {
            assert!(refused(Method::POST, headers), "{headers:?}");
        }
    }

    #[tokio::test]
    async fn a_client_over_tcp_has_a_certificate_or_a_password_and_may_read_everything() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for user in ["ci", "limited"] {
            writeln!(file, "{user}:{}", bcrypt::hash("word", 4).unwrap()).unwrap();
        }
        let user = |name: &str| Principal::User { name: name.to_owned() };
        let limited = user("limited");
        let admission = Admission {
            passwords: Some(Arc::new(Passwords::open(file.path()).unwrap())),
            admits: Arc::new(move |client| *client != limited),
        };
        let tcp = Principal::from(SocketAddr::from(([10, 0, 0, 1], 1)));
        assert_eq!(called(&admission, &tcp, None).await, Err(Code::Unauthenticated));
        assert_eq!(called(&admission, &tcp, Some("ci:other")).await, Err(Code::Unauthenticated));
        assert_eq!(called(&admission, &tcp, Some("ci:word")).await, Ok(user("ci")));
        assert_eq!(called(&admission, &tcp, Some("limited:word")).await, Err(Code::PermissionDenied));
        let certificate = Principal::Certificate { subject: "x.test".to_owned() };
        assert_eq!(called(&admission, &certificate, None).await, Ok(certificate.clone()));
        assert_eq!(called(&admission, &certificate, Some("ci:word")).await, Ok(user("ci")));
        assert_eq!(called(&admission, &certificate, Some("ci:other")).await, Err(Code::Unauthenticated));
        let unix = Principal::Unix { uid: 0, gid: 0, pid: None };
        assert_eq!(called(&admission, &unix, None).await, Ok(unix.clone()));
        let open = Admission { passwords: None, ..admission };
        assert_eq!(called(&open, &tcp, None).await, Ok(tcp.clone()));
    }
}
