//! What the gRPC servers of all doors have: health, reflection, limits, and a graceful end.

use std::path::Path;

use linkspan::export_v1::proto::{AbortRequest, CapabilitiesRequest, OpenRequest};
use prost::Message as _;
use tokio::net::UnixStream;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::client::{exporter, reason};
use crate::containerd::Containerd;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn its_health_can_be_checked() {
    let server = Server::containerd("health");
    let mut health = HealthClient::new(server.client().await.channel);
    for service in [
        "",
        "linkspan.export.v1.Exports",
        "containerd.services.content.v1.Content",
        "linkspan.export.v1.References",
        "linkspan.cache.v1.Caches",
    ] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let response = health.check(request).await.unwrap().into_inner();
        assert_eq!(response.status(), ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest { service: "linkspan.export.v1.Nothing".to_owned() };
    assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_describes_itself() {
    let server = Server::containerd("reflection");
    let mut reflection = ServerReflectionClient::new(server.client().await.channel);
    let mut send = async |message: MessageRequest| -> ServerReflectionResponse {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let responses = reflection.server_reflection_info(futures_util::stream::iter([request])).await.unwrap();
        responses.into_inner().message().await.unwrap().unwrap()
    };
    let Some(MessageResponse::ListServicesResponse(found)) =
        send(MessageRequest::ListServices(String::new())).await.message_response
    else {
        panic!("no list of services");
    };
    let mut names: Vec<_> = found.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "containerd.services.content.v1.Content",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "linkspan.cache.v1.Caches",
            "linkspan.export.v1.Exports",
            "linkspan.export.v1.References",
        ]
    );
    for name in names {
        let response = send(MessageRequest::FileContainingSymbol(name.clone())).await.message_response;
        assert!(matches!(response, Some(MessageResponse::FileDescriptorResponse(_))), "{name}: {response:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_bounded() {
    let server = Server::containerd("metadata");
    let client = server.client().await;
    let send = async |length: usize| {
        let mut request = Request::new(CapabilitiesRequest {});
        request.metadata_mut().insert("x-long", "x".repeat(length).parse().unwrap());
        client.exports.clone().capabilities(request).await.map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(send(48 << 10).await, Ok(()));
    assert!(send(80 << 10).await.is_err());
    assert_eq!(send(1).await, Ok(()), "others are served on");
}

/// Calls Open with a deadline that only the server can keep: any gRPC client would keep it, too. The response's code.
async fn open_raw(door: &Path, request: &OpenRequest, timeout: &str) -> Code {
    let stream = UnixStream::connect(door).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let head = http::Request::post("http://localhost/linkspan.export.v1.Exports/Open")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let message = request.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    let (response, mut body) = client.ready().await.unwrap().send_request(head, false).unwrap();
    body.send_data(frame.into(), true).unwrap();
    let response = response.await.unwrap();
    let status = response.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    status.map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_kept_and_what_was_begun_is_found_again() {
    let containerd = Containerd::start("");
    let server = Server::containerd_at(containerd.address(), "deadline");
    let client = server.client().await;
    let request = OpenRequest {
        exporters: vec![exporter("a")],
        idempotency_key: "deadline".to_owned(),
        ..OpenRequest::default()
    };
    // Served once what is left of earlier exports was looked for, which a frozen engine would not let end.
    client.exports.clone().capabilities(CapabilitiesRequest {}).await.unwrap();
    containerd.freeze();
    // Without a deadline the response would be that the engine did not respond.
    let code = open_raw(&server.door, &request, "100m").await;
    assert!(matches!(code, Code::Cancelled | Code::DeadlineExceeded), "{code:?}");
    // Others are not kept from working.
    let capabilities = client.exports.clone().capabilities(CapabilitiesRequest {}).await;
    assert_eq!(capabilities.unwrap().into_inner().engine.unwrap().kind, "containerd");
    containerd.thaw();
    let opened = client.exports.clone().open(request).await.unwrap().into_inner();
    assert!(opened.found, "it ran to its end without its client");
    let leases = server.stack.ctr("deadline", ["--address", containerd.address(), "leases", "ls", "-q"]).ok().lines();
    assert_eq!(leases.len(), 1);
    drop(server);
    containerd.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_exports_are_open_at_once() {
    let server = Server::containerd("many");
    let client = server.client().await;
    let limits =
        client.exports.clone().capabilities(CapabilitiesRequest {}).await.unwrap().into_inner().limits.unwrap();
    let mut first = None;
    for _ in 0..limits.open_exports {
        let id = client.open(&["a"]).await;
        first.get_or_insert(id);
    }
    let request = OpenRequest { exporters: vec![exporter("a")], ..OpenRequest::default() };
    let status = client.exports.clone().open(request.clone()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "LIMIT_EXCEEDED"));
    client.exports.clone().abort(AbortRequest { export_id: first.unwrap() }).await.unwrap();
    client.exports.clone().open(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_at_a_signal_and_its_clients_get_an_error() {
    let mut server = Server::containerd("drain");
    let client = server.client().await;
    client.open(&["a"]).await;
    // An open connection without a call does not hold it up.
    assert!(server.linkspan.terminate().success());
    assert_eq!(server.stack.leases("drain").len(), 1, "the export is there for the next start");
}
