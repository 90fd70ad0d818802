//! Query, Records and Load: what a hold has, looked up without its documents.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use prost_types::Timestamp;
use tonic::Code;

use super::messages::number;
use crate::cache_v1::limits::{FOUND, LOOKUPS, QUERIED_LAYERS, QUERIED_PARTS};
use crate::cache_v1::proto::lookup::What;
use crate::cache_v1::proto::{
    self, Following, Found, LoadResponse, Lookup, QueryResponse, RecordKey, RecordResults, RecordsResponse,
};
use crate::caches::{CacheError, CacheIndex, Caches, InlineCache, ResolvedPart};
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor_message;
use crate::image::{Descriptor, Digest};

/// A version of a hold, to be looked into.
#[derive(Debug)]
pub(super) struct QueriedPart {
    /// The cache config, or that of the image.
    config: Descriptor,
    /// The image that has the records.
    image: Option<InlineCache>,
    /// The layers that its root lists and the engine has.
    layers: HashMap<Digest, Descriptor>,
}

impl QueriedPart {
    pub(super) fn of_image(image: InlineCache) -> Self {
        let layers = image.layers.iter().map(|layer| (layer.digest.clone(), layer.clone())).collect();
        Self { config: image.config.clone(), image: Some(image), layers }
    }

    async fn index(&self, caches: &Caches) -> Result<Arc<CacheIndex>, CacheError> {
        match &self.image {
            Some(image) => caches.inline_index(image).await,
            None => caches.index(&self.config).await,
        }
    }

    pub(super) fn new(part: &ResolvedPart) -> Self {
        let present = part.listed.layers.iter().filter(|layer| part.present.contains(&layer.digest));
        let layers = present.map(|layer| (layer.digest.clone(), layer.clone())).collect();
        Self { config: part.listed.config.clone(), image: None, layers }
    }
}

/// A part of a hold, and a record of it.
type Key = (usize, u32);

fn write_key((part, record): Key) -> Vec<u8> {
    let part = u16::try_from(part).unwrap_or(u16::MAX);
    [&part.to_be_bytes()[..], &record.to_be_bytes()].concat()
}

/// `None` for what is no key.
fn read_key(bytes: &[u8]) -> Option<Key> {
    let (part, record) = bytes.split_at_checked(2)?;
    let (part, record): ([u8; 2], [u8; 4]) = (part.try_into().ok()?, record.try_into().ok()?);
    Some((u16::from_be_bytes(part).into(), u32::from_be_bytes(record)))
}

/// The parts of a hold with their indexes. One that cannot be read has no records.
pub(super) struct QueriedParts<'a>(Vec<(&'a QueriedPart, Arc<CacheIndex>)>);

impl<'a> QueriedParts<'a> {
    pub(super) async fn open(caches: &Caches, parts: &'a [QueriedPart]) -> Self {
        let mut held = Vec::new();
        for part in parts.iter().take(QUERIED_PARTS) {
            let index = part.index(caches).await.unwrap_or_else(|error| {
                tracing::warn!(%error, config = %part.config.digest, "a build cache cannot be looked into");
                Arc::default()
            });
            held.push((part, index));
        }
        Self(held)
    }

    fn index(&self, part: usize) -> Option<&CacheIndex> {
        self.0.get(part).map(|(_, index)| &**index)
    }

    fn record_key(&self, (part, record): Key) -> RecordKey {
        let results = self.index(part).map_or(0, |index| index.results(record));
        RecordKey { key: write_key((part, record)), has_results: results > 0 }
    }

    /// Handles one message of Query.
    pub(super) fn query(&self, lookups: &[Lookup], ahead: i32) -> Result<QueryResponse, ApiError> {
        check_count("lookups", lookups.len())?;
        let ahead = usize::try_from(ahead).map_err(|_| ApiError::field("ahead", "less than zero"))?;
        let mut room = FOUND;
        let mut found = Vec::with_capacity(lookups.len());
        let keys = lookups.iter().map(|lookup| self.lookup(lookup)).collect::<Result<Vec<_>, _>>()?;
        for keys in &keys {
            room = room.checked_sub(keys.len()).ok_or_else(|| {
                let message = format!("more than {FOUND} records were found; look fewer of them up in one message");
                ApiError::limit(Code::ResourceExhausted, "found", FOUND, message)
            })?;
        }
        for (lookup, keys) in lookups.iter().zip(keys) {
            let ahead = self.ahead(&keys, ahead.min(room));
            room -= ahead.len();
            let keys = keys.into_iter().map(|key| self.record_key(key)).collect();
            found.push(Found { tag: lookup.tag, keys, ahead });
        }
        Ok(QueryResponse { found })
    }

    fn lookup(&self, lookup: &Lookup) -> Result<Vec<Key>, ApiError> {
        match &lookup.what {
            None => Err(ApiError::field("lookups", format!("the lookup {} names nothing", lookup.tag))),
            Some(What::Root(root)) => {
                let digest = CacheIndex::record_digest(&root.digest, root.output);
                let roots = |(part, (_, index)): (usize, &(_, Arc<CacheIndex>))| {
                    index.roots(&digest).iter().map(|record| (part, *record)).collect::<Vec<_>>()
                };
                Ok(self.0.iter().enumerate().flat_map(roots).take(FOUND + 1).collect())
            }
            Some(What::Link(link)) => {
                let Some((part, from)) = read_key(&link.from_key) else { return Ok(Vec::new()) };
                let Some(index) = self.index(part) else { return Ok(Vec::new()) };
                let digest = CacheIndex::record_digest(&link.digest, link.output);
                let linked = index.linked(from, link.input, &digest, &link.selector);
                Ok(linked.iter().map(|it| (part, it.record)).take(FOUND + 1).collect())
            }
        }
    }

    /// What follows from `keys`, the nearest first, and at most `limit`.
    fn ahead(&self, keys: &[Key], limit: usize) -> Vec<Following> {
        let mut found = Vec::new();
        let (mut seen, mut next): (HashSet<_>, VecDeque<_>) =
            (keys.iter().copied().collect(), keys.iter().copied().collect());
        while let Some((part, record)) = next.pop_front().filter(|_| found.len() < limit) {
            let Some(index) = self.index(part) else { continue };
            for following in index.following(record).iter().take(limit - found.len()) {
                let key = (part, following.record);
                found.push(Following {
                    from_key: write_key((part, record)),
                    input: following.input,
                    selector: following.selector.to_string(),
                    record_digest: index.digest(following.record).to_owned(),
                    key: Some(self.record_key(key)),
                });
                if seen.insert(key) {
                    next.push_back(key);
                }
            }
        }
        found
    }

    /// The results of records.
    pub(super) fn records(&self, keys: &[Vec<u8>]) -> Result<RecordsResponse, ApiError> {
        check_count("keys", keys.len())?;
        let (mut room, mut layers) = (FOUND, QUERIED_LAYERS);
        let mut records = Vec::with_capacity(keys.len());
        for key in keys {
            let mut results = Vec::new();
            if let Some((part, record)) = read_key(key)
                && let Some((held, index)) = self.0.get(part)
            {
                for at in 0..index.results(record) {
                    let Some((chain, created)) = index.result(record, at) else { break };
                    (room, layers) = match (room.checked_sub(1), layers.checked_sub(chain.len())) {
                        (Some(room), Some(layers)) => (room, layers),
                        _ => {
                            let message = format!("the records have more than {FOUND} results; ask for fewer at once");
                            return Err(ApiError::limit(Code::ResourceExhausted, "found", FOUND, message));
                        }
                    };
                    let sizes: Option<Vec<u64>> =
                        chain.iter().map(|digest| held.layers.get(*digest).map(|layer| layer.size)).collect();
                    results.push(proto::StoredResult {
                        id: format!("{part}.{record}.{at}"),
                        create_time: created.and_then(|text| text.parse::<Timestamp>().ok()),
                        bytes: number(sizes.iter().flatten().fold(0u64, |sum, size| sum.saturating_add(*size))),
                        layers: number(chain.len()),
                        present: sizes.is_some(),
                    });
                }
            }
            records.push(RecordResults { key: key.clone(), results });
        }
        Ok(RecordsResponse { records })
    }

    /// The layers of a result.
    pub(super) fn load(&self, result: &str) -> Result<LoadResponse, ApiError> {
        let unknown = || ApiError::field("result_id", "it is none that Records gave for this hold");
        let numbers: Vec<u32> = result.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| unknown())?;
        let [part, record, at] = numbers[..] else { return Err(unknown()) };
        let (held, index) = self.0.get(part as usize).ok_or_else(unknown)?;
        let (chain, _) = index.result(record, at as usize).ok_or_else(unknown)?;
        let missing: Vec<_> = chain.iter().copied().filter(|digest| !held.layers.contains_key(*digest)).collect();
        if !missing.is_empty() {
            return Err(ApiError::missing(missing, "the result"));
        }
        let layers = chain.into_iter().filter_map(|digest| held.layers.get(digest));
        Ok(LoadResponse { chain: layers.map(descriptor_message).collect() })
    }
}

fn check_count(field: &str, count: usize) -> Result<(), ApiError> {
    if count <= LOOKUPS {
        return Ok(());
    }
    let message = format!("{count} {field}; a message has at most {LOOKUPS}");
    Err(ApiError::limit(Code::InvalidArgument, "lookups", LOOKUPS, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_as_they_went() {
        for key in [(0, 0), (31, 199_999)] {
            assert_eq!(read_key(&write_key(key)), Some(key));
        }
        assert_eq!((read_key(b""), read_key(b"12345"), read_key(b"1234567")), (None, None, None));
    }
}
