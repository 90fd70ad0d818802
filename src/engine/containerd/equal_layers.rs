//! Blobs that hold the same layer in another form.

use containerd_client::services::v1::{Info, ListContentRequest, ReadContentRequest};
use tokio::time::timeout;

use super::client::{Client, SILENCE, UNARY};
use super::labels::UNCOMPRESSED;
use crate::engine::EngineError;
use crate::image::Digest;
use crate::source::{EqualLayer, EqualLayers};

/// The blobs that containerd's importer takes in the place of uncompressed layers with these digests: those whose label says
/// so, and of several the one that the store lists last (`core/images/archive/importer.go`, `resolveLayers`).
pub(crate) async fn of(client: &Client, digests: &[Digest]) -> Result<EqualLayers, EngineError> {
    let mut same = EqualLayers::new();
    if digests.is_empty() {
        return Ok(same);
    }
    for info in list(client, digests).await? {
        let (Some(layer), Ok(size)) = (info.labels.get(UNCOMPRESSED), u64::try_from(info.size)) else { continue };
        if let (Ok(layer), Ok(digest)) = (layer.parse(), info.digest.parse()) {
            same.insert(layer, EqualLayer { digest, size, mark: Vec::new() });
        }
    }
    for layer in same.values_mut() {
        layer.mark = mark(client, &layer.digest).await?;
    }
    Ok(same)
}

async fn list(client: &Client, digests: &[Digest]) -> Result<Vec<Info>, EngineError> {
    // Letters, digits and a colon need no quotes (containerd `pkg/filters/parser.go`).
    let filters = digests.iter().map(|digest| format!("labels.\"{UNCOMPRESSED}\"=={digest}")).collect();
    let operation = "listing compressed layers";
    let mut content = client.content();
    let call = content.list(client.request(ListContentRequest { filters }));
    let mut pages = client.unary(operation, call).await?;
    let mut found = Vec::new();
    loop {
        let page = timeout(SILENCE, pages.message()).await;
        let page = page.map_err(|_| EngineError::Timeout { operation: operation.to_owned(), after: SILENCE })?;
        match page.map_err(|status| client.failure(operation, status))? {
            Some(page) => found.extend(page.info),
            None => return Ok(found),
        }
    }
}

async fn mark(client: &Client, digest: &Digest) -> Result<Vec<u8>, EngineError> {
    let operation = format!("reading {digest}");
    let mut content = client.content();
    let size = EqualLayer::MARK_BYTES as i64;
    let call = content.read(client.request(ReadContentRequest { digest: digest.to_string(), offset: 0, size }));
    let mut chunks = client.unary(operation.as_str(), call).await?;
    let mut mark = Vec::new();
    loop {
        let chunk = timeout(UNARY, chunks.message()).await;
        let chunk = chunk.map_err(|_| EngineError::Timeout { operation: operation.clone(), after: UNARY })?;
        match chunk.map_err(|status| client.failure(operation.as_str(), status))? {
            Some(chunk) => mark.extend_from_slice(&chunk.data),
            None => return Ok(mark),
        }
        if mark.len() >= EqualLayer::MARK_BYTES {
            mark.truncate(EqualLayer::MARK_BYTES);
            return Ok(mark);
        }
    }
}
