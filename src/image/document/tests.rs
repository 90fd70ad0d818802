use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::image::fixture::{self, CONFIG, EMPTY, INDEX, LAYER, MANIFEST, leaf};

fn described(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
}

fn parse(media_type: &str, text: &str) -> Result<Document, DocumentError> {
    Document::parse(described(media_type, text.as_bytes()), Bytes::copy_from_slice(text.as_bytes()))
}

fn manifest() -> Value {
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": leaf(CONFIG, 7), "layers": [leaf(LAYER, 1), leaf(LAYER, 2)]})
}

#[test]
fn reads_a_manifest_and_keeps_its_bytes() {
    let text = format!("  {}\n", serde_json::to_string_pretty(&manifest()).unwrap());
    let document = parse(MANIFEST, &text).unwrap();
    assert_eq!(document.bytes, text.as_bytes());
    let sizes: Vec<_> = document.children().iter().map(|child| child.size).collect();
    assert_eq!(sizes, [7, 1, 2]);
}

#[test]
fn reads_the_docker_types() {
    const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    let manifest = fixture::with(&manifest(), "mediaType", DOCKER_MANIFEST.into());
    assert!(matches!(parse(DOCKER_MANIFEST, &manifest.to_string()).unwrap().view, View::Manifest(_)));
    let list = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [leaf(DOCKER_MANIFEST, 1)]});
    assert!(matches!(parse(DOCKER_LIST, &list.to_string()).unwrap().view, View::Index(_)));
}

#[test]
fn reads_what_go_writes_for_nothing() {
    for index in [r#"{"manifests":null}"#, r#"{"schemaVersion":2,"manifests":[],"annotations":null}"#] {
        assert!(parse(INDEX, index).unwrap().children().is_empty());
    }
    let bare = json!({"mediaType": "", "config": leaf(EMPTY, 2), "layers": null, "annotations": null, "subject": null});
    assert_eq!(parse(MANIFEST, &bare.to_string()).unwrap().children().len(), 1);
}

#[test]
fn reads_configs_of_all_sorts() {
    let config = |text: &str| match parse(CONFIG, text).unwrap().view {
        View::Config(config) => config,
        other => panic!("{other:?}"),
    };
    let image = config(
        r#"{"created":"2026-01-01T00:00:00Z","architecture":"arm64","variant":"v8","os":"linux","config":{"Env":[]},
            "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},
            "history":[{"created_by":"RUN x"},{"empty_layer":true}],"moby.buildkit.cache.v0":"bm90aGluZw=="}"#,
    );
    assert_eq!(image.platform.to_string(), "linux/arm64/v8");
    assert_eq!(image.rootfs.diff_ids, [Digest::sha256(b"")]);
    let attestation = config(r#"{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers"}}"#);
    assert!(attestation.platform.is_unknown());
    for empty in ["{}", r#"{"rootfs":null,"os":null}"#, r#"{"rootfs":{"diff_ids":null}}"#] {
        let empty = config(empty);
        assert_eq!((empty.platform, empty.rootfs.diff_ids), (Platform::default(), vec![]));
    }
}

#[test]
fn refuses_bytes_that_are_not_the_described_ones() {
    let text = manifest().to_string();
    let right = described(MANIFEST, text.as_bytes());
    let cut = Document::parse(right.clone(), Bytes::copy_from_slice(&text.as_bytes()[1..])).unwrap_err();
    let len = text.len() as u64;
    assert_eq!(cut, DocumentError::SizeMismatch { digest: right.digest.clone(), expected: len, actual: len - 1 });
    let other = text.replace("sha256:", "sha256;");
    let swapped = Document::parse(right.clone(), Bytes::from(other.clone())).unwrap_err();
    let actual = Digest::sha256(other.as_bytes());
    assert_eq!(swapped, DocumentError::DigestMismatch { expected: right.digest, actual });
}

#[test]
fn verifies_sha512_too() {
    let text = manifest().to_string();
    let mut descriptor = described(MANIFEST, text.as_bytes());
    descriptor.digest = Digest::of(crate::image::Algorithm::Sha512, text.as_bytes());
    assert!(Document::parse(descriptor, text.into()).is_ok());
}

#[test]
fn refuses_what_is_too_large_or_no_document() {
    let limits = Limits { document_bytes: 10, config_bytes: 20, ..Limits::default() };
    let of = |media_type, size: usize| {
        let bytes = vec![b' '; size];
        Document::parse_within(described(media_type, &bytes), bytes.into(), &limits).unwrap_err()
    };
    assert!(matches!(of(INDEX, 11), DocumentError::TooLarge { size: 11, limit: 10, .. }));
    assert!(matches!(of(INDEX, 10), DocumentError::Malformed { .. }));
    assert!(matches!(of(CONFIG, 21), DocumentError::TooLarge { size: 21, limit: 20, .. }));
    assert!(matches!(of(CONFIG, 20), DocumentError::Malformed { .. }));
    assert!(matches!(of(LAYER, 1), DocumentError::NotADocument { .. }));
}

#[test]
fn refuses_a_document_that_is_two_things() {
    // CVE-2021-41190; `null` counts as containerd counts it.
    let index = json!({"manifests": []});
    for (media_type, document, key, value) in [
        (MANIFEST, manifest(), "manifests", json!([])),
        (MANIFEST, manifest(), "manifests", Value::Null),
        (MANIFEST, manifest(), "fsLayers", json!([])),
        (INDEX, index.clone(), "layers", json!([])),
        (INDEX, index.clone(), "layers", Value::Null),
        (INDEX, index.clone(), "config", leaf(CONFIG, 1)),
        (INDEX, index, "fsLayers", Value::Null),
    ] {
        match parse(media_type, &fixture::with(&document, key, value).to_string()) {
            Err(DocumentError::Contradiction { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{media_type} with {key}: {other:?}"),
        }
    }
}

#[test]
fn refuses_a_document_of_another_name() {
    for (media_type, inner) in
        [(MANIFEST, INDEX), (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"), (MANIFEST, "nonsense")]
    {
        let document = fixture::with(&manifest(), "mediaType", inner.into());
        let error = parse(media_type, &document.to_string()).unwrap_err();
        assert!(matches!(&error, DocumentError::MediaType { actual, .. } if actual == inner), "{error}");
    }
    for version in [0, 1, 3] {
        let document = fixture::with(&manifest(), "schemaVersion", version.into());
        let error = parse(MANIFEST, &document.to_string()).unwrap_err();
        assert!(matches!(error, DocumentError::SchemaVersion { actual, .. } if actual == version), "{error}");
    }
}

#[test]
fn refuses_what_two_programs_read_differently() {
    let digest = Digest::sha256(b"");
    let diff = format!(r#"["{digest}"]"#);
    for (media_type, text, why) in [
        (INDEX, r#"{"manifests":[],"manifests":[]}"#.to_owned(), "twice"),
        (INDEX, r#"{"manifests":[],"Manifests":[]}"#.to_owned(), "spelled `manifests`"),
        (INDEX, r#"{"manifests":[],"LAYERS":[]}"#.to_owned(), "spelled `layers`"),
        (INDEX, format!(r#"{{"manifests":[],"mediaType":"{INDEX}","mediaType":"{INDEX}"}}"#), "twice"),
        (INDEX, r#"{"manifests":[["a/b","sha256:",1]]}"#.to_owned(), "expected a JSON object"),
        (INDEX, r#"[[]]"#.to_owned(), "expected a JSON object"),
        (CONFIG, format!(r#"{{"rootfs":{{"diff_ids":{diff},"diff_ids":[]}}}}"#), "twice"),
        (CONFIG, r#"{"os":"linux","OS":"windows"}"#.to_owned(), "spelled `os`"),
        (CONFIG, format!(r#"{{"rootfs":["layers",{diff}]}}"#), "expected a JSON object"),
    ] {
        let error = parse(media_type, &text).unwrap_err();
        assert!(matches!(error, DocumentError::Malformed { .. }), "{text}: {error}");
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
}

#[test]
fn refuses_broken_json_with_the_place() {
    for (media_type, text, why) in [
        (INDEX, "", "EOF"),
        (INDEX, "null", "expected a JSON object"),
        (INDEX, "{}", "missing field `manifests`"),
        (MANIFEST, r#"{"layers":[]}"#, "missing field `config`"),
        (MANIFEST, r#"{"config":null,"layers":[]}"#, "line 1 column"),
        (INDEX, r#"{"manifests":[null]}"#, "line 1 column"),
        (INDEX, r#"{"manifests":[{"digest":"sha256:x","size":1}]}"#, "not a digest"),
        (INDEX, r#"{"manifests":[]}{}"#, "trailing characters"),
        (INDEX, r#"{"schemaVersion":"2","manifests":[]}"#, "line 1 column"),
        (INDEX, r#"{"schemaVersion":-2,"manifests":[]}"#, "line 1 column"),
        (CONFIG, r#"{"rootfs":{"diff_ids":[1]}}"#, "expected a digest"),
        (CONFIG, "[]", "expected a JSON object"),
    ] {
        let error = parse(media_type, text).unwrap_err();
        assert!(matches!(error, DocumentError::Malformed { .. }), "{text}: {error}");
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
    let deep = format!(r#"{{"manifests":[],"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(INDEX, &deep).is_err());
    let negative = fixture::with(&leaf(LAYER, 1), "size", json!(-1));
    assert!(parse(MANIFEST, &fixture::with(&manifest(), "layers", json!([negative])).to_string()).is_err());
}

#[test]
fn pairs_layers_with_diff_ids_or_reports_why_not() {
    let diff_ids = |count: usize| Config {
        platform: Platform::default(),
        rootfs: RootFs { diff_ids: (0..count).map(|n| Digest::sha256(&[n as u8])).collect() },
    };
    let manifest: Manifest = serde_json::from_value(manifest()).unwrap();
    let config = diff_ids(2);
    let pairs = manifest.layers_with_diff_ids(&config).unwrap();
    let sizes: Vec<_> =
        pairs.iter().map(|(layer, diff_id)| (layer.size, diff_id.verify(&[layer.size as u8 - 1]))).collect();
    assert_eq!(sizes, [(1, true), (2, true)]);
    for wrong in [0, 1, 3] {
        let error = manifest.layers_with_diff_ids(&diff_ids(wrong)).unwrap_err();
        let config = manifest.config.digest.clone();
        assert_eq!(error, DocumentError::LayerCount { config, layers: 2, diff_ids: wrong });
    }
}

#[test]
fn chains_follow_the_specification() {
    let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
    let chains = RootFs { diff_ids: vec![a.clone(), b.clone()] }.chain_ids();
    assert_eq!(chains, [a.clone(), Digest::sha256(format!("{a} {b}").as_bytes())]);
    assert_eq!(RootFs::default().chain_ids(), []);
}
