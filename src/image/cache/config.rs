//! The config of a cache: which records there are, and which layers are their results.

use serde::Deserialize;

use super::{CacheDocumentError, MAX_CACHE_CONFIG, MAX_CACHE_LAYERS, MAX_LINKS, MAX_RECORDS};
use crate::image::{Descriptor, Digest};

/// What is counted of a cache config. BuildKit reads the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// The digests of its layers, in order.
    pub layers: Vec<Digest>,
    /// How many records (cache keys) it has.
    pub records: usize,
    /// How many of them have a result.
    pub results: usize,
}

/// As BuildKit writes it (buildkit `cache/remotecache/v1/spec.go`); Go writes empty lists as `null`.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    layers: Option<Vec<Layer>>,
    #[serde(default)]
    records: Option<Vec<Record>>,
}

#[derive(Deserialize)]
struct Layer {
    blob: Digest,
    /// Left out where it is 0; -1 is none (buildkit `cache/remotecache/v1/types`, `omitempty`).
    #[serde(default)]
    parent: i64,
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    layers: Option<Vec<LayerResult>>,
    #[serde(default)]
    chains: Option<Vec<Chain>>,
    #[serde(default)]
    inputs: Option<Vec<Option<Vec<Link>>>>,
}

#[derive(Deserialize)]
struct LayerResult {
    layer: usize,
}

#[derive(Deserialize)]
struct Chain {
    #[serde(default)]
    layers: Option<Vec<usize>>,
}

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    link: usize,
}

impl CacheConfig {
    /// Refuses a config that is too long to be read.
    ///
    /// # Errors
    /// When `descriptor` names more than [`MAX_CACHE_CONFIG`] bytes.
    pub fn check_size(descriptor: &Descriptor) -> Result<(), CacheDocumentError> {
        if descriptor.size <= MAX_CACHE_CONFIG {
            return Ok(());
        }
        let reason = format!("it has {} bytes, more than {MAX_CACHE_CONFIG}", descriptor.size);
        Err(CacheDocumentError::Config { digest: descriptor.digest.clone(), reason })
    }

    /// Checks `bytes` against `descriptor` and reads them.
    ///
    /// # Errors
    /// When they are not the bytes that the descriptor names, are too many, or refer to what is not there or to themselves.
    pub fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Self, CacheDocumentError> {
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
        let fields: Fields = serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))?;
        let (layers, records) = (fields.layers.unwrap_or_default(), fields.records.unwrap_or_default());
        let limits = [("layers", layers.len(), MAX_CACHE_LAYERS), ("records", records.len(), MAX_RECORDS)];
        if let Some((what, count, limit)) = limits.into_iter().find(|(_, count, limit)| count > limit) {
            return Err(CacheDocumentError::TooMany { digest: digest.clone(), what, count, limit });
        }
        check_parents(&layers).map_err(refused)?;
        let links = links(&records, layers.len()).map_err(refused)?;
        check_loops(&links).map_err(refused)?;
        let has_result = |record: &&Record| {
            record.layers.as_ref().is_some_and(|it| !it.is_empty())
                || record.chains.as_ref().is_some_and(|it| !it.is_empty())
        };
        let results = records.iter().filter(has_result).count();
        Ok(Self { layers: layers.into_iter().map(|layer| layer.blob).collect(), records: records.len(), results })
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

/// Which records each record has for its inputs. Refuses what is not there.
fn links(records: &[Record], layers: usize) -> Result<Vec<Vec<usize>>, String> {
    let (mut links, mut count) = (Vec::with_capacity(records.len()), 0);
    for (at, record) in records.iter().enumerate() {
        let results = record.layers.iter().flatten().map(|result| result.layer);
        let chains = record.chains.iter().flatten().flat_map(|chain| chain.layers.iter().flatten().copied());
        for layer in results.chain(chains) {
            count += 1;
            if layer >= layers {
                return Err(format!("record {at} has the layer {layer} of {layers}"));
            }
        }
        let inputs: Vec<_> = record.inputs.iter().flatten().flatten().flatten().map(|link| link.link).collect();
        if let Some(other) = inputs.iter().find(|other| **other >= records.len()) {
            return Err(format!("record {at} has the record {other} of {} for an input", records.len()));
        }
        count += inputs.len();
        if count > MAX_LINKS {
            return Err(format!("its records have more than {MAX_LINKS} results and inputs"));
        }
        links.push(inputs);
    }
    Ok(links)
}

/// Refuses records that are inputs of themselves: BuildKit refuses the whole cache for one.
fn check_loops(links: &[Vec<usize>]) -> Result<(), String> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; links.len()];
    for start in 0..links.len() {
        // A record, and which of its inputs comes next.
        let mut path = vec![(start, 0)];
        while let Some((at, next)) = path.last_mut() {
            let at = *at;
            if *next == 0 && marks[at] == Mark::Done {
                path.pop();
                continue;
            }
            marks[at] = Mark::Open;
            let Some(input) = links[at].get(*next).copied() else {
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
