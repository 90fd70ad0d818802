//! What an engine holds, to be read: image records, and the blobs behind them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{BlobUrl, EngineError};
use crate::image::{Descriptor, Digest, Limits, Reference, media_type_of};
use crate::source::{BlobLookup, Chunks, EqualLayers, Source, SourceError, read_document, read_range};

/// How many records a page has at most, whatever was requested.
pub const MAX_PAGE: usize = 1000;
/// How much of a blob is read to see whether it may be a document.
const SNIFF: u64 = 512;
/// The media type of a blob that has no other (RFC 2046, section 4.5.1).
const ANYTHING: &str = "application/octet-stream";

/// An engine's images. As a [`Source`] it hands out their blobs, so that an image of one engine is exported into
/// another one like an image of a builder.
///
/// Nothing here is pinned: an image that is deleted while it is read fails with
/// [`SourceError::NotFound`].
#[async_trait]
pub trait Images: Source {
    /// The root of the image that is called `name`, exactly so; `None` if no image is.
    /// A name with a digest also finds an image of the same repository that has this digest under another tag.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError>;

    /// The descriptor of a blob that the engine holds, be it a root, a document below one or a leaf. The media type
    /// is what a record says, else what the document says of itself, else `application/octet-stream`.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn identify(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError>;

    /// A page of the image records.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn list(&self, query: &Query) -> Result<Page, EngineError>;

    /// The size of a blob in bytes, if the engine has all of it. Its content is verified by its reader.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn size(&self, digest: &Digest) -> Result<Option<u64>, EngineError>;

    /// The size of a blob that is there to be read. In an engine of several stores, [`Images::size`] is only of what all of them have.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn readable_size(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        self.size(digest).await
    }

    /// On how many of an engine's stores a record is, and how many there are; `None` for an engine that is one.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn spread(&self, record: &Record) -> Result<Option<(usize, usize)>, EngineError> {
        let Some(Ok(name)) = record.name.as_deref().map(str::parse::<Reference>) else { return Ok(None) };
        let places = self.places(&name).await?;
        let is_it = |root: &Descriptor| root.digest == record.target.digest;
        let with = places.iter().filter(|(_, root)| root.as_ref().is_some_and(is_it)).count();
        Ok((!places.is_empty()).then_some((with, places.len())))
    }

    /// What `name` points to in each of an engine's stores, by the stores' names; none for an engine that is one store.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn places(&self, _name: &Reference) -> Result<Vec<(String, Option<Descriptor>)>, EngineError> {
        Ok(Vec::new())
    }

    /// A URL at which clients read a blob, which is there, at the engine's store; `None` if they cannot.
    ///
    /// # Errors
    /// When the store makes none, but could.
    async fn url(&self, _digest: &Digest) -> Result<Option<BlobUrl>, EngineError> {
        Ok(None)
    }

    /// The size of a blob that need not be sent again: an export into the engine relies on what is there. Where others may
    /// have damaged it this is known only when all of it has been read, which an export would do as well.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn reliable(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        self.size(digest).await
    }

    /// The size of a blob that a reader may be given. Where others may have damaged it this is known only when all of it has been
    /// read, which is done once.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn intact(&self, digest: &Digest) -> Result<Option<u64>, EngineError> {
        self.size(digest).await
    }

    /// The blobs that the engine itself would take in the place of uncompressed layers with these digests, when it is given
    /// an image without a manifest. Engines that do no such thing know none.
    ///
    /// # Errors
    /// When the engine cannot be queried.
    async fn equal_layers(&self, _digests: &[Digest]) -> Result<EqualLayers, EngineError> {
        Ok(EqualLayers::new())
    }
}

#[async_trait]
impl Source for Arc<dyn Images> {
    fn name(&self) -> &str {
        (**self).name()
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        (**self).open(blob, offset).await
    }
}

/// [`Images`] as a source that can be queried for which blobs it has.
#[async_trait]
impl BlobLookup for Arc<dyn Images> {
    async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, SourceError> {
        (**self).size(digest).await.map_err(|error| unread(self, digest, &error))
    }

    async fn reliable_size(&self, digest: &Digest) -> Result<Option<u64>, SourceError> {
        (**self).reliable(digest).await.map_err(|error| unread(self, digest, &error))
    }

    async fn equal_layers(&self, digests: &[Digest]) -> EqualLayers {
        (**self).equal_layers(digests).await.unwrap_or_default()
    }
}

/// The descriptor of a blob of which no record says the type: a document says it of itself. `None` if the blob is gone.
pub(super) async fn describe(
    source: &dyn Source,
    digest: &Digest,
    size: u64,
) -> Result<Option<Descriptor>, EngineError> {
    let unknown = Descriptor::new(ANYTHING, digest.clone(), size);
    if size > Limits::default().config_bytes {
        return Ok(Some(unknown));
    }
    let media_type = match object(source, &unknown).await {
        Ok(bytes) => bytes.and_then(|bytes| media_type_of(&bytes)),
        Err(SourceError::NotFound { .. }) => return Ok(None),
        Err(error) => {
            let operation = format!("reading {digest}");
            return Err(EngineError::Protocol { operation, reason: error.reason() });
        }
    };
    Ok(Some(Descriptor { media_type: media_type.unwrap_or_else(|| ANYTHING.to_owned()), ..unknown }))
}

/// What a blob holds if it may be a document: a JSON object. Most layers show by their first bytes that they are none, and
/// are not read.
async fn object(source: &dyn Source, blob: &Descriptor) -> Result<Option<Bytes>, SourceError> {
    let mut chunks = read_range(source, blob, 0..blob.size.min(SNIFF)).await?;
    while let Some(chunk) = chunks.next().await {
        match chunk?.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => return read_document(source, blob).await.map(Some),
            Some(_) => return Ok(None),
            None => {}
        }
    }
    Ok(None)
}

fn unread(images: &Arc<dyn Images>, digest: &Digest, error: &EngineError) -> SourceError {
    SourceError::Read { name: images.name().to_owned(), digest: digest.clone(), reason: error.reason() }
}

/// Which records are requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// How their full names begin (`docker.io/library/`). Unnamed images are only in the list of the empty prefix.
    pub prefix: String,
    /// [`Page::next`] of the page before; `None` begins.
    pub after: Option<String>,
    /// How many records to return, at most [`MAX_PAGE`].
    pub limit: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self { prefix: String::new(), after: None, limit: MAX_PAGE }
    }
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its full name, as the engine has it: not every engine insists on one that parses as a [`Reference`].
    /// `None` for an image that lost its name or never had one.
    pub name: Option<String>,
    /// Its root.
    pub target: Descriptor,
}

impl Record {
    /// What records are sorted by, and what a page ends with.
    fn key(&self) -> String {
        // No name begins with `@`.
        self.name.clone().unwrap_or_else(|| format!("@{}", self.target.digest))
    }
}

/// Some records, sorted by name; unnamed ones, by digest, come before any letter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where the next page begins; `None` on the last. A record that comes or goes meanwhile shifts no other.
    pub next: Option<String>,
}

impl Page {
    /// The page of `records` that `query` selects.
    pub(super) fn of(records: impl IntoIterator<Item = Record>, query: &Query) -> Self {
        // An image can lie unnamed under more than one record.
        Self::without_equals(records, query, |_, _| true)
    }

    /// The same; of records with one key those are left out that `is_equal` says so of. What has one key is on one page.
    fn without_equals(
        records: impl IntoIterator<Item = Record>,
        query: &Query,
        is_equal: impl Fn(&Record, &Record) -> bool,
    ) -> Self {
        let is_match = |record: &Record| match &record.name {
            Some(name) => name.starts_with(&query.prefix),
            None => query.prefix.is_empty(),
        };
        let mut found: Vec<_> = records.into_iter().filter(is_match).map(|record| (record.key(), record)).collect();
        if let Some(after) = &query.after {
            found.retain(|(key, _)| key > after);
        }
        found.sort_by(|(one, it), (other, its)| one.cmp(other).then_with(|| it.target.digest.cmp(&its.target.digest)));
        found.dedup_by(|(one, it), (other, its)| one == other && is_equal(it, its));
        let mut end = query.limit.clamp(1, MAX_PAGE).min(found.len());
        while end > 0 && end < found.len() && found[end].0 == found[end - 1].0 {
            end += 1;
        }
        let next = (found.len() > end).then(|| found[end - 1].0.clone());
        found.truncate(end);
        Self { records: found.into_iter().map(|(_, record)| record).collect(), next }
    }

    /// The page of all records of which `pages` are pages of that `query`. A name that
    /// points to several images is listed with each.
    pub(super) fn merged(pages: Vec<Self>, query: &Query) -> Self {
        let has_more = pages.iter().any(|page| page.next.is_some());
        let records = pages.into_iter().flat_map(|page| page.records);
        let mut page = Self::without_equals(records, query, |one, other| one.target.digest == other.target.digest);
        if has_more && page.next.is_none() {
            page.next = page.records.last().map(Record::key);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: Option<&str>, content: &str) -> Record {
        let target = Descriptor::new("", Digest::sha256(content.as_bytes()), 1);
        Record { name: name.map(str::to_owned), target }
    }

    fn records() -> Vec<Record> {
        let unnamed = record(None, "x");
        vec![record(Some("b:1"), "1"), unnamed.clone(), record(Some("a:2"), "2"), unnamed, record(Some("ab:1"), "1")]
    }

    fn names(page: &Page) -> Vec<&str> {
        page.records.iter().map(|record| record.name.as_deref().unwrap_or("-")).collect()
    }

    #[test]
    fn pages_follow_each_other_without_gaps() {
        let (mut query, mut seen) = (Query { limit: 2, ..Query::default() }, Vec::new());
        loop {
            let page = Page::of(records(), &query);
            assert!(page.records.len() <= 2);
            seen.extend(names(&page).into_iter().map(str::to_owned));
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        assert_eq!(seen, ["-", "a:2", "ab:1", "b:1"]);
    }

    #[test]
    fn a_prefix_hides_the_rest() {
        let page = Page::of(records(), &Query { prefix: "a".to_owned(), ..Query::default() });
        assert_eq!((names(&page), &page.next), (vec!["a:2", "ab:1"], &None));
    }

    #[test]
    fn pages_of_several_stores_follow_each_other_without_gaps() {
        let (one, other) = (records(), vec![record(Some("c:1"), "1"), record(Some("a:2"), "3")]);
        let (mut query, mut seen) = (Query { limit: 2, ..Query::default() }, Vec::new());
        loop {
            let page = Page::merged([&one, &other].map(|it| Page::of(it.clone(), &query)).into(), &query);
            seen.extend(names(&page).into_iter().map(str::to_owned));
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        assert_eq!(seen, ["-", "a:2", "a:2", "ab:1", "b:1", "c:1"]);
    }

    #[test]
    fn no_page_is_empty_or_endless() {
        for limit in [0, 1] {
            assert_eq!(Page::of(records(), &Query { limit, ..Query::default() }).records.len(), 1);
        }
        let many = (0..2 * MAX_PAGE).map(|n| record(Some(&n.to_string()), "1"));
        assert_eq!(Page::of(many, &Query { limit: usize::MAX, ..Query::default() }).records.len(), MAX_PAGE);
    }
}
