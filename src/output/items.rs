//! A stream of the members of a file system, and the tar archive of that stream.

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use tar_core::HeaderError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::header::header;
use super::member::{Body, Member};
use crate::source::{Chunks, SourceError};
use crate::tar;

/// How many items are buffered: a few MiB at most.
const BACKLOG: usize = 16;
/// Chunks of at least this size are passed on uncopied; smaller ones are merged, so that they do not become a message each.
const LARGE: usize = 32 << 10;
/// The largest merged chunk.
const PACK: usize = 128 << 10;

/// A member, or a chunk of the content of the file before it.
#[derive(Debug)]
pub(crate) enum Item {
    Member(Member),
    Data(Bytes),
}

/// Members in an order in which they can be created: folders before their entries, files before hard links to them. An error
/// ends the stream.
pub(crate) type Items = BoxStream<'static, Result<Item, SourceError>>;

/// The sender of the items; an error means that the receiver is gone.
#[derive(Debug)]
pub(super) struct ItemSender(mpsc::Sender<Result<Item, SourceError>>);

/// The receiver is gone.
#[derive(Debug)]
pub(super) struct ReceiverGone;

impl ItemSender {
    pub(super) async fn send(&self, item: Item) -> Result<(), ReceiverGone> {
        self.0.send(Ok(item)).await.map_err(|_| ReceiverGone)
    }

    pub(super) async fn fail(&self, error: SourceError) {
        // The receiver may be gone.
        let _ = self.0.send(Err(error)).await;
    }
}

/// A stream of the items that a task sends.
pub(super) fn items<F: Future<Output = ()> + Send + 'static>(task: impl FnOnce(ItemSender) -> F) -> Items {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(task(ItemSender(sender)));
    ReceiverStream::new(receiver).boxed()
}

/// The size of `member` in an archive, in bytes.
pub(super) fn archived_size(member: &Member) -> Result<u64, HeaderError> {
    let content = if let Body::File { size } = member.body { size + tar::padding(size) as u64 } else { 0 };
    Ok(header(member)?.len() as u64 + content)
}

/// A tar archive of `items`, without its first `skip` bytes.
pub(super) fn archive(items: Items, skip: u64) -> Chunks {
    let state = Some(Packing { items, skip, packed: BytesMut::new(), next: None, padding: 0, ended: false });
    stream::unfold(state, |state| async {
        let mut packing = state?;
        match packing.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(packing))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// The state of the archive stream.
struct Packing {
    items: Items,
    skip: u64,
    /// Merged small chunks.
    packed: BytesMut,
    /// A large chunk that follows them.
    next: Option<Bytes>,
    /// The padding after the current file.
    padding: usize,
    ended: bool,
}

impl Packing {
    /// The next bytes; at least one.
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            if self.packed.len() >= PACK || (self.next.is_some() && !self.packed.is_empty()) {
                return Ok(Some(self.packed.split().freeze()));
            }
            if let Some(large) = self.next.take() {
                return Ok(Some(large));
            }
            match self.items.next().await.transpose()? {
                Some(Item::Data(data)) => self.put(data),
                Some(Item::Member(member)) => {
                    self.pad();
                    // The plan computed the same header, so this cannot fail.
                    self.put(header(&member).map(Bytes::from).unwrap_or_default());
                    self.padding = if let Body::File { size } = member.body { tar::padding(size) } else { 0 };
                }
                None => {
                    self.pad();
                    if !std::mem::replace(&mut self.ended, true) {
                        self.put(Bytes::from_static(&tar::END));
                    }
                    return Ok(Some(self.packed.split().freeze()).filter(|rest| !rest.is_empty()));
                }
            }
        }
    }

    fn pad(&mut self) {
        let padding = std::mem::take(&mut self.padding);
        self.put(Bytes::from_static(&tar::END).slice(..padding));
    }

    fn put(&mut self, mut bytes: Bytes) {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= skipped as u64;
        let _ = bytes.split_to(skipped);
        if bytes.len() >= LARGE {
            self.next = Some(bytes);
        } else {
            self.packed.extend_from_slice(&bytes);
        }
    }
}
