use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::image::fixture::{CONFIG, EMPTY, FOREIGN, IN_TOTO, INDEX, LAYER, MANIFEST, Store, descriptor, leaf, with};
use crate::image::{Kind, Limits, REF_NAME};

fn on(manifest: &Value, os: &str, architecture: &str) -> Value {
    with(manifest, "platform", json!({"os": os, "architecture": architecture}))
}

fn attestation(store: &mut Store) -> Value {
    let config = store.config("unknown", "unknown", 1);
    let manifest = store.manifest(&config, &[leaf(IN_TOTO, 900), leaf(IN_TOTO, 901)]);
    let annotations = json!({"vnd.docker.reference.type": "attestation-manifest"});
    with(&on(&manifest, "unknown", "unknown"), "annotations", annotations)
}

fn digest(value: &Value) -> Digest {
    descriptor(value).digest
}

fn limited(store: &Store, root: &Value, change: impl FnOnce(&mut Limits)) -> Result<Graph, GraphError> {
    let mut limits = Limits::default();
    change(&mut limits);
    store.walk_by(root, limits, |_| 0)
}

#[test]
fn walks_a_single_image() {
    let mut store = Store::default();
    let root = store.image("amd64", 3);
    let graph = store.walk(&root).unwrap();
    assert_eq!(graph.root(), &descriptor(&root));
    let kinds: Vec<_> = graph.descriptors().map(Descriptor::kind).collect();
    assert_eq!(kinds, [Kind::Manifest, Kind::Config, Kind::Layer, Kind::Layer, Kind::Layer]);
    assert_eq!(graph.blobs(), 5);
    let documents: u64 = graph.documents().iter().map(|document| document.bytes.len() as u64).sum();
    assert_eq!(graph.bytes(), documents + 1 + 2);
}

#[test]
fn lists_shared_blobs_once_and_picks_the_platform() {
    let mut store = Store::default();
    let (amd64, arm64) = (store.image("amd64", 3), store.image("arm64", 4));
    let attestation = attestation(&mut store);
    let root = store.index(&[attestation, on(&arm64, "linux", "arm64"), on(&amd64, "linux", "amd64")]);
    let graph = store.walk(&root).unwrap();
    // Index, three manifests with their configs; four shared layers and two in-toto statements.
    assert_eq!((graph.documents().len(), graph.leaves().len()), (7, 6));
    for (host, image) in [("linux/amd64/v2", Some(&amd64)), ("linux/arm64/v8", Some(&arm64)), ("linux/s390x", None)] {
        let found = graph.image_for(&host.parse().unwrap());
        assert_eq!(found.map(|(document, ..)| &document.descriptor.digest), image.map(digest).as_ref(), "{host}");
        if let Some((_, manifest, config_document, config)) = found {
            assert_eq!(config_document.descriptor.digest, manifest.config.digest);
            let layers = manifest.layers.len();
            assert_eq!(manifest.layers_with_diff_ids(config).unwrap().len(), layers);
        }
    }
    let (_, attestation, _, config) = graph.image(&digest(&attestation_of(&graph))).unwrap();
    assert!(matches!(
        attestation.layers_with_diff_ids(config),
        Err(DocumentError::LayerCount { layers: 2, diff_ids: 1, .. })
    ));
}

/// The entry of the attestation in an index, as JSON.
fn attestation_of(graph: &Graph) -> Value {
    let entry = graph.entries().find(|entry| entry.is_attestation()).unwrap();
    serde_json::to_value(entry).unwrap()
}

#[test]
fn never_picks_attestations() {
    let host: Platform = "linux/amd64".parse().unwrap();
    let mut store = Store::default();
    // Even where one claims to be for this very platform.
    let liar = {
        let config = store.config("linux", "amd64", 1);
        store.manifest(&config, &[leaf(IN_TOTO, 1)])
    };
    let marked = with(&liar, "annotations", json!({"vnd.docker.reference.type": "attestation-manifest"}));
    let root = store.index(&[on(&marked, "linux", "amd64")]);
    assert!(store.walk(&root).unwrap().image_for(&host).is_none());
    let root = store.index(&[on(&liar, "unknown", "unknown")]);
    assert!(store.walk(&root).unwrap().image_for(&host).is_none());
}

#[test]
fn judges_by_the_entry_first_and_by_the_config_otherwise() {
    let host: Platform = "linux/amd64".parse().unwrap();
    let mut store = Store::default();
    let (amd64, i386) = (store.image("amd64", 1), store.image("386", 1));
    let picked = |store: &Store, root: &Value| {
        store.walk(root).unwrap().image_for(&host).map(|(document, ..)| document.descriptor.digest.clone())
    };
    let root = store.index(&[i386.clone(), amd64.clone()]);
    assert_eq!(picked(&store, &root), Some(digest(&amd64)), "configs decide");
    let root = store.index(&[on(&i386, "linux", "amd64"), on(&amd64, "linux", "386")]);
    assert_eq!(picked(&store, &root), Some(digest(&i386)), "entries decide");
    let root = store.index(&[on(&i386, "linux", "386")]);
    assert_eq!(picked(&store, &root), Some(digest(&i386)), "386 runs on amd64");
    let root = store.index(&[on(&amd64, "linux", "s390x"), on(&amd64, "linux", "amd64")]);
    assert_eq!(picked(&store, &root), Some(digest(&amd64)), "an entry further down");
    let other = store.image("amd64", 2);
    let root = store.index(&[on(&other, "linux", "amd64"), on(&amd64, "linux", "amd64")]);
    assert_eq!(picked(&store, &root), Some(digest(&other)), "the first of two alike");
    let nested = store.index(&[on(&amd64, "linux", "amd64")]);
    let root = store.index(&[nested]);
    assert_eq!(picked(&store, &root), Some(digest(&amd64)), "within a nested index");
}

#[test]
fn takes_artifacts_and_foreign_layers_for_leaves() {
    let mut store = Store::default();
    let artifact = store.manifest(&leaf(EMPTY, 2), &[leaf("text/plain", 5)]);
    let config = store.config("linux", "amd64", 2);
    let image = store.manifest(&config, &[leaf(FOREIGN, 10), leaf(LAYER, 11)]);
    let root = store.index(&[artifact, image.clone()]);
    let graph = store.walk(&root).unwrap();
    let kinds: Vec<_> = graph.leaves().iter().map(Descriptor::kind).collect();
    assert_eq!(kinds, [Kind::Other, Kind::Other, Kind::ForeignLayer, Kind::Layer]);
    let (document, ..) = graph.image_for(&"linux/amd64".parse().unwrap()).unwrap();
    assert_eq!(document.descriptor.digest, digest(&image));
}

#[test]
fn every_parent_comes_first_whatever_the_order_of_reading() {
    let mut store = Store::default();
    let shared = store.image("amd64", 2);
    let inner = store.index(&[shared.clone(), shared.clone()]);
    // `shared` is known from the root, and may be read before the inner index that names it too.
    let root = store.index(&[on(&shared, "linux", "amd64"), inner.clone()]);
    let order = |pick: fn(usize) -> usize| {
        let graph = store.walk_by(&root, Limits::default(), pick).unwrap();
        graph.descriptors().cloned().collect::<Vec<_>>()
    };
    let (first, last) = (order(|_| 0), order(|pending| pending - 1));
    assert_eq!(first, last);
    let digests: Vec<_> = first.iter().take(3).map(|descriptor| &descriptor.digest).collect();
    assert_eq!(digests, [&digest(&root), &digest(&inner), &digest(&shared)]);
}

#[test]
fn a_root_must_be_an_image() {
    for media_type in [CONFIG, LAYER, IN_TOTO, "", "application/vnd.docker.distribution.manifest.v1+prettyjws"] {
        let error = Walk::new(descriptor(&leaf(media_type, 1)), Limits::default()).unwrap_err();
        assert!(matches!(error, GraphError::Root { .. }), "{error}");
    }
    let error = Walk::new(descriptor(&leaf(INDEX, 5 << 20)), Limits::default()).unwrap_err();
    assert!(matches!(error, GraphError::Document(DocumentError::TooLarge { .. })), "{error}");
}

#[test]
fn any_other_root_is_a_graph_by_itself() {
    for media_type in [CONFIG, LAYER, IN_TOTO, ""] {
        let root = descriptor(&leaf(media_type, 1));
        let named = Descriptor { annotations: [(REF_NAME.to_owned(), "a".to_owned())].into(), ..root.clone() };
        let graph = Graph::of_blob(named).unwrap();
        assert_eq!((graph.root(), graph.blobs(), graph.bytes()), (&root, 1, 1));
        assert_eq!((graph.documents().len(), graph.leaves(), graph.images().count()), (0, &[root][..], 0));
    }
    let error = Graph::of_blob(descriptor(&leaf(INDEX, 1))).unwrap_err();
    assert!(matches!(error, GraphError::Unexpected { .. }), "{error}");
}

#[test]
fn a_damaged_document_stays_pending() {
    let mut store = Store::default();
    let root = store.image("amd64", 1);
    let mut walk = Walk::new(descriptor(&root), Limits::default()).unwrap();
    let mut damaged = store.bytes(&digest(&root)).to_vec();
    damaged[0] ^= 1;
    let error = walk.supply(&digest(&root), damaged.into()).unwrap_err();
    assert!(matches!(error, GraphError::Document(DocumentError::DigestMismatch { .. })), "{error}");
    assert_eq!(walk.pending(), [descriptor(&root)]);
    walk.supply(&digest(&root), store.bytes(&digest(&root))).unwrap();
    assert_eq!(walk.pending().len(), 1);
}

#[test]
fn requests_each_document_exactly_once() {
    let mut store = Store::default();
    let root = store.image("amd64", 1);
    let mut walk = Walk::new(descriptor(&root), Limits::default()).unwrap();
    let stranger = Digest::sha256(b"");
    let error = walk.supply(&stranger, Bytes::new()).unwrap_err();
    assert_eq!(error, GraphError::Unexpected { digest: stranger, what: "supplied but not wanted" });
    walk.supply(&digest(&root), store.bytes(&digest(&root))).unwrap();
    assert!(walk.supply(&digest(&root), store.bytes(&digest(&root))).is_err(), "supplied twice");
    let missing = walk.pending()[0].digest.clone();
    assert_eq!(walk.finish().unwrap_err(), GraphError::Unexpected { digest: missing, what: "never supplied" });
}

#[test]
fn one_digest_by_two_descriptions() {
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
    let mut store = Store::default();
    let config = store.config("linux", "amd64", 2);
    let manifest = store.manifest(&config, &[leaf(LAYER, 1)]);
    let typed = |blob: &Value, media_type: &str| with(blob, "mediaType", json!(media_type));
    let root = store.manifest(&config, &[leaf(LAYER, 1), with(&leaf(LAYER, 1), "size", json!(2))]);
    assert!(matches!(store.walk(&root), Err(GraphError::Conflict { .. })), "two sizes");
    let root = store.index(&[manifest.clone(), typed(&manifest, INDEX)]);
    assert!(matches!(store.walk(&root), Err(GraphError::Conflict { .. })), "two kinds of documents");

    // What asks most of the blob counts.
    for (types, kind) in [
        ([LAYER, "application/vnd.oci.image.layer.v1.tar"], Kind::Layer),
        ([LAYER, FOREIGN], Kind::Layer),
        ([IN_TOTO, LAYER], Kind::Layer),
        ([FOREIGN, IN_TOTO], Kind::Other),
    ] {
        for types in [types, [types[1], types[0]]] {
            let root = store.manifest(&config, &types.map(|media_type| leaf(media_type, 1)));
            let mut walk = Walk::new(descriptor(&root), Limits::default()).unwrap();
            walk.supply(&digest(&root), store.bytes(&digest(&root))).unwrap();
            assert_eq!(walk.leaves().map(|(_, kind)| kind).collect::<Vec<_>>(), [kind], "{types:?}");
            let graph = store.walk(&root).unwrap();
            assert_eq!(graph.leaves().iter().map(Descriptor::kind).collect::<Vec<_>>(), [kind], "{types:?}");
        }
    }
    // A document is read, whatever else it is.
    for types in [[MANIFEST, IN_TOTO], [IN_TOTO, MANIFEST], [MANIFEST, DOCKER], [DOCKER, MANIFEST]] {
        let root = store.index(&types.map(|media_type| typed(&manifest, media_type)));
        for pick in [(|_| 0) as fn(usize) -> usize, |pending| pending - 1] {
            let graph = store.walk_by(&root, Limits::default(), pick).unwrap();
            assert_eq!((graph.documents().len(), graph.leaves().len()), (3, 1), "{types:?}");
            let read = graph.document(&digest(&manifest)).unwrap();
            assert_eq!(read.descriptor, descriptor(&manifest), "{types:?}");
            assert_eq!(graph.images().next().unwrap().config.descriptor, descriptor(&config));
        }
    }
    let root = store.manifest(&config, &[typed(&config, LAYER)]);
    assert_eq!(store.walk(&root).unwrap().blobs(), 2);
    // Alone, another type is none.
    let root = store.index(&[typed(&manifest, DOCKER)]);
    assert!(matches!(store.walk(&root), Err(GraphError::Document(DocumentError::MediaType { .. }))));
}

#[test]
fn stops_at_its_limits() {
    let mut store = Store::default();
    let image = store.image("amd64", 3);
    let root = store.index(std::slice::from_ref(&image));
    let what = |result: Result<Graph, GraphError>| match result {
        Err(GraphError::Limit { what, .. }) => what,
        Err(GraphError::Document(DocumentError::TooLarge { .. })) => "one document",
        other => panic!("{other:?}"),
    };
    // Index, manifest, config, three layers; the manifest names four.
    assert!(limited(&store, &root, |limits| limits.blobs = 6).is_ok());
    assert_eq!(what(limited(&store, &root, |limits| limits.blobs = 5)), "the number of blobs");
    assert!(limited(&store, &root, |limits| limits.children = 4).is_ok());
    assert_eq!(what(limited(&store, &root, |limits| limits.children = 3)), "the number of blobs named by one document");
    assert!(limited(&store, &root, |limits| limits.depth = 2).is_ok());
    assert_eq!(what(limited(&store, &root, |limits| limits.depth = 1)), arrange::DEPTH);
    assert!(limited(&store, &root, |limits| limits.visits = 6).is_ok());
    assert_eq!(what(limited(&store, &root, |limits| limits.visits = 5)), "the number of ways through the graph");
    let graph = store.walk(&root).unwrap();
    let sizes: Vec<_> = graph.documents().iter().map(|document| document.descriptor.size).collect();
    let [index, manifest, config] = sizes[..] else { panic!("{sizes:?}") };
    let total = index + manifest + config;
    assert!(limited(&store, &root, |limits| limits.total_bytes = total).is_ok());
    assert_eq!(
        what(limited(&store, &root, |limits| limits.total_bytes = total - 1)),
        "the size of all documents together"
    );
    assert_eq!(what(limited(&store, &root, |limits| limits.config_bytes = config - 1)), "one document");
    assert_eq!(what(limited(&store, &root, |limits| limits.document_bytes = manifest - 1)), "one document");
    // A config has its own limit.
    let large = index.max(manifest);
    assert!(config > 0 && limited(&store, &root, |limits| limits.document_bytes = large).is_ok());
}

#[test]
fn refuses_a_retry_as_it_refused_the_first() {
    let mut store = Store::default();
    let huge = with(&store.config("linux", "amd64", 0), "size", json!(17 << 20));
    let root = store.manifest(&huge, &[]);
    let mut walk = Walk::new(descriptor(&root), Limits::default()).unwrap();
    for _ in 0..2 {
        let error = walk.supply(&digest(&root), store.bytes(&digest(&root))).unwrap_err();
        assert!(matches!(error, GraphError::Document(DocumentError::TooLarge { .. })), "{error}");
    }
    assert!(walk.finish().is_err());
}

#[test]
fn reads_a_config_of_sixteen_mebibytes() {
    let mut store = Store::default();
    let history = "x".repeat((16 << 20) - 100);
    let config = store.put(CONFIG, &json!({"os": "linux", "architecture": "amd64", "history": [history]}));
    let root = store.manifest(&config, &[]);
    assert!(store.walk(&root).unwrap().image_for(&"linux/amd64".parse().unwrap()).is_some());
}

#[test]
fn refuses_deep_graphs_however_they_are_named() {
    let mut store = Store::default();
    let image = store.image("amd64", 1);
    let mut chain = vec![image.clone()];
    for _ in 0..4 {
        let next = store.index(&[chain[chain.len() - 1].clone()]);
        chain.push(next);
    }
    assert!(store.walk(&chain[3]).is_ok(), "three indexes and a manifest");
    let too_deep = |root: &Value| matches!(store.walk(root), Err(GraphError::Limit { what: arrange::DEPTH, .. }));
    assert!(too_deep(&chain[4]));
    // Naming every link at the root too hides the depth from a walk that meets each blob once.
    let mut hidden = Store::default();
    let image = hidden.image("amd64", 1);
    let mut links = vec![image];
    for _ in 0..3 {
        let next = hidden.index(&[links[links.len() - 1].clone()]);
        links.push(next);
    }
    let root = hidden.index(&links);
    assert!(matches!(hidden.walk(&root), Err(GraphError::Limit { what: arrange::DEPTH, .. })));
}

#[test]
fn refuses_graphs_that_explode_in_an_engine() {
    let mut store = Store::default();
    let image = store.image("amd64", 50);
    let wide = store.index(&vec![image; 100]);
    let root = store.index(&vec![wide; 100]);
    // Three documents and 51 other blobs, and half a million ways to them.
    let error = store.walk(&root).unwrap_err();
    assert!(matches!(error, GraphError::Limit { limit: 200_000, .. }), "{error}");
}

#[test]
fn manages_thousands_of_manifests() {
    let mut store = Store::default();
    let manifests: Vec<_> = (0..3000).map(|n| store.manifest(&leaf(EMPTY, 2), &[leaf("text/plain", n + 10)])).collect();
    let root = store.index(&manifests);
    let graph = store.walk(&root).unwrap();
    assert_eq!((graph.documents().len(), graph.leaves().len()), (3001, 3001));
    assert!(graph.document(&digest(&manifests[2999])).is_some());
    assert!(graph.image_for(&Platform::host()).is_none());
}

#[test]
fn what_is_left_out_takes_with_it_what_only_it_names() {
    let mut store = Store::default();
    let (amd64, arm64) = (store.image("amd64", 3), store.image("arm64", 4));
    let root = store.index(&[on(&arm64, "linux", "arm64"), on(&amd64, "linux", "amd64")]);
    let whole = store.walk(&root).unwrap();
    let mut walk = Walk::new(descriptor(&root), Limits::default()).unwrap();
    assert!(walk.skip(&digest(&root)).is_err(), "without its root there is no image");
    while let Some(pending) = walk.pending().first().cloned() {
        if pending.digest == digest(&arm64) {
            walk.skip(&pending.digest).unwrap();
            walk.skip(&pending.digest).unwrap_err();
        } else {
            walk.supply(&pending.digest, whole.document(&pending.digest).unwrap().bytes.clone()).unwrap();
        }
    }
    let graph = walk.finish().unwrap();
    let kinds: Vec<_> = graph.descriptors().map(Descriptor::kind).collect();
    assert_eq!(kinds, [Kind::Index, Kind::Manifest, Kind::Config, Kind::Layer, Kind::Layer, Kind::Layer]);
    assert_eq!(graph.images().count(), 1);
    assert_eq!(graph.entries().count(), 3, "the index still names both");
}
