//! Tar archives made by hand, also such as no tool would write.

use std::fs;
use std::path::PathBuf;

use linkspan::image::Digest;
use tar_core::{EntryBuilder, EntryType};

const BLOCK: usize = 512;

/// A tar archive, member by member.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.member(b'0', name, "", content.as_ref().len() as u64).content(content)
    }

    /// A file under the name of its digest.
    pub(crate) fn blob(self, content: &[u8]) -> Self {
        self.file(&blob_name(content), content)
    }

    /// The file that makes an archive an OCI layout.
    pub(crate) fn layout(self) -> Self {
        self.file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.member(b'2', name, target, 0)
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.member(b'1', name, target, 0)
    }

    /// A header alone, which may say what is not so.
    pub(crate) fn member(self, kind: u8, name: &str, target: &str, size: u64) -> Self {
        self.header(&mut entry(kind, name, target, size))
    }

    pub(crate) fn header(mut self, entry: &mut EntryBuilder) -> Self {
        self.0.extend(entry.finish_bytes());
        self
    }

    pub(crate) fn content(mut self, content: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(content.as_ref());
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// With the zeros at its end.
    pub(crate) fn end(mut self) -> Self {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.end().0
    }

    pub(crate) fn write(self, path: PathBuf) -> PathBuf {
        fs::write(&path, self.0).unwrap();
        path
    }
}

/// A header of root's, to be given what else it is to say.
pub(crate) fn entry(kind: u8, name: &str, target: &str, size: u64) -> EntryBuilder {
    let mut entry = EntryBuilder::new_ustar();
    entry.path(name).link_name(target).entry_type(EntryType::from_byte(kind));
    entry.mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap().size(size).unwrap().mtime(1_676_604_177).unwrap();
    entry
}

pub(crate) fn blob_name(content: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::sha256(content).hex())
}
