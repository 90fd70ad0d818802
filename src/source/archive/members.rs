//! The files of a tar archive: where each begins and ends, whatever order they come in.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use tar_core::parse::{Limits, ParseEvent, Parser};

use crate::image::Digest;
use crate::tar::{BLOCK, check_numbers, clean, padding};

/// How many members an archive may have: an image of the most blobs that are allowed has a folder for each of them.
const MAX_MEMBERS: usize = 100_000;
/// The longest name of a member or of what a link leads to, in bytes.
const MAX_NAME: u32 = 4096;
/// The longest way from link to link.
const MAX_LINKS: usize = 16;

/// Where the bytes of a file are.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// In a file, from `offset` on.
    Here { file: Arc<File>, offset: u64, size: u64 },
    /// With the one that the archive is sent to, who has them already: a blob of this digest, that begins so.
    There { size: u64, digest: Digest, mark: Vec<u8> },
}

impl Place {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Here { size, .. } | Self::There { size, .. } => *size,
        }
    }
}

/// The members of one archive. Of several with one name the last counts, as for containerd's importer: that is how `tar -r`
/// replaces a file.
#[derive(Debug, Default)]
pub(super) struct Members {
    files: HashMap<Vec<u8>, Place>,
    /// Files of which others have the name by now. Whoever looks for a blob looks for its bytes, whatever follows them.
    replaced: HashMap<Vec<u8>, Vec<Place>>,
    /// What leads to another member.
    symlinks: HashMap<Vec<u8>, Vec<u8>>,
    hard_links: HashMap<Vec<u8>, Vec<u8>>,
    count: usize,
}

/// What a name stands for if it is that of a file and of a symbolic link, whichever came last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// In an OCI layout, where the importer knows no links.
    Files,
    /// In an archive of `docker save`, where it resolves them when it has seen all files (containerd
    /// `core/images/archive/importer.go`).
    Links,
}

/// The head of a member.
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

/// What a link leads to.
#[derive(Debug)]
enum Link {
    Symbolic(Vec<u8>),
    Hard(Vec<u8>),
}

impl Head {
    /// Zeros that fill its last block.
    pub(super) fn padding(&self) -> u64 {
        padding(self.size) as u64
    }

    /// Its name, with nothing in it that could be written in another way.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }
}

/// What the bytes at the border between two members are.
#[derive(Debug)]
pub(super) enum Step {
    /// Too few to tell: so many are needed, counted from the border.
    More(usize),
    Member(Head),
    /// Something that is no member, and its length.
    Skip(u64),
    End,
}

/// Reads the head that `bytes` begin with.
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
    // What lies beyond that cannot be counted in the signed numbers of file systems.
    if entry.size > i64::MAX as u64 - BLOCK as u64 {
        return Err(format!("`{}` says that it has {} bytes", entry.path_lossy(), entry.size));
    }
    Ok(Step::Member(Head { head, size: entry.size, name, link, is_file }))
}

impl Members {
    /// Finds every member of `file`, of which only the heads are read. Blocks.
    pub(super) fn of(file: &Arc<File>) -> Result<Self, String> {
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let (mut members, mut at, mut bytes) = (Self::default(), 0_u64, Vec::new());
        let mut wanted = BLOCK;
        loop {
            let have = bytes.len();
            let left = usize::try_from(length - at).unwrap_or(usize::MAX);
            bytes.resize(wanted.min(left), 0);
            file.read_exact_at(&mut bytes[have..], at + have as u64).map_err(|error| error.to_string())?;
            if bytes.len() < wanted {
                // An archive without the zeros at its end is read by everybody.
                return if bytes.iter().all(|&byte| byte == 0) { Ok(members) } else { Err(cut_off(at)) };
            }
            let size = match step(&bytes).map_err(|reason| format!("at byte {at}: {reason}"))? {
                Step::More(more) => {
                    wanted = more;
                    continue;
                }
                Step::End => return Ok(members),
                Step::Skip(size) => size,
                Step::Member(head) => {
                    let (offset, size, padding) = (at + head.head, head.size, head.padding());
                    if size > length.saturating_sub(offset) {
                        return Err(cut_off(at));
                    }
                    members.add(head, |size| Place::Here { file: file.clone(), offset, size })?;
                    // The last padding may be missing.
                    (offset + size + padding).min(length) - at
                }
            };
            at += size;
            bytes.clear();
            wanted = BLOCK;
        }
    }

    /// Takes note of a member; `place` says where its bytes are if it is a file.
    pub(super) fn add(&mut self, head: Head, place: impl FnOnce(u64) -> Place) -> Result<(), String> {
        if self.count == MAX_MEMBERS {
            return Err(format!("it has more than {MAX_MEMBERS} files"));
        }
        self.count += 1;
        let Head { name, size, link, is_file, .. } = head;
        match link {
            Some(Link::Symbolic(target)) => drop(self.symlinks.insert(name, target)),
            Some(Link::Hard(target)) => drop(self.hard_links.insert(name, target)),
            None if is_file => {
                if let Some(before) = self.files.insert(name.clone(), place(size))
                    && name.starts_with(b"blobs/")
                {
                    self.replaced.entry(name).or_default().push(before);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Where the file `name` is, through links; `None` if there is no such file.
    pub(super) fn find(&self, name: &str, first: First) -> Result<Option<&Place>, String> {
        let mut name = &*clean(name.as_bytes());
        for _ in 0..MAX_LINKS {
            let (file, symlink) = (self.files.get(name), self.symlinks.get(name));
            match (file, symlink) {
                (Some(place), None) => return Ok(Some(place)),
                (Some(place), Some(_)) if first == First::Files => return Ok(Some(place)),
                (_, Some(target)) => name = target,
                // The importer knows no hard links; tar writes them for files that have two names in a folder.
                (None, None) => match self.hard_links.get(name) {
                    Some(target) => name = target,
                    None => return Ok(None),
                },
            }
        }
        Err("leads from link to link, without an end".to_owned())
    }

    /// The other files that have the name `name`, the latest first.
    pub(super) fn replaced(&self, name: &str) -> impl Iterator<Item = &Place> {
        self.replaced.get(&clean(name.as_bytes())).into_iter().flatten().rev()
    }
}

/// What is said of an archive that ends too early.
pub(super) fn cut_off(at: u64) -> String {
    format!("it breaks off in the file that begins at byte {at}")
}
