//! A containerd that is no longer the one that dockerd uses.

use containerd_client::services::v1::ServerResponse;
use linkspan::engine::{
    EngineError, EngineKind, Lifetime, Origin,
    select::{Selection, select},
};
use prost::Message as _;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::{
    common::Stack,
    proxy::{Direction, Proxy, Verdict},
};

#[test]
fn that_the_containerd_is_another_is_reported_even_if_it_refuses_everything() {
    let stack = Stack::shared();
    let proxy = Proxy::new(stack, stack.containerd_address());
    let selection = Selection {
        kind: Some(EngineKind::Docker),
        docker_host: Some(stack.docker_host().parse().unwrap()),
        containerd_address: Some(proxy.path().to_owned()),
        ..Selection::default()
    };
    let runtime = Runtime::new().unwrap();
    let engine = runtime.block_on(select(&selection)).unwrap().engine;
    proxy.rule(|message| match (message.path, message.direction) {
        (path, Direction::Response) if path.ends_with("Introspection/Server") => {
            let server = ServerResponse::decode(message.bytes.clone()).unwrap();
            let other = ServerResponse { uuid: "of another one".to_owned(), ..server };
            Verdict::Instead(vec![other.encode_to_vec().into()])
        }
        (path, Direction::Response) if path.ends_with("Leases/Delete") => Verdict::End(Code::Unknown, "it is stuck"),
        _ => Verdict::Pass,
    });
    let origin = Origin::internal("unproven", "test", "none");
    let error = runtime.block_on(engine.lease(&origin, Lifetime::Process)).unwrap_err();
    assert!(matches!(error, EngineError::NotProven { .. }), "{error}");
}
