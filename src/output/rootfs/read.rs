//! The second pass over the layers: the contents of the files that are left.

use std::sync::Arc;

use super::layer::Layer;
use super::limits::Budget;
use super::{LayerFiles, Rootfs, RootfsError};
use crate::output::items::{self, Item, ItemSender, Items, ReceiverGone};
use crate::output::member::Body;
use crate::source::{Source, SourceError};

/// The items of `rootfs` without its first `skip` parts.
pub(super) fn items(rootfs: Arc<Rootfs>, source: Arc<dyn Source>, skip: usize) -> Items {
    items::items(move |sender| async move {
        let mut part = 0;
        for image in &rootfs.images {
            if part >= skip {
                for member in &image.head {
                    if sender.send(Item::Member(member.clone())).await.is_err() {
                        return;
                    }
                }
            }
            part += 1;
            for layer in &image.layers {
                if part >= skip {
                    match pass_on(&*source, layer, &sender).await {
                        Ok(Ok(())) => {}
                        Ok(Err(ReceiverGone)) => return,
                        Err(error) => return sender.fail(source_error(error, &*source, layer)).await,
                    }
                }
                part += 1;
            }
        }
    })
}

/// Emits the files of one layer, and reads no further than the last of them.
async fn pass_on(
    source: &dyn Source,
    layer: &LayerFiles,
    sender: &ItemSender,
) -> Result<Result<(), ReceiverGone>, RootfsError> {
    let mut reader = Layer::open(source, &layer.blob, Budget::ANY, None).await?;
    let mut ordinal = 0;
    for file in &layer.files {
        let member = loop {
            let Some(member) = reader.next().await? else {
                return Err(reader.wrong("it ends earlier than when it was read first".to_owned()));
            };
            ordinal += 1;
            if ordinal > file.ordinal {
                break member;
            }
        };
        // The size of the output is promised by now, so a changed blob is an error.
        let is_same = matches!((&member.body, &file.member.body),
            (Body::File { size: now }, Body::File { size: before }) if now == before);
        if !is_same {
            return Err(reader.wrong("it has changed since it was read first".to_owned()));
        }
        if sender.send(Item::Member(file.member.clone())).await.is_err() {
            return Ok(Err(ReceiverGone));
        }
        while let Some(data) = reader.data().await? {
            if sender.send(Item::Data(data)).await.is_err() {
                return Ok(Err(ReceiverGone));
            }
        }
        for link in file.links() {
            if sender.send(Item::Member(link)).await.is_err() {
                return Ok(Err(ReceiverGone));
            }
        }
    }
    Ok(Ok(()))
}

fn source_error(error: RootfsError, source: &dyn Source, layer: &LayerFiles) -> SourceError {
    match error {
        RootfsError::Source(error) => error,
        error => SourceError::Read {
            name: source.name().to_owned(),
            digest: layer.blob.digest.clone(),
            reason: error.to_string(),
        },
    }
}
