use std::collections::HashSet;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::image::Descriptor;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn described(media_type: &str, text: &str) -> Descriptor {
    Descriptor::new(media_type, Digest::sha256(text.as_bytes()), text.len() as u64)
}

fn root(media_type: &str, json: &Value) -> Result<CacheRoot, CacheDocumentError> {
    let text = json.to_string();
    CacheRoot::parse(described(media_type, &text), Bytes::from(text))
}

fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Value {
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
}

fn index(entries: &[Descriptor]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
}

fn config(json: &Value) -> Result<CacheConfig, CacheDocumentError> {
    let text = json.to_string();
    CacheConfig::parse(&described(CACHE_CONFIG, &text), text.as_bytes())
}

#[test]
fn both_forms_have_the_same_content() {
    let (settings, layer) = (described(CACHE_CONFIG, "{}"), described(LAYER, "layer"));
    let old = root(INDEX, &index(&[layer.clone(), settings.clone()])).unwrap();
    let new = root(MANIFEST, &manifest(&settings, std::slice::from_ref(&layer))).unwrap();
    assert_eq!((&old.config, &old.layers), (&new.config, &new.layers));
    assert_eq!((old.is_index, new.is_index, old.blobs().len()), (true, false, 3));
}

#[test]
fn what_is_no_cache_is_refused() {
    let (settings, layer) = (described(CACHE_CONFIG, "{}"), described(LAYER, "layer"));
    let image = described("application/vnd.oci.image.config.v1+json", "{}");
    for bad in [
        root(MANIFEST, &manifest(&image, std::slice::from_ref(&layer))),
        root(INDEX, &index(std::slice::from_ref(&layer))),
        root(INDEX, &index(&[settings.clone(), settings.clone()])),
        root(MANIFEST, &manifest(&settings, std::slice::from_ref(&settings))),
        root(MANIFEST, &index(std::slice::from_ref(&settings))),
        root(INDEX, &manifest(&settings, &[])),
        root(INDEX, &json!({"schemaVersion": 2, "manifests": [settings], "config": settings})),
        CacheRoot::parse(described(INDEX, "lie"), Bytes::from(index(std::slice::from_ref(&settings)).to_string())),
    ] {
        bad.unwrap_err();
    }
    let many = vec![described(LAYER, "x"); MAX_CACHE_LAYERS + 1];
    let text = manifest(&settings, &many).to_string();
    assert!(
        matches!(root(MANIFEST, &manifest(&settings, &many)), Err(CacheDocumentError::TooMany { .. })),
        "{}",
        text.len()
    );
}

#[test]
fn an_import_lists_what_is_there_and_a_config_that_is_short_enough() {
    let long = Descriptor { size: 5 << 20, ..described(CACHE_CONFIG, "{}") };
    let mut there = described(LAYER, "there");
    there.annotations.insert("containerd.io/uncompressed".to_owned(), Digest::sha256(b"u").to_string());
    let stored = root(MANIFEST, &manifest(&long, &[there.clone(), described(LAYER, "gone")])).unwrap();
    let present = HashSet::from([there.digest.clone()]);
    assert!(!stored.is_importable(&present));
    let (descriptor, bytes) = stored.import(&present).unwrap();
    let import = CacheRoot::parse(descriptor, bytes).unwrap();
    assert_eq!(import.layers, [there]);
    assert_eq!((import.config.size, import.config.digest.clone()), (1 << 20, long.digest));
    assert!(import.is_index && import.is_importable(&present));
}

#[test]
fn configs_as_buildkit_writes_them_are_read() {
    let layer = Digest::sha256(b"layer");
    let read = config(&json!({
        "layers": [{"blob": layer, "parent": 1}, {"blob": layer, "parent": -1}],
        "records": [
            {"digest": "sha256:x", "inputs": [[{"selector": "", "link": 1}], null], "layers": [{"layer": 0}]},
            {"digest": "random:x", "chains": [{"layers": [1, 0]}]},
            {"digest": "sha256:y"},
        ],
    }));
    assert_eq!(read.unwrap(), CacheConfig { layers: vec![layer.clone(), layer], records: 3, results: 2 });
    assert_eq!(config(&json!({"layers": null, "records": null})).unwrap(), CacheConfig::default());
}

#[test]
fn configs_that_contradict_themselves_are_refused() {
    let layer = |parent: i64| json!({"blob": Digest::sha256(b"layer"), "parent": parent});
    let input = |link: i64| json!({"digest": "d", "inputs": [[{"link": link}]]});
    for (bad, why) in [
        (json!({"layers": [layer(0)]}), "its own parent"),
        (json!({"layers": [layer(1), layer(2), layer(1)]}), "its own parent"),
        (json!({"layers": [layer(7)]}), "the parent 7"),
        (json!({"layers": [layer(-2)]}), "the parent -2"),
        (json!({"layers": [{"blob": "sha256:../../etc"}]}), "digest"),
        (json!({"records": [{"digest": "d", "layers": [{"layer": 0}]}]}), "the layer 0 of 0"),
        (json!({"records": [{"digest": "d", "chains": [{"layers": [3]}]}]}), "the layer 3 of 0"),
        (json!({"records": [input(1)]}), "the record 1 of 1"),
        (json!({"records": [input(-1)]}), "-1"),
        (json!({"records": [input(0)]}), "input of itself"),
        (json!({"records": [input(1), input(2), input(1)]}), "input of itself"),
        (json!([]), "JSON object"),
    ] {
        let error = config(&bad).unwrap_err().to_string();
        assert!(error.contains(why), "{bad}: {error}");
    }
    let many = config(&json!({"layers": vec![layer(-1); MAX_CACHE_LAYERS + 1]}));
    assert!(matches!(many, Err(CacheDocumentError::TooMany { what: "layers", .. })));
    let lie = CacheConfig::parse(&described(CACHE_CONFIG, "{}"), b"[]").unwrap_err().to_string();
    assert!(lie.contains("2 bytes that its descriptor names"), "{lie}");
}

#[test]
fn a_long_chain_of_records_needs_no_deep_stack() {
    let count = 100_000;
    let turned: Vec<_> = (0..count)
        .map(|at| {
            if at + 1 == count {
                json!({"digest": "d"})
            } else {
                json!({"digest": "d", "inputs": [[{"link": at + 1}]]})
            }
        })
        .collect();
    assert_eq!(config(&json!({"records": turned})).unwrap().records, count);
}
