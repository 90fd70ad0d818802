//! The types of a folder's files, as nginx reads them: a path says whether a file is a manifest, and not of which type.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use super::files::{BLOB, JSON, MAX_READ};
use super::referrers::INDEX;
use crate::image::media_type_of;

/// The file of the types, which is included in a `server`.
pub(super) const FILE: &str = "nginx-locations.conf";
/// How many folders a path has at most.
const MAX_DEPTH: usize = 128;

/// The `location` of each manifest below `root`, and of the other files.
pub(super) fn locations(root: &Path) -> io::Result<String> {
    let mut found = Vec::new();
    walk(&root.join("v2"), "/v2", &mut found, 0)?;
    found.sort();
    let mut text = format!(
        "# Written by `linkspan publish static`: include it in a `server` whose root is this folder, and reload nginx after \
         each publication.\nlocation = /v2/ {{ types {{ }} default_type {JSON}; try_files /v2/index.html =404; }}\nlocation \
         /v2/ {{ types {{ }} default_type {BLOB}; }}\nlocation ~ ^/v2/.+/tags/list$ {{ types {{ }} default_type {JSON}; \
         }}\nlocation ~ ^/v2/.+/referrers/[^/]+$ {{ types {{ }} default_type {INDEX}; }}\n"
    );
    for (path, kind) in found {
        text.push_str(&format!("location = {path} {{ types {{ }} default_type {kind}; }}\n"));
    }
    Ok(text)
}

/// The paths and the types of the manifests below `folder`.
fn walk(folder: &Path, path: &str, found: &mut Vec<(String, String)>, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (kind, below) = (entry.file_type()?, format!("{path}/{name}"));
        if kind.is_dir() {
            walk(&entry.path(), &below, found, depth + 1)?;
        } else if path.ends_with("/manifests") && is_plain(&below) {
            // What else lies there is none of ours; a pipe would never end, and a link may lead to one.
            let read = if kind.is_file() { read_short(&entry.path())? } else { None };
            let kind = read.and_then(|bytes| media_type_of(&bytes)).filter(|kind| is_plain(kind));
            found.extend(kind.map(|kind| (below, kind)));
        }
    }
    Ok(())
}

/// A file, unless it is longer than any manifest.
fn read_short(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_READ + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_READ).then_some(bytes))
}

/// Whether a text means nothing but itself in a configuration.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._:+-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_among_the_manifests_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().join("v2/app/manifests");
        fs::create_dir_all(&manifests).unwrap();
        let manifest = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
        fs::write(manifests.join("1"), manifest).unwrap();
        let before = locations(folder.path()).unwrap();
        assert!(before.contains("location = /v2/app/manifests/1 "), "{before}");
        std::os::unix::fs::symlink("/dev/zero", manifests.join("zeros")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            manifests.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        fs::write(manifests.join("long"), vec![b' '; usize::try_from(MAX_READ).unwrap() + 1]).unwrap();
        assert_eq!(locations(folder.path()).unwrap(), before);
    }
}
