//! The names of a bucket: the tags of its repositories. They are listed in `name_list.rs`, set in `set_names.rs`.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OnceCell;

use super::bucket::{Bucket, Found, PARALLEL};
use super::keys::{self, Repository};
use super::probe;
use crate::engine::EngineError;
use crate::image::{Descriptor, Digest, Reference};

/// The longest link, in bytes: a digest, and what an editor may have added.
const MAX_LINK: u64 = 1024;
/// The longest descriptor of an image without a name, in bytes.
const MAX_DESCRIPTOR: u64 = 64 << 10;
/// How many links of a repository are listed at once.
pub(super) const MAX_LINKS: usize = 3_000;

const BROKEN: &str = "load or push an image of this name again, or remove the name with `linkspan rm`";

/// The names of one bucket.
#[derive(Debug)]
pub(super) struct NameIndex {
    pub(super) bucket: Bucket,
    /// Whether the store has preconditions.
    is_conditional: Arc<OnceCell<bool>>,
}

/// What is in the place of a link.
#[derive(Debug)]
pub(super) enum Linked {
    /// Nothing.
    Absent,
    /// A link.
    To(Digest, Found),
    /// Something that is no link, which others wrote.
    Unreadable(EngineError),
}

pub(super) fn link(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_str().as_bytes())
}

impl NameIndex {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, is_conditional: Arc::default() }
    }

    /// Whether the store compares and sets. Finds it out at the first call, with two small writes.
    pub(super) async fn is_conditional(&self) -> Result<bool, EngineError> {
        self.is_conditional.get_or_try_init(|| probe::is_conditional(&self.bucket)).await.copied()
    }

    /// The repository of a name.
    pub(super) fn repository(&self, name: &Reference) -> Result<Repository, EngineError> {
        Repository::of(name).ok_or_else(|| EngineError::Object {
            operation: "naming an image in",
            object: self.bucket.address().to_owned(),
            reason: format!("`{name}` is of a registry with a port, and no path of a registry can hold one"),
            hint: Some("give the image a name without a port"),
        })
    }

    /// The error that the name which the link `key` belongs to leads to no image.
    pub(super) fn broken(&self, key: &str, reason: String) -> EngineError {
        EngineError::Object { operation: "reading", object: self.bucket.object(key), reason, hint: Some(BROKEN) }
    }

    /// What is in the place of the link `key`.
    async fn look_at(&self, key: &str) -> Result<Linked, EngineError> {
        let found = match self.bucket.get(key, MAX_LINK).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Linked::Absent),
            // Most refusals of a store have a hint; that an object is too long has none.
            Err(error) if error.hint().is_some() => return Err(error),
            Err(error) => match self.bucket.size(key).await? {
                Some(size) if size > MAX_LINK => {
                    let reason = format!("it is no link: it has {size} bytes; expected a digest");
                    return Ok(Linked::Unreadable(self.broken(key, reason)));
                }
                _ => return Err(error),
            },
        };
        let text = std::str::from_utf8(&found.bytes).unwrap_or_default().trim();
        Ok(match text.parse() {
            Ok(digest) => Linked::To(digest, found),
            Err(error) => Linked::Unreadable(self.broken(key, format!("it is no link: {error}"))),
        })
    }

    /// The link at `key`, which must be one if there is something.
    pub(super) async fn linked(&self, key: &str) -> Result<Option<(Digest, Found)>, EngineError> {
        match self.look_at(key).await? {
            Linked::Absent => Ok(None),
            Linked::To(digest, found) => Ok(Some((digest, found))),
            Linked::Unreadable(error) => Err(error),
        }
    }

    /// What is in the place of the link of `name`: a tag's, or with a digest that of the revision, whatever tag it has.
    pub(super) async fn look_up(&self, name: &Reference) -> Result<Linked, EngineError> {
        let Some(repository) = Repository::of(name) else { return Ok(Linked::Absent) };
        match (name.digest(), name.tag()) {
            (Some(digest), _) => self.look_at(&repository.revision(digest)).await,
            (None, Some(tag)) => self.look_at(&repository.current(tag)).await,
            (None, None) => Ok(Linked::Absent),
        }
    }

    /// The root that `name` resolves to.
    pub(super) async fn resolve(&self, name: &Reference) -> Result<Option<Digest>, EngineError> {
        match self.look_up(name).await? {
            Linked::Absent => Ok(None),
            Linked::To(digest, _) => Ok(Some(digest)),
            Linked::Unreadable(error) => Err(error),
        }
    }

    /// Whether all of `names` resolve to `root`.
    pub(super) async fn resolves_to(&self, root: &Digest, names: &[Reference]) -> Result<bool, EngineError> {
        let is_root = async |name: &Reference| {
            Ok::<_, EngineError>(matches!(self.look_up(name).await?, Linked::To(digest, _) if digest == *root))
        };
        let resolved = names.iter().map(is_root);
        let resolved: Vec<bool> = stream::iter(resolved.collect::<Vec<_>>()).buffered(PARALLEL).try_collect().await?;
        Ok(resolved.into_iter().all(|is_root| is_root))
    }

    /// The descriptor of an image without a name. An unreadable one is an error: a collector that took it for absent would delete
    /// the image.
    pub(super) async fn unnamed(&self, root: &Digest) -> Result<Option<Descriptor>, EngineError> {
        let key = keys::unnamed(root);
        let Some(found) = self.bucket.get(&key, MAX_DESCRIPTOR).await? else { return Ok(None) };
        let parsed = serde_json::from_slice(&found.bytes);
        parsed.map(Some).map_err(|error| self.bucket.invalid(&key, format!("it is no descriptor: {error}")))
    }
}
