//! Properties of the image model that hold for any input.

#![allow(clippy::expect_used, reason = "a helper that cannot go on fails its test")]

use std::collections::{BTreeSet, HashMap, HashSet};

use linkspan::image::{
    Algorithm, Descriptor, Digest, Document, DocumentError, Graph, Kind, Limits, Platform, Reference, View, Walk,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn digests() -> impl Strategy<Value = Digest> {
    let algorithms = select(vec![Algorithm::Sha256, Algorithm::Sha512]);
    (algorithms, any::<[u8; 8]>()).prop_map(|(algorithm, bytes)| Digest::of(algorithm, &bytes))
}

/// Texts of the pieces that names are made of, most of them no names.
fn near_names() -> impl Strategy<Value = String> {
    let pieces = vec![
        "a",
        "B",
        "foo",
        "library",
        "docker.io",
        "index.docker.io",
        "localhost",
        "x_y",
        "-",
        "_",
        ".",
        "/",
        ":",
        "@",
        "[::1]",
        ":5000",
        "é",
        "ſ",
        " ",
        "..",
        "//",
        "sha256:",
        "0a",
    ];
    prop::collection::vec(select(pieces), 0..9).prop_map(|pieces| pieces.concat())
}

fn right_names() -> impl Strategy<Value = String> {
    let domain = "([a-z0-9]{1,5}\\.[a-zA-Z0-9]{1,5}(:[0-9]{1,5})?|localhost|[a-z]{3}:[0-9]{2}|\\[:[0-9a-f:]{0,9}\\])/";
    let component = "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}";
    let name = format!("({domain})?({component})(/{component}){{0,2}}(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,6}})?");
    let name = proptest::string::string_regex(&name).expect("a right expression");
    (name, prop::option::of(digests())).prop_map(|(name, digest)| match digest {
        Some(digest) => format!("{name}@{digest}"),
        None => name,
    })
}

fn platforms() -> impl Strategy<Value = Platform> {
    let os = select(vec!["linux", "Linux", "", "windows", "darwin", "unknown"]);
    let architecture = select(vec![
        "amd64", "x86_64", "386", "arm64", "aarch64", "ARM64", "arm", "armhf", "armel", "riscv64", "unknown",
    ]);
    let variant = select(vec!["", "v1", "v2", "v3", "v5", "6", "v7", "v8", "8", "v8.2", "v9", "v9.0", "v9.3", "V8"]);
    let features = prop::collection::vec(select(vec!["a", "b", "c"]), 0..3);
    (os, architecture, variant, features).prop_map(|(os, architecture, variant, features)| Platform {
        os: os.into(),
        architecture: architecture.into(),
        variant: Some(variant).filter(|variant| !variant.is_empty()).map(Into::into),
        os_version: None,
        os_features: features.into_iter().map(Into::into).collect(),
    })
}

/// A key, its value, and whether an index may have it.
fn index_fields() -> impl Strategy<Value = (&'static str, &'static str, bool)> {
    select(vec![
        ("schemaVersion", "2", true),
        ("schemaVersion", "null", true),
        ("schemaVersion", "1", false),
        ("SchemaVersion", "2", false),
        ("mediaType", "\"application/vnd.oci.image.index.v1+json\"", true),
        ("mediaType", "\"\"", true),
        ("mediaType", "\"application/vnd.oci.image.manifest.v1+json\"", false),
        ("mediatype", "\"\"", false),
        ("layers", "null", false),
        ("layers", "[]", false),
        ("config", "null", false),
        ("fsLayers", "[]", false),
        ("Manifests", "[]", false),
        ("annotations", "null", true),
        ("annotations", "{\"a\":\"1\",\"A\":\"2\"}", true),
        ("other", "[{\"layers\":1,\"layers\":2}]", true),
    ])
}

/// Blobs and the graph above them: each node names some of those below it.
#[derive(Debug)]
struct Registry {
    blobs: HashMap<Digest, Vec<u8>>,
    root: Value,
}

/// A descriptor of these bytes.
fn describe(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(bytes), "size": bytes.len()})
}

/// Images share layers, indexes share images and each other; the last index is the root.
fn registries() -> impl Strategy<Value = Registry> {
    let images = prop::collection::vec(prop::collection::vec(0u8..8, 0..6), 1..6);
    let indexes = prop::collection::vec(prop::collection::vec(any::<Index>(), 0..5), 1..4);
    (images, indexes).prop_map(|(images, indexes)| {
        let mut blobs = HashMap::new();
        let mut put = |media_type, document: Value| {
            let bytes = document.to_string().into_bytes();
            let descriptor = describe(media_type, &bytes);
            blobs.insert(Digest::sha256(&bytes), bytes);
            descriptor
        };
        let mut nodes = Vec::new();
        for (n, layers) in images.into_iter().enumerate() {
            let config = put(CONFIG, json!({"os": "linux", "architecture": "amd64", "image": n}));
            let layers: Vec<_> = layers.into_iter().map(|layer| describe(LAYER, &[layer])).collect();
            nodes.push(put(MANIFEST, json!({"schemaVersion": 2, "config": config, "layers": layers})));
        }
        for (n, entries) in indexes.into_iter().enumerate() {
            let manifests: Vec<_> = entries.iter().map(|entry| entry.get(&nodes).clone()).collect();
            nodes.push(put(INDEX, json!({"schemaVersion": 2, "manifests": manifests, "index": n})));
        }
        let root = nodes.pop().expect("at least one index");
        Registry { blobs, root }
    })
}

impl Registry {
    fn root(&self) -> Descriptor {
        serde_json::from_value(self.root.clone()).expect("a descriptor")
    }

    fn walk(&self, picks: &[Index]) -> Graph {
        let mut walk = Walk::new(self.root(), Limits::default()).expect("a right root");
        let mut picks = picks.iter().cycle();
        while !walk.pending().is_empty() {
            let digest = picks.next().expect("some picks").get(walk.pending()).digest.clone();
            walk.supply(&digest, self.blobs[&digest].clone().into()).expect("a right document");
        }
        walk.finish().expect("a whole graph")
    }

    /// All digests below the root, found without the model.
    fn reachable(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.root.clone()];
        while let Some(descriptor) = open.pop() {
            let digest = descriptor["digest"].as_str().expect("a digest");
            if !found.insert(digest.to_owned()) {
                continue;
            }
            if let Some(bytes) = self.blobs.get(&digest.parse::<Digest>().expect("a digest")) {
                let document: Value = serde_json::from_slice(bytes).expect("JSON");
                let lists = ["manifests", "layers"].into_iter().filter_map(|key| document[key].as_array());
                open.extend(lists.flatten().cloned());
                open.extend(document.get("config").cloned());
            }
        }
        found
    }
}

proptest! {
    // A failing input is printed whole; what it shows belongs into a unit test, not into a file beside this one.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn digests_survive_text_and_json(digest in digests()) {
        prop_assert_eq!(&digest.to_string().parse::<Digest>().unwrap(), &digest);
        let json = serde_json::to_string(&digest).unwrap();
        prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn digests_are_right_to_the_letter(digest in digests(), at in any::<Index>(), letter in "[\\PC]") {
        let mut letters: Vec<char> = digest.as_str().chars().collect();
        let at = at.index(letters.len());
        letters[at] = letter.chars().next().unwrap();
        let changed: String = letters.iter().collect();
        let in_hex = at > digest.algorithm().name().len() && matches!(letters[at], '0'..='9' | 'a'..='f');
        prop_assert_eq!(changed.parse::<Digest>().is_ok(), changed == digest.as_str() || in_hex);
        letters.remove(at);
        prop_assert!(letters.iter().collect::<String>().parse::<Digest>().is_err());
    }

    #[test]
    fn digests_name_one_content(bytes in any::<Vec<u8>>(), other in any::<Vec<u8>>()) {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, &bytes);
            prop_assert!(digest.verify(&bytes));
            prop_assert_eq!(digest.verify(&other), bytes == other);
        }
    }

    #[test]
    fn right_names_are_taken_and_normal_names_stay(name in right_names()) {
        let reference: Reference = name.parse().unwrap();
        prop_assert!(reference.tag().is_some() || reference.digest().is_some());
        prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
        prop_assert!(reference.to_string().starts_with(&reference.name()));
        prop_assert!(reference.to_string().ends_with(&reference.familiar()));
    }

    #[test]
    fn any_text_is_refused_or_becomes_normal(name in prop_oneof![near_names(), any::<String>()]) {
        if let Ok(reference) = name.parse::<Reference>() {
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            // The registry's part may hold capitals, and a colon before its port.
            let repository = reference.name();
            let path = repository.split_once('/').map_or(&*repository, |(_, path)| path);
            prop_assert!(path.len() <= 255);
            prop_assert!(!path.contains(|letter: char| letter.is_uppercase() || letter == ':'));
            prop_assert!(!path.split('/').any(|part| matches!(part, "" | "." | "..")));
        }
    }

    #[test]
    fn platforms_have_one_normal_form(platform in platforms(), host in platforms()) {
        let normal = platform.normalised();
        prop_assert_eq!(&normal.normalised(), &normal);
        prop_assert_eq!(normal.fit(&host), platform.fit(&host));
        prop_assert_eq!(platform.fit(&host.normalised()), platform.fit(&host));
    }

    #[test]
    fn no_platform_fits_better_than_the_host(platform in platforms(), host in platforms()) {
        prop_assert!(platform.fit(&host) <= host.fit(&host));
        prop_assert_eq!(host.fit(&host).is_none(), host.is_unknown());
    }

    #[test]
    fn a_damaged_document_is_never_read(registry in registries(), at in any::<Index>(), flip in 1u8..) {
        let root = registry.root();
        let mut bytes = registry.blobs[&root.digest].clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let error = Document::parse(root, bytes.into()).unwrap_err();
        let refused = matches!(error, DocumentError::DigestMismatch { .. });
        prop_assert!(refused, "{}", error);
    }

    #[test]
    fn an_index_is_read_only_if_it_can_be_nothing_else(
        fields in prop::collection::vec(index_fields(), 0..4),
        list in select(vec!["[]", "null", "{}"]),
    ) {
        let manifests = ("manifests", list, list != "{}");
        let fields: Vec<_> = fields.into_iter().chain([manifests]).collect();
        let text: Vec<_> = fields.iter().map(|(key, value, _)| format!("\"{key}\":{value}")).collect();
        let text = format!("{{{}}}", text.join(","));
        let mut seen = HashSet::new();
        // Keys that mean nothing to an engine may stand there as often as they like.
        let right = fields.iter().all(|(key, _, right)| *right && (*key == "other" || seen.insert(*key)));
        let descriptor = Descriptor::new(INDEX, Digest::sha256(text.as_bytes()), text.len() as u64);
        prop_assert_eq!(Document::parse(descriptor, text.clone().into()).is_ok(), right, "{}", text);
    }

    #[test]
    fn a_second_spelling_of_a_key_is_refused(registry in registries(), key in select(vec!["manifests", "mediaType"])) {
        let mut document: Value = serde_json::from_slice(&registry.blobs[&registry.root().digest]).unwrap();
        document[key.to_uppercase()] = document[key].clone();
        let bytes = document.to_string().into_bytes();
        let descriptor = serde_json::from_value(describe(INDEX, &bytes)).unwrap();
        let error = Document::parse(descriptor, bytes.into()).unwrap_err();
        let refused = matches!(error, DocumentError::Malformed { .. });
        prop_assert!(refused, "{}", error);
    }

    #[test]
    fn a_graph_holds_every_blob_once_and_parents_first(
        registry in registries(),
        picks in prop::collection::vec(any::<Index>(), 1..20),
    ) {
        let graph = registry.walk(&picks);
        let listed: Vec<_> = graph.descriptors().map(|descriptor| descriptor.digest.to_string()).collect();
        prop_assert_eq!(listed.len(), graph.blobs());
        prop_assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), registry.reachable());
        prop_assert_eq!(graph.blobs(), registry.reachable().len());
        prop_assert_eq!(graph.bytes(), graph.descriptors().map(|descriptor| descriptor.size).sum::<u64>());

        let mut before = HashSet::new();
        for document in graph.documents().iter().rev() {
            for child in document.children().into_iter().filter(|child| child.kind().is_document()) {
                prop_assert!(before.contains(&child.digest), "{} comes before a parent", child.digest);
            }
            before.insert(document.descriptor.digest.clone());
        }
    }

    #[test]
    fn a_graph_does_not_depend_on_the_order_of_reading(
        registry in registries(),
        picks in prop::collection::vec(any::<Index>(), 1..20),
        other in prop::collection::vec(any::<Index>(), 1..20),
    ) {
        let (one, two) = (registry.walk(&picks), registry.walk(&other));
        prop_assert!(one.descriptors().eq(two.descriptors()));
        let host: Platform = "linux/amd64".parse().unwrap();
        let chosen = |graph: &Graph| graph.image_for(&host).map(|(document, ..)| document.descriptor.digest.clone());
        prop_assert_eq!(chosen(&one), chosen(&two));
        let images = one.documents().iter().any(|document| matches!(document.view, View::Manifest(_)));
        prop_assert_eq!(chosen(&one).is_some(), images);
        prop_assert!(one.leaves().iter().all(|leaf| leaf.kind() == Kind::Layer));
    }
}
