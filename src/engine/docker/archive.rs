//! The smallest possible image archive: an OCI layout that only says what the content store already holds.

use bytes::Bytes;

use crate::image::layout::{self, INDEX_FILE, MARKER, MARKER_FILE};
use crate::image::{Descriptor, Reference};
use crate::tar;

/// An archive with the files `oci-layout` and `index.json`, and in the latter one entry per name.
/// Without names there is one entry, which dockerd lists as a dangling image.
pub(super) fn archive(root: &Descriptor, names: &[Reference]) -> Result<Bytes, serde_json::Error> {
    let index = layout::index(&layout::entries(&root.clone().without_names(), names))?;
    let mut tar = Vec::new();
    file(&mut tar, MARKER_FILE, MARKER);
    file(&mut tar, INDEX_FILE, &index);
    tar.extend_from_slice(&tar::END);
    Ok(tar.into())
}

/// Appends a file.
fn file(tar: &mut Vec<u8>, name: &str, content: &[u8]) {
    tar.extend_from_slice(&tar::member(name, content.len() as u64));
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(tar::BLOCK), 0);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use std::collections::BTreeMap;

    use super::*;
    use crate::image::{Digest, IMAGE_NAME, REF_NAME};

    fn root() -> Descriptor {
        Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: Digest::sha256(b"root"),
            size: 4,
            annotations: BTreeMap::from([("kept".to_owned(), "yes".to_owned())]),
            platform: None,
            artifact_type: None,
        }
    }

    /// What the tar of this machine finds in `archive`.
    fn untar(archive: &[u8], args: &[&str]) -> String {
        let mut tar = Command::new("tar").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        tar.stdin.take().unwrap().write_all(archive).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn tar_reads_it() {
        let archive = archive(&root(), &[]).unwrap();
        assert_eq!(archive.len() % tar::BLOCK, 0);
        assert_eq!(untar(&archive, &["-t"]), "oci-layout\nindex.json\n");
        assert_eq!(untar(&archive, &["-xO", "oci-layout"]), r#"{"imageLayoutVersion":"1.0.0"}"#);
    }

    #[test]
    fn each_name_has_an_entry() {
        let names: Vec<Reference> = vec!["demo:one".parse().unwrap(), "demo:two".parse().unwrap()];
        let index = untar(&archive(&root(), &names).unwrap(), &["-xO", "index.json"]);
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let entries = index["manifests"].as_array().unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1]["digest"], root().digest.as_str());
        assert_eq!(entries[1]["annotations"][IMAGE_NAME], "docker.io/library/demo:two");
        assert_eq!(entries[1]["annotations"][REF_NAME], "two");
        assert_eq!(entries[1]["annotations"]["kept"], "yes");
    }

    #[test]
    fn an_image_without_names_is_not_named() {
        let mut root = root();
        root.annotations.insert(IMAGE_NAME.to_owned(), "docker.io/library/production:latest".to_owned());
        root.annotations.insert(REF_NAME.to_owned(), "production".to_owned());
        let index = untar(&archive(&root, &[]).unwrap(), &["-xO", "index.json"]);
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(index["manifests"][0]["annotations"], serde_json::json!({"kept": "yes"}));
    }
}
