//! What the archive of a load and dockerd's response to it have in common.

use crate::image::Digest;

/// Where a blob is in the archive. Digests of other algorithms are too long for a tar's name; their beginning will do.
pub(super) fn place(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("blobs/{}/{}", digest.algorithm().name(), &hex[..hex.len().min(64)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_into_a_header() {
        let long = Digest::of(crate::image::Algorithm::Sha512, b"x");
        for digest in [Digest::sha256(b"x"), long] {
            assert!(place(&digest).len() <= 100 && place(&digest).starts_with("blobs/sha"), "{}", place(&digest));
        }
    }
}
