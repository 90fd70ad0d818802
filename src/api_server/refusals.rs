//! Calls that are refused at once, told to whoever counts them.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::activity::{Activities, Activity, Refused};
use crate::export_v1::ApiError;
use crate::export_v1::proto::Reason;

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
            if let Some(reason) = refused(&response) {
                activities.emit(Activity::Refused { door, reason });
            }
            Ok(response)
        })
    }
}

/// Why a call was refused whose response is this one; `None` for one that is served, that asks for what is not there, or that
/// fails because of the engine, the disk or another client. Only the status of a call that fails before its first message is
/// among the headers; later ones come behind the body.
fn refused<B>(response: &Response<B>) -> Option<Refused> {
    if let Some(reason) = response.extensions().get::<Refused>() {
        return Some(*reason);
    }
    // By the API's reason: the code alone may be the engine's.
    let error = ApiError::from_status(&Status::from_header_map(response.headers())?)?;
    match error.reason {
        Reason::InvalidField | Reason::UnknownExporterType | Reason::DocumentInvalid | Reason::ExportRequired => {
            Some(Refused::Input)
        }
        Reason::NameDenied | Reason::NameTaken | Reason::DestDenied | Reason::OperationDenied => Some(Refused::Policy),
        // A client that was silent for too long was served until then.
        Reason::LimitExceeded if error.code == Code::DeadlineExceeded => None,
        Reason::LimitExceeded | Reason::Quota => Some(Refused::Limit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineError;

    fn reason(error: impl Into<ApiError>) -> Option<Refused> {
        refused(&Status::from(error.into()).into_http::<Body>())
    }

    #[test]
    fn what_the_engine_refuses_is_no_refusal_of_a_client() {
        let operation = || "loading".to_owned();
        for code in [Code::InvalidArgument, Code::PermissionDenied, Code::ResourceExhausted, Code::Unauthenticated] {
            let error = EngineError::Rpc { operation: operation(), code, message: "no".to_owned() };
            assert_eq!(reason(error), None, "{code:?}");
        }
        assert_eq!(reason(EngineError::NoSpace { operation: operation(), message: "full".to_owned() }), None);
        assert_eq!(reason(ApiError::field("root", "it is wrong")), Some(Refused::Input));
        assert_eq!(reason(ApiError::limit(Code::ResourceExhausted, "exports", 1, "too many")), Some(Refused::Limit));
        assert_eq!(reason(ApiError::new(Code::PermissionDenied, Reason::NameDenied, "no")), Some(Refused::Policy));
        assert_eq!(refused(&Status::not_found("no such blob").into_http::<Body>()), None);
    }
}
