//! The cache config as BuildKit writes it, checked: positions exist, and nothing is its own parent or input.

use serde::Deserialize;

use super::{CacheDocumentError, MAX_CACHE_CONFIG, MAX_CACHE_LAYERS, MAX_LINKS, MAX_RECORDS};
use crate::image::json::null_as_default;
use crate::image::{Descriptor, Digest};

/// The whole document (buildkit `cache/remotecache/v1/types`).
#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) layers: Vec<Layer>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) records: Vec<Record>,
}

#[derive(Deserialize)]
pub(super) struct Layer {
    pub(super) blob: Digest,
    /// Left out where it is 0; -1 is none.
    #[serde(default)]
    pub(super) parent: i64,
}

/// There may be hundreds of thousands, most of them with one input: what a list has grown to is given back.
#[derive(Deserialize)]
pub(super) struct Record {
    #[serde(default)]
    pub(super) digest: Box<str>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) layers: Box<[LayerResult]>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) chains: Box<[ChainResult]>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) inputs: Box<[Option<Box<[Input]>>]>,
}

#[derive(Deserialize)]
pub(super) struct Input {
    #[serde(default)]
    pub(super) selector: Box<str>,
    #[serde(default)]
    pub(super) link: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerResult {
    pub(super) layer: usize,
    pub(super) created_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChainResult {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) layers: Vec<usize>,
    pub(super) created_at: Option<String>,
}

impl Document {
    /// Checks `bytes` against `descriptor` and reads them.
    pub(super) fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Self, CacheDocumentError> {
        let digest = &descriptor.digest;
        let refused = |reason: String| CacheDocumentError::Config { digest: digest.clone(), reason };
        if bytes.len() as u64 > MAX_CACHE_CONFIG {
            return Err(refused(format!("it has {} bytes, more than {MAX_CACHE_CONFIG}", bytes.len())));
        }
        if bytes.len() as u64 != descriptor.size || !digest.verify(bytes) {
            return Err(refused(format!("its bytes are not the {} bytes that its descriptor names", descriptor.size)));
        }
        // serde takes a list for an object, which Go does not.
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(refused("expected a JSON object".to_owned()));
        }
        let document: Self = serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))?;
        let Self { layers, records } = &document;
        let limits = [("layers", layers.len(), MAX_CACHE_LAYERS), ("records", records.len(), MAX_RECORDS)];
        if let Some((what, count, limit)) = limits.into_iter().find(|(_, count, limit)| count > limit) {
            return Err(CacheDocumentError::TooMany { digest: digest.clone(), what, count, limit });
        }
        check_parents(layers).map_err(refused)?;
        let links = links(records, layers.len()).map_err(refused)?;
        check_loops(&links).map_err(refused)?;
        Ok(document)
    }
}

/// Refuses parents that are not there, or lie below themselves.
fn check_parents(layers: &[Layer]) -> Result<(), String> {
    // Whether the chain below a layer was followed to its end.
    let mut known = vec![false; layers.len()];
    for start in 0..layers.len() {
        let (mut at, mut path) = (start, Vec::new());
        loop {
            if known[at] {
                break;
            }
            path.push(at);
            if path.len() > layers.len() {
                return Err(format!("layer {start} is its own parent"));
            }
            match usize::try_from(layers[at].parent) {
                Ok(parent) if parent < layers.len() => at = parent,
                Ok(parent) => return Err(format!("layer {at} has the parent {parent} of {} layers", layers.len())),
                Err(_) if layers[at].parent == -1 => break,
                Err(_) => return Err(format!("layer {at} has the parent {}", layers[at].parent)),
            }
        }
        for at in path {
            known[at] = true;
        }
    }
    Ok(())
}

/// Which records each record has for its inputs.
#[derive(Default)]
struct Links {
    inputs: Vec<usize>,
    /// Where those of each record end.
    ends: Vec<usize>,
}

impl Links {
    fn of(&self, record: usize) -> &[usize] {
        let begin = record.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.inputs[begin..self.ends[record]]
    }
}

/// Which records each record has for its inputs. Refuses what is not there.
fn links(records: &[Record], layers: usize) -> Result<Links, String> {
    let (mut links, mut results) = (Links::default(), 0);
    for (at, record) in records.iter().enumerate() {
        let whole = record.layers.iter().map(|result| result.layer);
        let chains = record.chains.iter().flat_map(|chain| chain.layers.iter().copied());
        for layer in whole.chain(chains) {
            results += 1;
            if layer >= layers {
                return Err(format!("record {at} has the layer {layer} of {layers}"));
            }
        }
        links.inputs.extend(record.inputs.iter().flatten().flat_map(|inputs| inputs.iter().map(|input| input.link)));
        links.ends.push(links.inputs.len());
        if let Some(other) = links.of(at).iter().find(|other| **other >= records.len()) {
            return Err(format!("record {at} has the record {other} of {} for an input", records.len()));
        }
        if results + links.inputs.len() > MAX_LINKS {
            return Err(format!("its records have more than {MAX_LINKS} results and inputs"));
        }
    }
    Ok(links)
}

/// Refuses records that are inputs of themselves: BuildKit refuses the whole cache for one.
fn check_loops(links: &Links) -> Result<(), String> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; links.ends.len()];
    for start in 0..links.ends.len() {
        // A record, and which of its inputs comes next.
        let mut path = vec![(start, 0)];
        while let Some((at, next)) = path.last_mut() {
            let at = *at;
            if *next == 0 && marks[at] == Mark::Done {
                path.pop();
                continue;
            }
            marks[at] = Mark::Open;
            let Some(input) = links.of(at).get(*next).copied() else {
                marks[at] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            match marks[input] {
                Mark::Open => return Err(format!("record {input} is an input of itself")),
                Mark::New => path.push((input, 0)),
                Mark::Done => {}
            }
        }
    }
    Ok(())
}
