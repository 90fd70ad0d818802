//! containerd's Content service, scoped: calls name an export, whose blobs they see and write, or something that can only be
//! read. What is outside does not exist for them.
//!
//! `proto/README.md`, "The Content service, scoped", is its specification. Doors say what there is by [`Scopes`].

mod contents;
mod filter;
mod scope;
mod service;
mod write;

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::export_v1::ApiError;
use crate::image::Digest;

pub(crate) use contents::Contents;
pub(crate) use scope::{Labels, Scope, Times};
pub(crate) use service::ContentService;

/// What a call is about.
#[derive(Debug, Clone)]
pub(crate) enum Named {
    /// An export, which takes blobs.
    Export(Arc<dyn Export>),
    /// Blobs that are only read.
    Blobs(Arc<dyn Blobs>),
}

/// Finds what calls are about by their metadata.
pub(crate) trait Scopes: Debug + Send + Sync {
    /// The key of the metadata.
    fn key(&self) -> &'static str;

    /// What `id` names. The refusal of what is not there is never NOT_FOUND, which means a missing blob.
    fn find(&self, id: &str) -> Result<Named, ApiError>;
}

/// An export that clients send blobs.
pub(crate) trait Export: Debug + Send + Sync {
    /// Its blobs.
    fn contents(&self) -> &Contents;

    /// Refuses what cannot be done any more.
    fn check_alive(&self) -> Result<(), ApiError>;

    /// Refuses to let a blob be taken out while that is needed.
    fn check_delete(&self) -> Result<(), ApiError>;
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
