//! The properties that the fuzz target `layout_index` checks for any bytes.

use super::index::LayoutIndex;
use crate::image::{Descriptor, Digest, Reference};

/// An index that is accepted reads back as it was written, and a name can be added to it.
pub fn index(bytes: &[u8]) {
    let Ok(mut index) = LayoutIndex::parse(bytes) else { return };
    let count = index.entries().len();
    index.doubts().for_each(drop);
    let again = index.to_bytes().ok().map(|written| LayoutIndex::parse(&written).map(|read| read.entries().len()));
    assert_eq!(again, Some(Ok(count)));
    let Ok(name) = "fuzzed:1".parse::<Reference>() else { return };
    let root = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(b"root"), 4);
    let _ = index.resolve(&name);
    if index.insert(&root, std::slice::from_ref(&name)).is_ok() {
        assert_eq!(index.resolve(&name).map(|found| &found.digest), Some(&root.digest));
    }
}
