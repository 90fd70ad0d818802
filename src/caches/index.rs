//! What is in caches, to be looked up: an index in memory for each cache config that was requested, as long as there is room.

use std::sync::{Arc, Mutex, PoisonError};

use crate::image::cache::CacheRecords;
use crate::image::{Descriptor, Digest};

/// How many indexes are kept, and of how many bytes of configs.
const INDEXES: usize = 32;
const INDEXED_BYTES: u64 = 16 << 20;

/// One cache config, to be looked up.
#[derive(Debug, Default)]
pub struct CacheIndex {
    content: CacheRecords,
    /// The records without inputs, by digest.
    roots: Vec<u32>,
    /// Which records have which for an input: ordered by the latter, then by digest, input and selector.
    following: Vec<Following>,
}

/// A record that has another for an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    /// The other.
    pub of: u32,
    /// For which input.
    pub input: u32,
    /// With which selector.
    pub selector: Box<str>,
    /// The record.
    pub record: u32,
}

impl CacheIndex {
    /// An index of `content`.
    pub fn new(mut content: CacheRecords) -> Self {
        let (mut roots, mut following) = (Vec::new(), Vec::new());
        for (at, record) in content.records.iter_mut().enumerate() {
            let (record, inputs) = (position(at), std::mem::take(&mut record.inputs));
            if inputs.is_empty() {
                roots.push(record);
            }
            for (input, alternatives) in inputs.into_iter().enumerate() {
                let following_of = |(selector, link)| {
                    let (of, input) = (position(link), position(input));
                    Following { of, input, selector, record }
                };
                following.extend(alternatives.into_iter().map(following_of));
            }
        }
        let mut index = Self { content, roots: Vec::new(), following: Vec::new() };
        roots.sort_by_key(|at| index.digest(*at));
        following.sort_unstable_by(|one, other| {
            (one.of, index.place(one), one.record).cmp(&(other.of, index.place(other), other.record))
        });
        following.shrink_to_fit();
        (index.roots, index.following) = (roots, following);
        index
    }

    /// By what those that have one record for an input are ordered.
    fn place<'a>(&'a self, it: &'a Following) -> (&'a str, u32, &'a str) {
        (self.digest(it.record), it.input, &it.selector)
    }

    /// The digest of a record; empty if there is no such record.
    pub fn digest(&self, record: u32) -> &str {
        self.content.records.get(record as usize).map_or("", |record| &record.digest)
    }

    /// The digest of a record of the output `output` of a step with `digest`, as BuildKit makes it (buildkit
    /// `cache/remotecache/v1/utils.go`, `outputKey`).
    pub fn record_digest(digest: &str, output: u32) -> String {
        Digest::sha256(format!("{digest}@{output}").as_bytes()).to_string()
    }

    /// The records without inputs that have a digest.
    pub fn roots(&self, digest: &str) -> &[u32] {
        let begin = self.roots.partition_point(|at| self.digest(*at) < digest);
        let length = self.roots[begin..].partition_point(|at| self.digest(*at) == digest);
        &self.roots[begin..begin + length]
    }

    /// The records that have `record` for the input `input`, with these digest and selector; none if there is no such record.
    pub fn linked(&self, record: u32, input: u32, digest: &str, selector: &str) -> &[Following] {
        let all = self.following(record);
        let key = |it: &Following| self.place(it).cmp(&(digest, input, selector));
        let begin = all.partition_point(|it| key(it).is_lt());
        let length = all[begin..].partition_point(|it| key(it).is_eq());
        &all[begin..begin + length]
    }

    /// All records that have `record` for an input.
    pub fn following(&self, record: u32) -> &[Following] {
        let begin = self.following.partition_point(|it| it.of < record);
        let length = self.following[begin..].partition_point(|it| it.of == record);
        &self.following[begin..begin + length]
    }

    /// How many results a record has.
    pub fn results(&self, record: u32) -> usize {
        self.content.records.get(record as usize).map_or(0, |record| record.results.len())
    }

    /// One result of a record: its layers, the lowest first, and when it was made, as the config has it.
    pub fn result(&self, record: u32, result: usize) -> Option<(Vec<&Digest>, Option<&str>)> {
        let result = self.content.records.get(record as usize)?.results.get(result)?;
        Some((self.content.chain(result), result.created.as_deref()))
    }
}

/// Limits keep positions far below that.
fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The indexes that are kept: the one that was used last is the last.
#[derive(Debug, Default)]
pub(super) struct Indexes(Mutex<Vec<(Descriptor, Arc<CacheIndex>)>>);

impl Indexes {
    pub(super) fn get(&self, config: &Descriptor) -> Option<Arc<CacheIndex>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| known.digest == config.digest)?;
        let found = kept.remove(at);
        let index = found.1.clone();
        kept.push(found);
        Some(index)
    }

    pub(super) fn put(&self, config: &Descriptor, index: &Arc<CacheIndex>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((config.clone(), index.clone()));
        let bytes = |kept: &[(Descriptor, _)]| kept.iter().fold(0u64, |sum, (it, _)| sum.saturating_add(it.size));
        while kept.len() > INDEXES || (kept.len() > 1 && bytes(&kept) > INDEXED_BYTES) {
            kept.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::cache::CacheRecord;

    fn record(digest: &str, inputs: &[(&str, usize)]) -> CacheRecord {
        let inputs = inputs.iter().map(|(selector, link)| vec![((*selector).into(), *link)]).collect();
        CacheRecord { digest: digest.into(), inputs, results: Box::default() }
    }

    #[test]
    fn records_are_found_by_digest_input_and_selector() {
        let records = vec![
            record("b", &[]),
            record("a", &[]),
            record("c", &[("", 0), ("s", 1)]),
            record("c", &[("", 0)]),
            record("d", &[("t", 1)]),
        ];
        let index = CacheIndex::new(CacheRecords { layers: Vec::new(), records });
        assert_eq!((index.roots("a"), index.roots("b"), index.roots("c")), (&[1][..], &[0][..], &[][..]));
        let found = |record, input, digest, selector| -> Vec<u32> {
            index.linked(record, input, digest, selector).iter().map(|it| it.record).collect()
        };
        assert_eq!(found(0, 0, "c", ""), [2, 3]);
        assert_eq!(found(1, 1, "c", "s"), [2]);
        assert_eq!(found(1, 0, "c", "s"), Vec::<u32>::new());
        assert_eq!(found(1, 0, "d", "t"), [4]);
        assert_eq!(found(9, 0, "d", "t"), Vec::<u32>::new());
    }

    #[test]
    fn at_most_so_many_indexes_are_kept() {
        let indexes = Indexes::default();
        let config = |at: usize, size| Descriptor::new("", Digest::sha256(at.to_string().as_bytes()), size);
        for at in 0..=INDEXES {
            indexes.put(&config(at, 1), &Arc::default());
        }
        assert!(indexes.get(&config(0, 1)).is_none() && indexes.get(&config(1, 1)).is_some());
        indexes.put(&config(99, INDEXED_BYTES), &Arc::default());
        assert!(indexes.get(&config(1, 1)).is_none() && indexes.get(&config(99, 1)).is_some());
    }
}
