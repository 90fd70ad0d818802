//! An [`Archive`] as a folder: an OCI image layout.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt as _;

use super::Archive;
use crate::image::layout::blob_path;
use crate::output::items::{self, Item, ItemSender, Items, ReceiverGone};
use crate::output::member::{Body, Member, Meta, Mtime};
use crate::source::{Source, SourceError, read_range};

impl Archive {
    /// The members of the archive. Blobs are not verified, as in [`Output::read`](crate::output::Output::read).
    pub(crate) fn items(self: Arc<Self>, source: Arc<dyn Source>) -> Items {
        items::items(move |sender| async move {
            match self.send(&*source, &sender).await {
                Ok(Ok(()) | Err(ReceiverGone)) => {}
                Err(error) => sender.fail(error).await,
            }
        })
    }

    async fn send(&self, source: &dyn Source, sender: &ItemSender) -> Result<Result<(), ReceiverGone>, SourceError> {
        let now = SystemTime::UNIX_EPOCH.elapsed().map(|time| time.as_secs()).unwrap_or_default();
        let mtime = Mtime { seconds: now, nanos: 0 };
        let member = |path: &str, body| {
            let meta = Meta { mode: if body == Body::Folder { 0o755 } else { 0o644 }, mtime, ..Meta::FOLDER };
            Item::Member(Member { path: path.as_bytes().to_vec(), body, meta })
        };
        for folder in self.folders.iter().map(|folder| folder.trim_end_matches('/')) {
            if sender.send(member(folder, Body::Folder)).await.is_err() {
                return Ok(Err(ReceiverGone));
            }
        }
        for (name, content) in &self.files {
            let file = member(name, Body::File { size: content.len() as u64 });
            if sender.send(file).await.is_err() || sender.send(Item::Data(content.clone())).await.is_err() {
                return Ok(Err(ReceiverGone));
            }
        }
        for blob in &self.blobs {
            if sender.send(member(&blob_path(&blob.digest), Body::File { size: blob.size })).await.is_err() {
                return Ok(Err(ReceiverGone));
            }
            let mut chunks = read_range(source, blob, 0..blob.size).await?;
            while let Some(chunk) = chunks.next().await {
                if sender.send(Item::Data(chunk?)).await.is_err() {
                    return Ok(Err(ReceiverGone));
                }
            }
        }
        Ok(Ok(()))
    }
}
