//! containerd's Content service, scoped: calls name an export, whose blobs they see and write, or something that can only be
//! read, or only be written. What is outside does not exist for them.
//!
//! `proto/README.md`, "The Content service, scoped", is its specification. Doors say what there is by [`Scopes`].

mod contents;
mod filter;
mod scope;
mod scoped_writer;
mod service;
mod write;

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::engine::ingest::Expected;
use crate::export_v1::ApiError;
use crate::image::Digest;

pub(crate) use contents::ExportContent;
pub(crate) use scope::{Labels, Scope, Times};
pub(crate) use service::ContentService;
pub(crate) use write::exists;

/// The target of a call.
#[derive(Debug, Clone)]
pub(crate) enum CallTarget {
    /// An export, which takes blobs.
    Export(Arc<dyn Export>),
    /// Blobs that are only read.
    Blobs(Arc<dyn Blobs>),
    /// What blobs are only written to.
    Ingester(Arc<dyn Ingester>),
}

/// Finds what calls are about by their metadata.
pub(crate) trait Scopes: Debug + Send + Sync {
    /// The key of the metadata.
    fn key(&self) -> &'static str;

    /// What `id` names. The refusal of what is not there is never NOT_FOUND, which means a missing blob.
    fn find(&self, id: &str) -> Result<CallTarget, ApiError>;
}

/// An export that clients send blobs.
pub(crate) trait Export: Debug + Send + Sync {
    /// Its blobs.
    fn contents(&self) -> &ExportContent;

    /// Fails if the export has ended.
    fn check_alive(&self) -> Result<(), ApiError>;

    /// Fails while a blob must not be removed from the scope.
    fn check_delete(&self) -> Result<(), ApiError>;

    /// The engine has lost the lease, and with it what the export holds: it has come to its end.
    fn lost(&self) {}
}

/// Blobs that can only be read.
#[async_trait::async_trait]
pub(crate) trait Blobs: Debug + Send + Sync {
    /// The size of a blob; `None` for what is not among them.
    fn size(&self, digest: &Digest) -> Option<u64>;

    /// The bytes of a blob from `offset` on, `size` of them.
    async fn read(
        &self,
        digest: &Digest,
        offset: u64,
        size: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError>;
}

/// What takes blobs that are written: containerd's `Ingester` (`core/content/content.go`).
#[async_trait::async_trait]
pub(crate) trait Ingester: Debug + Send + Sync {
    /// Opens the ref `name`. ALREADY_EXISTS says that the blob need not be sent.
    async fn writer<'a>(&'a self, name: &'a str, expected: &Expected) -> Result<Box<dyn Writer + 'a>, Status>;

    /// Cancelled when no more is taken.
    fn end(&self) -> &CancellationToken;

    /// Says that no more is taken, and why.
    fn ended(&self) -> Status;

    /// The writes that are under way.
    fn writers(&self) -> &TaskTracker;

    /// A write was refused with `status`.
    fn refused(&self, _status: &Status) {}
}

/// A blob that is being written.
#[async_trait::async_trait]
pub(crate) trait Writer: Send {
    /// How many bytes there are.
    fn offset(&self) -> u64;

    /// When it was begun and last written to.
    fn times(&self) -> Times;

    /// The digest of the bytes so far.
    async fn digest(&mut self) -> Result<Digest, Status>;

    /// Refuses to go on if the blob is `digest`, as the client says now, and need not be sent.
    async fn expect(&mut self, digest: &Digest) -> Result<(), Status>;

    /// Begins anew.
    async fn restart(&mut self) -> Result<(), Status>;

    /// Takes the next bytes.
    async fn write(&mut self, data: Bytes) -> Result<(), Status>;

    /// Commits the blob. Nothing else is called after that.
    async fn commit(&mut self, expected: Expected, labels: Labels) -> Result<Digest, Status>;

    /// Closes it before it is complete.
    async fn suspend(self: Box<Self>);
}
