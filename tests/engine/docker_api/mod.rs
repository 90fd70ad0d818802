//! The engine `docker-api`: a dockerd of which only the Engine API is used, beside the engine `docker`.

mod doors;
mod exports;
mod faults;
mod interrupted;
mod user;

use std::sync::Arc;

use linkspan::engine::select::{Selection, select};
use linkspan::engine::{Engine, EngineKind};

use crate::common::Stack;
use crate::relay::Relay;

/// The engine behind `docker_host`.
fn selection(stack: &Stack, docker_host: &str) -> Selection {
    Selection {
        kind: Some(EngineKind::DockerApi),
        docker_host: Some(docker_host.parse().unwrap()),
        cache_dir: Some(stack.fresh_path("-spool")),
        ..Selection::default()
    }
}

/// The engine behind a relay that counts.
async fn relayed(stack: &Stack) -> (Relay, Arc<dyn Engine>) {
    let relay = Relay::at(stack.fresh_path("-relay.sock"), stack.docker_host());
    let engine = select(&selection(stack, &relay.address())).await.unwrap().engine;
    (relay, engine)
}
