//! What can go wrong with a build cache.

use crate::engine::EngineError;
use crate::engine::caches::CacheVersion;
use crate::image::cache::CacheDocumentError;
use crate::source::SourceError;

/// How many ids a message names.
const SHOWN_IDS: usize = 8;

/// A cache's refusal. [`CacheError::hint`] says what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The text is no ref of a cache.
    #[error("`{text}` cannot be the ref of a cache: {expected}")]
    Name {
        /// The text, cut to 80 characters.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The policy does not allow the ref.
    #[error("the cache ref `{reference}` is not allowed here: expected one of {}", allowed.join(", "))]
    Denied {
        /// The ref.
        reference: String,
        /// The patterns that are allowed.
        allowed: Vec<String>,
    },
    /// No cache has the ref.
    #[error("there is no cache `{reference}`")]
    Unknown {
        /// The ref.
        reference: String,
    },
    /// The version exists, but its documents are lost or are not those of a cache.
    #[error("the version {id} of the cache `{reference}` cannot be used: {error}")]
    Unusable {
        /// The ref.
        reference: String,
        /// The version's id.
        id: String,
        /// Why.
        error: Box<CacheError>,
    },
    /// Several versions have ids that begin so.
    #[error("the ids of several versions of caches begin with `{id}`: {}", shown(ids))]
    Ambiguous {
        /// The beginning.
        id: String,
        /// Ids that tell them apart.
        ids: Vec<String>,
    },
    /// The documents are not those of a cache.
    #[error(transparent)]
    Document(#[from] CacheDocumentError),
    /// The config is not the one that the root lists.
    #[error("the root of the cache `{reference}` lists another config than was sent")]
    Config {
        /// The ref.
        reference: String,
    },
    /// The cache alone exceeds the limit.
    #[error("the cache `{reference}` has {bytes} bytes, more than all caches together may have: {limit}")]
    TooLarge {
        /// The ref.
        reference: String,
        /// Its bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A copy has more parts than a ref may have.
    #[error("a cache has at most {limit} parts, and so many newer ones were taken")]
    TooManyParts {
        /// How many there may be.
        limit: usize,
    },
    /// A layer could not be fetched.
    #[error("a layer of the cache could not be fetched: {0}")]
    Fetch(String),
    /// A document cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl CacheError {
    /// That `version` cannot be used because of `error`.
    pub(super) fn unusable(version: &CacheVersion, error: Self) -> Self {
        let (reference, id) = (version.reference.clone(), version.id.clone());
        Self::Unusable { reference, id, error: Box::new(error) }
    }

    /// What a person can do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Denied { .. } => Some("choose such a ref, or allow this one with `--allow-cache`".to_owned()),
            Self::Unknown { .. } => Some("`linkspan cache ls` lists the caches and their ids".to_owned()),
            Self::Ambiguous { .. } => Some("give the id, as `linkspan cache ls` prints it".to_owned()),
            Self::Unusable { id, .. } => Some(format!("export it again, or delete it: `linkspan cache rm {id}`")),
            Self::TooLarge { .. } => Some("raise `--cache-max-bytes`, or export with `mode=min`".to_owned()),
            Self::Source(SourceError::NotFound { .. }) => {
                Some("it may have been deleted meanwhile: `linkspan cache ls` lists what there is".to_owned())
            }
            Self::Engine(error) => error.hint(),
            _ => None,
        }
    }
}

/// Some of many ids.
fn shown(ids: &[String]) -> String {
    let more = if ids.len() > SHOWN_IDS { ", …" } else { "" };
    format!("{}{more}", ids[..ids.len().min(SHOWN_IDS)].join(", "))
}
