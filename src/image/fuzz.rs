//! The properties that the fuzz targets `reference`, `document` and `cache_document` check for any bytes.

use std::collections::HashSet;

use bytes::Bytes;

use super::cache::{CACHE_CONFIG, CacheConfig, CacheRecords, CacheRoot};
use super::{Descriptor, Digest, Document, Limits, Platform, Reference, media_type_of};

/// An accepted name is written in a form that parses to the same name.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = text.parse::<Reference>() {
        assert_eq!(name.to_string().parse::<Reference>().as_ref(), Ok(&name), "{text} was written as {name}");
        // For people, as docker writes it: `docker.io/a.io/b` becomes `a.io/b`, which is another name.
        assert!(name.familiar().parse::<Reference>().is_ok(), "{text} was written as {}", name.familiar());
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert!(platform.to_string().parse::<Platform>().is_ok(), "{text} was written as {platform}");
    }
}

/// A document is read within its limits, and keeps its bytes.
pub fn document(bytes: &[u8]) {
    let _ = media_type_of(bytes);
    for media_type in [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ] {
        let descriptor = Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64);
        let parsed = Document::parse_within(descriptor, Bytes::copy_from_slice(bytes), &Limits::default());
        if let Ok(document) = parsed {
            assert_eq!(document.bytes, bytes);
            document.children().iter().for_each(|child| assert!(!child.digest.as_str().is_empty()));
        }
    }
}

/// A cache config that is accepted refers to nothing that is not there, and every chain of its layers ends. A root is offered
/// to a build in a form that reads back as that root, whatever the engine has of its layers.
pub fn cache_document(bytes: &[u8]) {
    let described = |media_type: &str| Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64);
    let config = described(CACHE_CONFIG);
    // A config that is only counted may have fields in it that cannot be read.
    if let Ok(read) = CacheRecords::parse(&config, bytes) {
        let counted = CacheConfig::parse(&config, bytes);
        let Ok(counted) = counted else { panic!("it is read, and not counted: {counted:?}") };
        assert_eq!(read.layers.iter().map(|(digest, _)| digest).collect::<Vec<_>>(), Vec::from_iter(&counted.layers));
        assert_eq!(read.records.len(), counted.records);
        assert_eq!(read.records.iter().filter(|record| !record.results.is_empty()).count(), counted.results);
        for record in &read.records {
            assert!(record.inputs.iter().flatten().all(|(_, record)| *record < read.records.len()));
            assert!(record.results.iter().all(|result| read.chain(result).len() <= bytes.len()));
        }
    }
    let sniffed = CacheRoot::sniff(&described(""), bytes);
    for descriptor in sniffed
        .into_iter()
        .chain(["index", "manifest"].map(|kind| described(&format!("application/vnd.oci.image.{kind}.v1+json"))))
    {
        let Ok(root) = CacheRoot::parse(descriptor, Bytes::copy_from_slice(bytes)) else { continue };
        let all: HashSet<_> = root.layers.iter().map(|layer| layer.digest.clone()).collect();
        for present in [HashSet::new(), all.iter().take(1).cloned().collect(), all.clone()] {
            let read = root.import(&present).map(|(descriptor, bytes)| CacheRoot::parse(descriptor, bytes));
            let Ok(Ok(read)) = read else { panic!("{root:?} cannot be offered: {read:?}") };
            let there = root.layers.iter().filter(|layer| present.contains(&layer.digest));
            assert_eq!(read.layers.iter().collect::<Vec<_>>(), there.collect::<Vec<_>>());
            assert_eq!(read.config.digest, root.config.digest);
            assert!(read.is_importable(&present), "{read:?}");
        }
    }
}
