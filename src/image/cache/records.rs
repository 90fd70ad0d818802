//! What a cache config says: which records there are, how they follow from each other, and their results.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::document::{Document, Input, Record};
use super::{CACHE_CONFIG, CacheDocumentError};
use crate::image::{Descriptor, Digest};

/// The content of a cache config, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheRecords {
    /// Its layers, each with the position of its parent if it has one.
    pub layers: Vec<(Digest, Option<usize>)>,
    /// Its records.
    pub records: Vec<CacheRecord>,
}

/// One record: a cache key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheRecord {
    /// The digest of the step's definition and output, as BuildKit writes it.
    pub digest: Box<str>,
    /// For each input the records that can stand for it, each with the selector.
    pub inputs: Vec<Vec<(Box<str>, usize)>>,
    /// Its results.
    pub results: Box<[CacheResult]>,
}

/// A result of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheResult {
    /// What it is made up of.
    pub layers: ResultLayers,
    /// When it was made, as written.
    pub created: Option<String>,
}

/// The layers of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultLayers {
    /// A layer with all its parents.
    WithParents(usize),
    /// These and no others, the lowest first.
    Chain(Vec<usize>),
}

/// The field [`INLINE_CACHE`](super::INLINE_CACHE) of an image config.
#[derive(Deserialize)]
struct Inline {
    #[serde(rename = "moby.buildkit.cache.v0")]
    records: String,
}

impl CacheRecords {
    /// Checks `bytes` against `descriptor` and reads them.
    ///
    /// # Errors
    /// As [`CacheConfig::parse`](super::CacheConfig::parse).
    pub fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Self, CacheDocumentError> {
        let document = Document::parse(descriptor, bytes)?;
        let layers = document.layers.into_iter().map(|it| (it.blob, usize::try_from(it.parent).ok())).collect();
        let records = document.records.into_iter().map(CacheRecord::from).collect();
        Ok(Self { layers, records })
    }

    /// Reads the inline cache in the image config `bytes`, of an image with these `layers`. It has records only, whose layers
    /// are the image's, each with all below it (buildkit `cache/remotecache/inline/inline.go`, `cache/remotecache/import.go`).
    ///
    /// # Errors
    /// When there is none, and as [`CacheConfig::parse`](super::CacheConfig::parse).
    pub fn inline(config: &Descriptor, bytes: &[u8], layers: &[Descriptor]) -> Result<Self, CacheDocumentError> {
        let refused = |reason: String| CacheDocumentError::Config { digest: config.digest.clone(), reason };
        let Inline { records } = serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))?;
        let records = BASE64.decode(records).map_err(|error| refused(error.to_string()))?;
        let records = String::from_utf8(records).map_err(|error| refused(error.to_string()))?;
        let layer = |(layer, parent): (&Descriptor, i64)| json!({"blob": layer.digest, "parent": parent});
        let listed = layers.iter().zip(-1i64..).map(layer);
        let whole = format!("{{\"layers\":{},\"records\":{records}}}", Value::Array(listed.collect())).into_bytes();
        let descriptor = Descriptor::new(CACHE_CONFIG, Digest::sha256(&whole), whole.len() as u64);
        Self::parse(&descriptor, &whole).map_err(|error| refused(error.to_string()))
    }

    /// The digests of a result's layers, the lowest first.
    pub fn chain(&self, result: &CacheResult) -> Vec<&Digest> {
        let layer = |at: usize| self.layers.get(at);
        match &result.layers {
            ResultLayers::Chain(chain) => chain.iter().filter_map(|at| layer(*at)).map(|(digest, _)| digest).collect(),
            ResultLayers::WithParents(top) => {
                let parents = |(_, parent): &&(Digest, Option<usize>)| parent.and_then(layer);
                let mut chain: Vec<_> = std::iter::successors(layer(*top), parents).map(|(digest, _)| digest).collect();
                chain.reverse();
                chain
            }
        }
    }
}

impl From<Record> for CacheRecord {
    fn from(record: Record) -> Self {
        let alternatives = |inputs: Option<Box<[Input]>>| {
            inputs.unwrap_or_default().into_iter().map(|input| (input.selector, input.link)).collect()
        };
        let inputs = record.inputs.into_iter().map(alternatives).collect();
        let whole = record.layers.into_iter();
        let whole = whole.map(|it| CacheResult { layers: ResultLayers::WithParents(it.layer), created: it.created_at });
        let chains = record.chains.into_iter();
        let chains = chains.map(|it| CacheResult { layers: ResultLayers::Chain(it.layers), created: it.created_at });
        Self { digest: record.digest, inputs, results: whole.chain(chains).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_comes_with_its_parents_and_a_chain_as_it_is() {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let text = serde_json::json!({
            // As Go writes it, a parent that is the first layer is left out.
            "layers": [{"blob": digest("a"), "parent": -1}, {"blob": digest("b")}],
            "records": [
                {"digest": "sha256:1", "layers": [{"layer": 1, "createdAt": "2026-01-02T03:04:05Z"}]},
                {"digest": "sha256:2", "inputs": [[{"selector": "s", "link": 0}]], "chains": [{"layers": [1]}]},
                {"digest": "sha256:3", "inputs": [null], "layers": null},
            ],
        });
        let bytes = text.to_string().into_bytes();
        let descriptor = Descriptor::new("", Digest::sha256(&bytes), bytes.len() as u64);
        let read = CacheRecords::parse(&descriptor, &bytes).unwrap();
        assert_eq!(read.layers, [(digest("a"), None), (digest("b"), Some(0))]);
        let chains: Vec<Vec<_>> = read
            .records
            .iter()
            .map(|record| record.results.iter().map(|result| read.chain(result)).collect())
            .collect();
        assert_eq!(chains, [vec![vec![&digest("a"), &digest("b")]], vec![vec![&digest("b")]], vec![]]);
        assert_eq!(read.records[0].results[0].created.as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(read.records[1].inputs, [[("s".into(), 0)]]);
    }

    #[test]
    fn an_inline_cache_has_the_layers_of_its_image() {
        let layers = ["a", "b"].map(|text| Descriptor::new("", Digest::sha256(text.as_bytes()), 1));
        let read = |records: &str| {
            let config = json!({"os": "linux", "moby.buildkit.cache.v0": BASE64.encode(records)}).to_string();
            let descriptor = Descriptor::new("", Digest::sha256(config.as_bytes()), config.len() as u64);
            CacheRecords::inline(&descriptor, config.as_bytes(), &layers)
        };
        let found =
            read(r#"[{"digest":"sha256:1","layers":[{"layer":1}]},{"digest":"sha256:2","chains":[{"layers":[1]}]}]"#);
        let found = found.unwrap();
        let chains: Vec<_> = found.records.iter().map(|record| found.chain(&record.results[0])).collect();
        assert_eq!(chains, [vec![&layers[0].digest, &layers[1].digest], vec![&layers[1].digest]]);
        for bad in ["", "[", r#"[{"layers":[{"layer":2}]}]"#, r#"[],"layers":[]"#, "[]}{"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
