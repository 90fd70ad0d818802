//! A proxy in front of an S3 server that breaks what it is told to.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::common::Bucket;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It passes.
    Pass,
    /// Its connection is closed, and the server never sees it.
    Reset,
    /// The server does what it says, and the connection is closed before the response.
    Lost,
    /// It is never answered, and the server never sees it.
    Stall,
    /// The server does what it says, which is when it counts as seen, and it is never answered.
    Unanswered,
    /// It is answered with this status and code of S3, and the server never sees it.
    Status(u16, &'static str),
    /// The first half of the response comes, and then the connection is closed.
    Cut,
}

type Body = BoxBody<Bytes, std::io::Error>;

/// The proxy.
#[derive(Debug)]
pub(crate) struct Faulty {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn broken() -> std::io::Error {
    std::io::Error::other("broken by the test")
}

fn body(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed()
}

impl Faulty {
    /// In front of the server of `bucket`. `judge` gets the method and the target of each request.
    pub(crate) async fn start(bucket: &Bucket, judge: impl FnMut(&str, &str) -> Fault + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, judge) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(judge)));
        let server = bucket.endpoint.strip_prefix("http://").unwrap().to_owned();
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (judge, seen, server) = (judge.clone(), noted.clone(), server.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let target = request.uri().to_string();
                    let fault = {
                        let mut judge = judge.lock().unwrap();
                        (*judge)(request.method().as_str(), &target)
                    };
                    let line = format!("{} {target} {fault:?}", request.method());
                    let (server, seen) = (server.clone(), seen.clone());
                    async move {
                        if fault != Fault::Unanswered {
                            seen.lock().unwrap().push(line);
                            return answer(&server, request, fault).await;
                        }
                        answer(&server, request, fault).await?;
                        seen.lock().unwrap().push(line);
                        std::future::pending().await
                    }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // Those that a fault broke end with an error.
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self { address, seen, task }
    }

    /// The bucket behind it.
    pub(crate) fn bucket(&self, bucket: &Bucket) -> Bucket {
        bucket.at(&self.address)
    }

    /// How many requests had this fault.
    pub(crate) fn count(&self, fault: Fault) -> usize {
        let end = format!(" {fault:?}");
        self.seen.lock().unwrap().iter().filter(|line| line.ends_with(&end)).count()
    }

    /// All requests that were seen.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn answer(server: &str, request: Request<Incoming>, fault: Fault) -> Result<Response<Body>, std::io::Error> {
    match fault {
        Fault::Reset => return Err(broken()),
        Fault::Stall => std::future::pending().await,
        Fault::Status(status, code) => {
            let text = format!("<Error><Code>{code}</Code><Message>made by the test</Message></Error>");
            // Its body must have been read, else the client sees a broken connection instead.
            request.into_body().collect().await.map_err(|_| broken())?;
            return Ok(Response::builder().status(status).header("etag", "\"0\"").body(body(text.into())).unwrap());
        }
        Fault::Pass | Fault::Lost | Fault::Unanswered | Fault::Cut => {}
    }
    let (head, incoming) = request.into_parts();
    let bytes = incoming.collect().await.map_err(|_| broken())?.to_bytes();
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| broken())?;
    tokio::spawn(connection);
    let response = sender.send_request(Request::from_parts(head, Full::new(bytes))).await.map_err(|_| broken())?;
    let (head, incoming) = response.into_parts();
    let bytes = incoming.collect().await.map_err(|_| broken())?.to_bytes();
    match fault {
        Fault::Lost => Err(broken()),
        Fault::Cut => {
            let half = bytes.slice(..bytes.len() / 2);
            let frames = futures_util::stream::iter([Ok(Frame::data(half)), Err(broken())]);
            Ok(Response::from_parts(head, BodyExt::boxed(StreamBody::new(frames))))
        }
        _ => Ok(Response::from_parts(head, body(bytes))),
    }
}
