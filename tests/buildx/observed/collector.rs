//! A collector of traces, over gRPC and over HTTP.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use tokio_rustls::rustls::{ServerConnection, StreamOwned};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::secure::server_config;
use crate::common::certificates::Certificates;
use crate::common::read_some;

/// A span, and the service that sent it.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) service: String,
    pub(super) span: Span,
}

impl Sent {
    /// A number among its attributes.
    pub(super) fn number(&self, key: &str) -> Option<i64> {
        match value(&self.span.attributes, key)? {
            any_value::Value::IntValue(number) => Some(number),
            _ => None,
        }
    }
}

impl Sent {
    /// A text among its attributes; an empty one if it is not there.
    pub(super) fn text(&self, key: &str) -> String {
        match value(&self.span.attributes, key) {
            Some(any_value::Value::StringValue(text)) => text,
            _ => String::new(),
        }
    }

    /// Whether it is of a request that was served.
    pub(super) fn is_served(&self) -> bool {
        self.span.kind() == SpanKind::Server
    }

    /// The reason, if it has failed.
    pub(super) fn failure(&self) -> Option<&str> {
        let status = self.span.status.as_ref().filter(|status| status.code() == StatusCode::Error)?;
        Some(&status.message)
    }
}

/// What has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Collected(Arc<Mutex<Vec<Sent>>>);

impl Collected {
    pub(super) fn spans(&self) -> Vec<Sent> {
        self.0.lock().unwrap().clone()
    }

    fn take(&self, request: ExportTraceServiceRequest) {
        let mut spans = self.0.lock().unwrap();
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = match value(&attributes, "service.name") {
                Some(any_value::Value::StringValue(name)) => name,
                _ => String::new(),
            };
            let found = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(found.map(|span| Sent { service: service.clone(), span }));
        }
    }
}

fn value(attributes: &[KeyValue], key: &str) -> Option<any_value::Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

#[tonic::async_trait]
impl TraceService for Collected {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector that is asked over gRPC, until it is dropped; and its endpoint.
pub(super) struct GrpcCollector {
    pub(super) collected: Collected,
    pub(super) endpoint: String,
    _runtime: tokio::runtime::Runtime,
}

impl GrpcCollector {
    pub(super) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collected = Collected::default();
        let service = TraceServiceServer::new(collected.clone()).max_decoding_message_size(64 << 20);
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { collected, endpoint, _runtime: runtime }
    }

    /// One with TLS, for clients with a certificate of the same authority; it keeps what it gets with `x-key: let-me-in`.
    pub(super) fn secure(certificates: &Certificates) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let collected = Collected::default();
        let check = |request: Request<()>| match request.metadata().get("x-key") {
            Some(key) if key == "let-me-in" => Ok(request),
            _ => Err(Status::unauthenticated("no key")),
        };
        let service = TraceServiceServer::with_interceptor(collected.clone(), check);
        let pem = |file: &str| fs::read(certificates.path(file)).unwrap();
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(pem("127.0.0.1.pem"), pem("127.0.0.1.key")));
        let tls = tls.client_ca_root(Certificate::from_pem(pem("ca.pem")));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = Server::builder().tls_config(tls).unwrap().add_service(service);
        runtime.spawn(server.serve_with_incoming(incoming));
        Self { collected, endpoint, _runtime: runtime }
    }
}

/// A collector that is asked over HTTP: it keeps what it gets with the header `x-key: let-me-in`. Its thread ends with the process.
pub(super) fn over_http() -> (Collected, String) {
    let (collected, address) = listen(serve);
    (collected, format!("http://{address}"))
}

/// The same with TLS, for clients with a certificate of the same authority.
pub(super) fn over_https(certificates: &Certificates) -> (Collected, String) {
    let config = server_config(certificates);
    let (collected, address) = listen(move |stream, kept| {
        serve(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream), kept);
    });
    (collected, format!("https://{address}"))
}

/// Serves each connection in a thread of its own.
fn listen(serve: impl Fn(TcpStream, &Collected) + Clone + Send + 'static) -> (Collected, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (collected, address) = (Collected::default(), listener.local_addr().unwrap().to_string());
    let kept = collected.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, kept, serve) = (stream.unwrap(), kept.clone(), serve.clone());
            stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
            std::thread::spawn(move || serve(stream, &kept));
        }
    });
    (collected, address)
}

/// Serves one connection; its end, however it comes, is the end of it.
fn serve(mut stream: impl Read + Write, kept: &Collected) {
    let mut bytes = Vec::new();
    loop {
        let Some((head, body)) = next(&mut stream, &mut bytes) else { return };
        let is_right = head.starts_with("post /v1/traces http/1.1\r\n")
            && head.contains("content-type: application/x-protobuf")
            && head.contains("x-key: let-me-in");
        if is_right {
            kept.take(ExportTraceServiceRequest::decode(&*body).unwrap());
        }
        let status = if is_right { "200 OK" } else { "400 Bad Request" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n");
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

/// The head of the next request, in small letters, and its body. `None` at the end.
fn next(stream: &mut impl Read, bytes: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut piece = [0; 64 << 10];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end + 2].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let (start, length) = (end + 4, length.parse::<usize>().unwrap());
            if bytes.len() >= start + length {
                let body = bytes[start..start + length].to_vec();
                bytes.drain(..start + length);
                return Some((head, body));
            }
        }
        match read_some(stream, &mut piece) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
}
