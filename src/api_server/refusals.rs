//! Calls that are refused at once, told to whoever counts them.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::HeaderMap;
use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::activity::{Activities, Activity, Refused};

/// How the paths of the caching API begin; everything else is the exporter API's.
const CACHES: &str = "/linkspan.cache.";

/// Tells of the calls that are refused by what is inside of it.
#[derive(Debug, Clone)]
pub(super) struct CountRefusals(Activities);

impl CountRefusals {
    pub(super) fn new(activities: Activities) -> Self {
        Self(activities)
    }
}

impl<S> Layer<S> for CountRefusals {
    type Service = RefusalsCounted<S>;

    fn layer(&self, inner: S) -> RefusalsCounted<S> {
        RefusalsCounted { activities: self.0.clone(), inner }
    }
}

/// A service whose refusals are told.
#[derive(Debug, Clone)]
pub(super) struct RefusalsCounted<S> {
    activities: Activities,
    inner: S,
}

impl<S> Service<Request<Body>> for RefusalsCounted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, call: Request<Body>) -> Self::Future {
        let door = if call.uri().path().starts_with(CACHES) { "cache" } else { "export" };
        let (activities, called) = (self.activities.clone(), self.inner.call(call));
        Box::pin(async move {
            let response = called.await?;
            if let Some(reason) = refused(response.headers()) {
                activities.emit(Activity::Refused { door, reason });
            }
            Ok(response)
        })
    }
}

/// Why a call was refused whose response has these headers. The status of a call that fails before its first message is among
/// them; later ones come behind the body, and are those of what had begun.
fn refused(headers: &HeaderMap) -> Option<Refused> {
    let code = headers.get(Status::GRPC_STATUS)?;
    match Code::from_bytes(code.as_bytes()) {
        Code::Unauthenticated => Some(Refused::Unauthenticated),
        Code::PermissionDenied => Some(Refused::Policy),
        Code::InvalidArgument => Some(Refused::Input),
        Code::ResourceExhausted => Some(Refused::Limit),
        _ => None,
    }
}
