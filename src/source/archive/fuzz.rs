//! The properties that the fuzz target `tar_members` checks for any bytes.

use super::members::{BlobLocation, First, Members, Step, step};
use crate::image::Digest;
use crate::tar::BLOCK;

/// Reading members ends, and never reads beyond the input.
pub fn members(bytes: &[u8]) {
    let (mut members, mut at, mut needed) = (Members::default(), 0_usize, BLOCK);
    while let Some(window) = bytes.get(at..at.saturating_add(needed)) {
        let size = match step(window) {
            Ok(Step::More(more)) => {
                assert!(more > needed, "asks for no more than it had");
                needed = more;
                continue;
            }
            Ok(Step::Skip(size)) => size,
            Ok(Step::Member(head)) => {
                let size = head.head.saturating_add(head.size).saturating_add(head.padding());
                let location = |size| BlobLocation::Engine { size, digest: Digest::sha256(b""), mark: Vec::new() };
                if members.add(head, location).is_err() {
                    break;
                }
                size
            }
            Ok(Step::End) | Err(_) => break,
        };
        assert!(size > 0, "goes nowhere");
        at = at.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        needed = BLOCK;
    }
    for name in ["manifest.json", "index.json", "oci-layout", "a", "b"] {
        let _ = members.find(name, First::Files);
        let _ = members.find(name, First::Links);
    }
}
