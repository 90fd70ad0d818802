//! An image that is in memory, exported into an OCI image layout.

use std::{collections::HashMap, error::Error, path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use linkspan::engine::{Origin, select};
use linkspan::export::{Exports, Outcome, Request};
use linkspan::image::{Descriptor, Digest};
use linkspan::progress::Events;
use linkspan::source::{Chunks, Source, SourceError};

#[derive(Debug)]
pub(crate) struct Memory(pub(crate) HashMap<Digest, Bytes>);

#[async_trait]
impl Source for Memory {
    fn name(&self) -> &str {
        "memory"
    }
    async fn open(&self, blob: &Descriptor, at: u64) -> Result<Chunks, SourceError> {
        let chunk = Ok(self.0[&blob.digest].slice(at as usize..));
        Ok(stream::iter([chunk]).boxed())
    }
}

pub(crate) async fn export(to: &Path, root: Descriptor, memory: Memory) -> Result<Outcome, Box<dyn Error>> {
    let exports = Exports::new(select::select(&select::Selection::layout(to)).await?.engine);
    let origin = Origin::internal("embedded", "program", "memory");
    let request = Request::new(root, vec!["demo:1".parse()?], origin);
    let outcome = exports.run(request, Arc::new(memory), Events::none()).await?;
    exports.finish().await;
    Ok(outcome)
}
