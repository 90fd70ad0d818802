//! Put: records instead of documents. The server says which layers it lacks, and makes the documents at Commit.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use tonic::Code;

use super::messages::number;
use crate::cache_v1::limits::{PUT_LAYERS, PUT_POSITIONS, PUT_RECORDS};
use crate::cache_v1::proto::{NewRecord, NewResult, PutLayer, PutResponse, Standing};
use crate::caches::Caches;
use crate::content_server::{ExportContent, Labels};
use crate::engine::Pin;
use crate::engine::caches::CacheDocument;
use crate::export_v1::ApiError;
use crate::export_v1::convert::descriptor;
use crate::image::cache::{CACHE_CONFIG, CacheRoot};
use crate::image::{Descriptor, Digest, layout};

/// The records that were put into an export.
#[derive(Debug, Default)]
pub(super) struct PutRecords {
    records: Vec<Put>,
    /// Where each of the client's numbers is in `records`.
    numbers: HashMap<u32, usize>,
    layers: HashMap<Digest, Descriptor>,
    /// Links and layers of all records.
    positions: usize,
}

#[derive(Debug)]
struct Put {
    digest: String,
    /// For each input its alternatives: a selector, and a position in `records`.
    inputs: Vec<Vec<(String, usize)>>,
    /// The layers of each result, the lowest first, and when it was made.
    results: Vec<(Vec<Digest>, Option<String>)>,
}

impl PutRecords {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes records in, all or none, and returns their layers, each once.
    pub(super) fn add(&mut self, given: &[NewRecord]) -> Result<Vec<Descriptor>, ApiError> {
        let (mut numbers, mut layers, mut positions) = (HashMap::new(), HashMap::new(), self.positions);
        let (mut new, mut named, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for (at, record) in given.iter().enumerate() {
            let field = |name: &str| format!("records[{at}].{name}");
            let known = |number: &u32| self.numbers.get(number).or_else(|| numbers.get(number)).copied();
            if record.record_digest.parse::<Digest>().is_err() {
                wrong.push((field("record_digest"), "expected `sha256:` and 64 hexadecimal digits".to_owned()));
            }
            let mut inputs = Vec::with_capacity(record.inputs.len());
            for input in &record.inputs {
                let alternatives: Option<Vec<_>> =
                    input.alternatives.iter().map(|it| Some((it.selector.clone(), known(&it.record)?))).collect();
                match alternatives {
                    Some(alternatives) if !alternatives.is_empty() => {
                        positions += alternatives.len();
                        inputs.push(alternatives);
                    }
                    _ => wrong.push((field("inputs"), "expected numbers of records that were put before".to_owned())),
                }
            }
            let mut results = Vec::with_capacity(record.results.len());
            for result in &record.results {
                match read_result(result, &field("results")) {
                    Ok((chain, created)) => {
                        positions += chain.len();
                        results.push((chain.iter().map(|layer| layer.digest.clone()).collect(), created));
                        for layer in chain {
                            if !layers.contains_key(&layer.digest) {
                                named.push(layer.clone());
                                layers.insert(layer.digest.clone(), layer);
                            }
                        }
                    }
                    Err(found) => wrong.extend(found),
                }
            }
            if known(&record.number).is_some() {
                wrong.push((field("number"), "it is the number of another record".to_owned()));
            }
            numbers.insert(record.number, self.records.len() + new.len());
            new.push(Put { digest: record.record_digest.clone(), inputs, results });
        }
        if !wrong.is_empty() {
            return Err(ApiError::fields(wrong));
        }
        let all = layers.keys().filter(|layer| !self.layers.contains_key(*layer)).count() + self.layers.len();
        let counts = [
            ("put_records", self.records.len() + new.len(), PUT_RECORDS),
            ("layers", all, PUT_LAYERS),
            ("put_positions", positions, PUT_POSITIONS),
        ];
        if let Some((limit, count, value)) = counts.into_iter().find(|(_, count, limit)| count > limit) {
            let message = format!("the export has {count} of what `{limit}` counts; at most {value} are allowed");
            return Err(ApiError::limit(Code::ResourceExhausted, limit, value, message));
        }
        self.records.extend(new);
        self.numbers.extend(numbers);
        self.layers.extend(layers);
        self.positions = positions;
        Ok(named)
    }

    /// The documents of a cache with these records, and those of their results of which all layers are `present`. The same
    /// records make the same documents.
    pub(super) fn documents(
        &self,
        is_present: impl Fn(&Descriptor) -> bool,
    ) -> Result<(CacheDocument, CacheDocument), serde_json::Error> {
        let present: HashSet<&Digest> =
            self.layers.values().filter(|layer| is_present(layer)).map(|layer| &layer.digest).collect();
        let mut made = Layers::default();
        let mut records = Vec::with_capacity(self.records.len());
        for record in &self.records {
            let mut results = Vec::new();
            for (chain, created) in &record.results {
                if chain.iter().all(|layer| present.contains(layer)) {
                    let top = made.position(chain);
                    let mut result = json!({"layer": top});
                    if let (Some(created), Some(fields)) = (created, result.as_object_mut()) {
                        fields.insert("createdAt".to_owned(), json!(created));
                    }
                    results.push(result);
                }
            }
            let input = |alternatives: &Vec<(String, usize)>| {
                let written = alternatives.iter().map(|(selector, link)| json!({"selector": selector, "link": link}));
                written.collect::<Vec<_>>()
            };
            let inputs: Vec<_> = record.inputs.iter().map(input).collect();
            records.push(json!({"digest": record.digest, "inputs": inputs, "layers": results}));
        }
        let layers: Vec<_> = made.layers.iter().map(|(blob, parent)| json!({"blob": blob, "parent": parent})).collect();
        let bytes = serde_json::to_vec(&json!({"layers": layers, "records": records}))?;
        let config = document(CACHE_CONFIG, bytes);
        let mut seen = HashSet::new();
        let listed = made.layers.iter().filter(|(blob, _)| seen.insert(*blob));
        let listed = listed.filter_map(|(blob, _)| self.layers.get(*blob)).chain([&config.descriptor]);
        let root = layout::index(&listed.cloned().collect::<Vec<_>>())?;
        Ok((config, document(CacheRoot::INDEX, root)))
    }
}

/// The layers of a config: each with its parent.
#[derive(Debug, Default)]
struct Layers<'a> {
    layers: Vec<(&'a Digest, i64)>,
    known: HashMap<(&'a Digest, i64), i64>,
}

impl<'a> Layers<'a> {
    /// The position of the last layer of `chain`, which is not empty, with all others below it.
    fn position(&mut self, chain: &'a [Digest]) -> i64 {
        let mut parent = -1;
        for layer in chain {
            let layers = &mut self.layers;
            parent = *self.known.entry((layer, parent)).or_insert_with_key(|(layer, parent)| {
                layers.push((layer, *parent));
                number(layers.len() - 1)
            });
        }
        parent
    }
}

fn document(media_type: &str, bytes: Vec<u8>) -> CacheDocument {
    let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
    CacheDocument { descriptor, bytes: bytes.into() }
}

type Wrong = Vec<(String, String)>;

fn read_result(result: &NewResult, field: &str) -> Result<(Vec<Descriptor>, Option<String>), Wrong> {
    if result.chain.is_empty() {
        return Err(vec![(field.to_owned(), "a result without layers; expected at least one".to_owned())]);
    }
    let chain: Result<Vec<_>, _> =
        result.chain.iter().map(|layer| descriptor(&format!("{field}.chain"), layer)).collect();
    Ok((chain?, result.create_time.map(|time| time.to_string())))
}

/// Pins those of an export's `layers` that the engine has, and returns which must be sent.
pub(super) async fn put(
    caches: &Caches,
    export: &ExportContent,
    layers: &[Descriptor],
) -> Result<PutResponse, ApiError> {
    let pins: Vec<_> = layers.iter().map(Pin::from).collect();
    let sizes = export.lease.pin(&pins).await?;
    let missing: Vec<_> =
        layers.iter().zip(&sizes).filter(|(_, size)| size.is_none()).map(|(layer, _)| layer.digest.clone()).collect();
    let mountable = export.ingests()?.mountable(&missing).await?;
    let mountable: HashSet<_> =
        missing.iter().zip(mountable).filter(|(_, size)| size.is_some()).map(|(digest, _)| digest).collect();
    let mut put_layers = Vec::with_capacity(layers.len());
    let mut room = caches.limits().max_bytes.unwrap_or(u64::MAX);
    for (layer, size) in layers.iter().zip(sizes) {
        let standing = match size {
            Some(size) => {
                export.found(&layer.digest, size, Labels::new())?;
                Standing::Present
            }
            None if layer.size > room => Standing::Unwanted,
            None if mountable.contains(&layer.digest) => Standing::Adoptable,
            None => Standing::Wanted,
        };
        if standing != Standing::Unwanted {
            room -= layer.size.min(room);
        }
        put_layers.push(PutLayer { digest: layer.digest.to_string(), standing: standing.into() });
    }
    Ok(PutResponse { layers: put_layers })
}
