//! The `layout` engine among other tools, other processes, and behind the door.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests state what they expect by failing loudly")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../engine/fixture.rs"]
#[allow(dead_code, reason = "made for the tests of engines with a daemon")]
mod fixture;

mod build;
mod processes;
mod tools;

use std::path::Path;
use std::sync::Arc;

use linkspan::engine::Engine;
use linkspan::engine::EngineKind;
use linkspan::engine::images::Query;
use linkspan::engine::select::{Selection, select};

async fn layout(root: &Path) -> Arc<dyn Engine> {
    let selection = Selection { kind: Some(EngineKind::Layout), layout: Some(root.to_owned()), ..Selection::default() };
    select(&selection).await.unwrap().engine
}

/// What the layout's names resolve to, as `(name, digest)`.
async fn listed(engine: &dyn Engine) -> Vec<(String, String)> {
    let page = engine.images().unwrap().list(&Query::default()).await.unwrap();
    let pair =
        |record: linkspan::engine::images::Record| (record.name.unwrap_or_default(), record.target.digest.to_string());
    page.records.into_iter().map(pair).collect()
}
