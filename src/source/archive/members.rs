//! The members of a tar archive: where each file begins and ends.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use tar_core::parse::{Limits, ParseEvent, Parser};

use crate::image::Digest;
use crate::tar::{BLOCK, check_numbers, clean, padding};

/// How many members an archive may have: room for the largest allowed image with a folder for each blob.
const MAX_MEMBERS: usize = 100_000;
/// The longest name of a member, and the longest target of a link, in bytes.
const MAX_NAME: u32 = 4096;
/// How many links may be followed.
const MAX_LINKS: usize = 16;

/// Where the bytes of a member are.
#[derive(Debug, Clone)]
pub(super) enum BlobLocation {
    /// In a file, from `offset` on.
    File { file: Arc<File>, offset: u64, size: u64 },
    /// In the engine that the archive is loaded into: a blob of this digest, whose first bytes are `mark`.
    Engine { size: u64, digest: Digest, mark: Vec<u8> },
}

impl BlobLocation {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } | Self::Engine { size, .. } => *size,
        }
    }
}

/// The members of one archive. Of several with the same name the last one counts, as for containerd's importer: `tar -r`
/// replaces files that way.
#[derive(Debug, Default)]
pub(super) struct Members {
    files: HashMap<Vec<u8>, BlobLocation>,
    /// Earlier files of the same name. A blob is found by its bytes, so a later file with its name does not hide it.
    replaced: HashMap<Vec<u8>, Vec<BlobLocation>>,
    /// Links: name and target.
    symlinks: HashMap<Vec<u8>, Vec<u8>>,
    hard_links: HashMap<Vec<u8>, Vec<u8>>,
    count: usize,
}

/// Which one counts if a file and a symbolic link have the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// The file: in an OCI layout, where the importer knows no links.
    Files,
    /// The link: in an archive of `docker save`, where the importer resolves links after it has read all files (containerd
    /// `core/images/archive/importer.go`).
    Links,
}

/// The headers of a member.
#[derive(Debug)]
pub(super) struct Head {
    /// Bytes of all its headers.
    pub(super) head: u64,
    /// Bytes of its content, without padding.
    pub(super) size: u64,
    name: Vec<u8>,
    link: Option<Link>,
    pub(super) is_file: bool,
}

/// The target of a link.
#[derive(Debug)]
enum Link {
    Symbolic(Vec<u8>),
    Hard(Vec<u8>),
}

impl Head {
    /// The padding of its last block, in bytes.
    pub(super) fn padding(&self) -> u64 {
        padding(self.size) as u64
    }

    /// Its name, cleaned as by Go's `path.Clean`.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }
}

/// What follows the end of a member.
#[derive(Debug)]
pub(super) enum Step {
    /// Unknown yet: so many bytes are needed, counted from that end.
    More(usize),
    Member(Head),
    /// Something that is no member, of this length.
    Skip(u64),
    End,
}

/// Parses the headers at the beginning of `bytes`.
pub(super) fn step(bytes: &[u8]) -> Result<Step, String> {
    check_numbers(bytes)?;
    let limits = Limits { max_path_len: Some(MAX_NAME), ..Limits::default() };
    let (head, entry) = match Parser::new(limits).parse(bytes).map_err(|error| error.to_string())? {
        ParseEvent::NeedData { min_bytes } => return Ok(Step::More(min_bytes.max(bytes.len() + 1))),
        ParseEvent::Entry { consumed, entry } => (consumed as u64, entry),
        ParseEvent::SparseEntry { entry, .. } => {
            return Err(format!("`{}` is a sparse file, which no image archive has", entry.path_lossy()));
        }
        ParseEvent::GlobalExtensions { consumed, .. } => return Ok(Step::Skip(consumed as u64)),
        ParseEvent::End { .. } => return Ok(Step::End),
    };
    let name = clean(&entry.path);
    let target = entry.link_target.as_deref().unwrap_or_default();
    let link = if entry.is_symlink() {
        let folder = name.iter().rposition(|&byte| byte == b'/').map_or(&[][..], |at| &name[..at]);
        Some(Link::Symbolic(clean(&[folder, b"/", target].concat()).split_off(usize::from(folder.is_empty()))))
    } else {
        entry.is_hard_link().then(|| Link::Hard(clean(target)))
    };
    let is_file = entry.is_file();
    if !is_file && entry.size != 0 {
        return Err(format!("`{}` has content and is no file", entry.path_lossy()));
    }
    // File systems count in signed 64 bits.
    if entry.size > i64::MAX as u64 - BLOCK as u64 {
        return Err(format!("`{}` says that it has {} bytes", entry.path_lossy(), entry.size));
    }
    Ok(Step::Member(Head { head, size: entry.size, name, link, is_file }))
}

impl Members {
    /// Finds every member of `file`; only headers are read. Blocks.
    pub(super) fn of(file: &Arc<File>) -> Result<Self, String> {
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let (mut members, mut at, mut bytes) = (Self::default(), 0_u64, Vec::new());
        let mut needed = BLOCK;
        loop {
            let have = bytes.len();
            let left = usize::try_from(length - at).unwrap_or(usize::MAX);
            bytes.resize(needed.min(left), 0);
            file.read_exact_at(&mut bytes[have..], at + have as u64).map_err(|error| error.to_string())?;
            if bytes.len() < needed {
                // Every reader accepts an archive without the zeros at its end.
                return if bytes.iter().all(|&byte| byte == 0) { Ok(members) } else { Err(cut_off(at)) };
            }
            let size = match step(&bytes).map_err(|reason| format!("at byte {at}: {reason}"))? {
                Step::More(more) => {
                    needed = more;
                    continue;
                }
                Step::End => return Ok(members),
                Step::Skip(size) => size,
                Step::Member(head) => {
                    let (offset, size, padding) = (at + head.head, head.size, head.padding());
                    if size > length.saturating_sub(offset) {
                        return Err(cut_off(at));
                    }
                    members.add(head, |size| BlobLocation::File { file: file.clone(), offset, size })?;
                    // The last padding may be missing.
                    (offset + size + padding).min(length) - at
                }
            };
            at += size;
            bytes.clear();
            needed = BLOCK;
        }
    }

    /// Adds a member; `location` gives the place of its bytes if it is a file.
    pub(super) fn add(&mut self, head: Head, location: impl FnOnce(u64) -> BlobLocation) -> Result<(), String> {
        if self.count == MAX_MEMBERS {
            return Err(format!("it has more than {MAX_MEMBERS} files"));
        }
        self.count += 1;
        let Head { name, size, link, is_file, .. } = head;
        match link {
            Some(Link::Symbolic(target)) => drop(self.symlinks.insert(name, target)),
            Some(Link::Hard(target)) => drop(self.hard_links.insert(name, target)),
            None if is_file => {
                if let Some(before) = self.files.insert(name.clone(), location(size))
                    && name.starts_with(b"blobs/")
                {
                    self.replaced.entry(name).or_default().push(before);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Finds the file `name`, following links; `None` if there is none.
    pub(super) fn find(&self, name: &str, first: First) -> Result<Option<&BlobLocation>, String> {
        let mut name = &*clean(name.as_bytes());
        for _ in 0..MAX_LINKS {
            let (file, symlink) = (self.files.get(name), self.symlinks.get(name));
            match (file, symlink) {
                (Some(location), None) => return Ok(Some(location)),
                (Some(location), Some(_)) if first == First::Files => return Ok(Some(location)),
                (_, Some(target)) => name = target,
                // The importer ignores hard links, but tar writes them for files with two names.
                (None, None) => match self.hard_links.get(name) {
                    Some(target) => name = target,
                    None => return Ok(None),
                },
            }
        }
        Err("leads from link to link without an end".to_owned())
    }

    /// The earlier files called `name`, the latest first.
    pub(super) fn replaced(&self, name: &str) -> impl Iterator<Item = &BlobLocation> {
        self.replaced.get(&clean(name.as_bytes())).into_iter().flatten().rev()
    }
}

/// The reason given for an archive that ends too early.
pub(super) fn cut_off(at: u64) -> String {
    format!("it breaks off in the file that begins at byte {at}")
}
