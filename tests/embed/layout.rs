use std::error::Error;
use std::path::Path;

use linkspan::engine::{
    Origin,
    select::{Selection, select},
};
use linkspan::export::{Exports, Outcome, Request, unique_id};
use linkspan::progress::Events;

/// Exports the image called `name` of the OCI image layout in a folder into an engine.
/// `Selection::default()` is Docker where there is one, else containerd.
pub async fn export_layout(folder: &Path, name: &str, engine: &Selection) -> Result<Outcome, Box<dyn Error>> {
    let name = name.parse()?;
    let layout = select(&Selection::layout(folder)).await?.engine.images()?;
    let root = layout.resolve(&name).await?.ok_or("the layout has no image of this name")?;
    let exports = Exports::new(select(engine).await?.engine);
    let origin = Origin::internal(unique_id(), "program", "layout");
    let request = Request::new(root, vec![name], origin);
    // Only the blobs that the engine lacks are read. Nothing is visible in it before the image is complete.
    let outcome = exports.run(request, layout, Events::none()).await?;
    exports.finish().await;
    Ok(outcome)
}
