use std::error::Error;
use std::sync::Arc;

use linkspan::engine::{Engine, Origin};
use linkspan::export::{Exports, Outcome, Request, unique_id};
use linkspan::progress::{Event, Events};
use linkspan::registry::Registry;

/// Copies an image such as `registry.example/app:1` from its registry into an engine, with the credentials of `docker login`.
pub async fn copy(name: &str, engine: Arc<dyn Engine>) -> Result<Outcome, Box<dyn Error>> {
    let name = name.parse()?;
    let registry = Registry::new(&name, false).await?;
    let root = registry.resolve().await?;
    let exports = Exports::new(engine);
    let request = Request::new(root, vec![name.clone()], Origin::internal(unique_id(), "program", name.to_string()));
    let show = |event: &Event| println!("{event:?}");
    let outcome = exports.run(request, Arc::new(registry), Events::new(show)).await?;
    exports.finish().await;
    Ok(outcome)
}
