//! Reads the members of one layer from its blob.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use tar_core::EntryType;
use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::StreamReader;

use super::limits::{Budget, PATH_BYTES, PIECES};
use super::sparse::{Piece, Sparse};
use super::{RootfsError, pax};
use crate::compression::{Decompressed, decompress};
use crate::image::{Descriptor, Digest, Hasher};
use crate::output::member::{Body, Member, Meta};
use crate::source::{Source, SourceError};
use crate::tar::{check_numbers, padding};

/// How much is decompressed at once, and the largest piece of a file.
const CHUNK_BYTES: usize = 256 << 10;
/// The zeros that holes are read as.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A layer that is being read.
pub(crate) struct Layer {
    blob: Digest,
    reader: Decompressed,
    buffer: BytesMut,
    /// Bytes of the member's content that are not yet read, and of the padding of its last block.
    content: u64,
    padding: u64,
    /// The holes, if the member has any.
    sparse: Option<Sparse>,
    budget: Budget,
    hasher: Option<Hasher>,
}

impl Layer {
    /// Opens a layer, which may be as large as `budget` has left. With `verify` its bytes are hashed for [`Layer::finish`].
    pub(super) async fn open(
        source: &dyn Source,
        blob: &Descriptor,
        budget: Budget,
        verify: Option<Hasher>,
    ) -> Result<Self, RootfsError> {
        let chunks = source.open(blob, 0).await?;
        let reader = StreamReader::new(chunks.map_err(io::Error::other));
        let failed = |error| failed(&blob.digest, error);
        let reader = decompress(reader).await.map_err(failed)?;
        let (blob, buffer) = (blob.digest.clone(), BytesMut::new());
        Ok(Self { blob, reader, buffer, content: 0, padding: 0, sparse: None, budget, hasher: verify })
    }

    /// Opens a layer that an engine has unpacked, so that its digest and size are known to be right.
    pub(crate) async fn of_engine(source: &dyn Source, blob: &Descriptor) -> Result<Self, RootfsError> {
        Self::open(source, blob, Budget::ANY, None).await
    }

    /// The next member. The rest of the previous member's content is skipped.
    pub(crate) async fn next(&mut self) -> Result<Option<Member>, RootfsError> {
        // Holes need not be read.
        self.sparse = None;
        while self.data().await?.is_some() {}
        while self.padding > 0 {
            if self.buffer.is_empty() && self.fill().await? == 0 {
                // The last padding may be missing, as for Go's reader.
                return Ok(None);
            }
            self.padding -= self.take(self.padding).len() as u64;
        }
        loop {
            let limits =
                Limits { max_path_len: Some(PATH_BYTES as u32 + 1), max_sparse_entries: PIECES, ..Limits::default() };
            let mut parser = Parser::new(limits);
            // `tar-core` has no times before 1970; `pax` checks the other records that it skips.
            parser.set_ignore_pax_errors(true);
            check_numbers(&self.buffer).map_err(|reason| self.wrong(reason))?;
            let (consumed, member) = match parser.parse(&self.buffer) {
                Err(error) => return Err(self.wrong(error.to_string())),
                Ok(ParseEvent::NeedData { min_bytes }) => {
                    if self.fill_to(min_bytes.max(self.buffer.len() + 1)).await? {
                        continue;
                    }
                    return Ok(None);
                }
                Ok(ParseEvent::End { .. }) => return Ok(None),
                // Global headers set defaults, which containerd ignores as well.
                Ok(ParseEvent::GlobalExtensions { consumed, .. }) => (consumed, None),
                Ok(ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size }) => {
                    let sparse = Sparse::new(sparse_map, real_size, entry.size);
                    let wrong = |reason| format!("`{}` is a sparse file, and {reason}", entry.path_lossy());
                    let sparse = sparse.map_err(|reason| self.wrong(wrong(reason)))?;
                    let member = member(&entry, real_size).map_err(|reason| self.wrong(reason))?;
                    if !matches!(member.body, Body::File { .. }) {
                        return Err(self.wrong(wrong("no file")));
                    }
                    (consumed, Some((member, entry.size, Some(sparse))))
                }
                Ok(ParseEvent::Entry { consumed, entry }) => {
                    let member = member(&entry, entry.size).map_err(|reason| self.wrong(reason))?;
                    // Only files have content, whatever the header says (Go's `archive/tar`, `isHeaderOnly`).
                    let size = if let Body::File { size } = member.body { size } else { 0 };
                    (consumed, Some((member, size, None)))
                }
            };
            let _ = self.buffer.split_to(consumed);
            if let Some((member, size, sparse)) = member {
                (self.content, self.sparse) = (size, sparse);
                // The sum does not overflow: the size was checked above.
                self.padding = padding(size) as u64;
                return Ok(Some(member));
            }
        }
    }

    /// The next piece of the member's content; `None` after the last.
    pub(super) async fn data(&mut self) -> Result<Option<Bytes>, RootfsError> {
        let length = match self.sparse.as_mut().map(|sparse| (sparse.next(), sparse)) {
            None => self.content,
            Some((None, _)) => 0,
            Some((Some(Piece::Stored(length)), _)) => length,
            Some((Some(Piece::Zeros(length)), sparse)) => {
                let length = length.min(ZEROS.len() as u64);
                sparse.advance(length);
                return Ok(Some(Bytes::from_static(&ZEROS[..usize::try_from(length).unwrap_or_default()])));
            }
        };
        if length == 0 {
            return Ok(None);
        }
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Err(self.wrong("it breaks off within a file".to_owned()));
        }
        let data = self.take(length);
        self.content -= data.len() as u64;
        if let Some(sparse) = &mut self.sparse {
            sparse.advance(data.len() as u64);
        }
        Ok(Some(data))
    }

    /// Reads to the end and compares the digest with the diff id. Returns the rest of the budget.
    pub(super) async fn finish(mut self, expected: &Digest) -> Result<Budget, RootfsError> {
        loop {
            self.buffer.clear();
            if self.fill().await? == 0 {
                break;
            }
        }
        let actual = self.hasher.take().map(Hasher::finish);
        match actual {
            Some(actual) if actual != *expected => {
                Err(RootfsError::DiffId { layer: self.blob, expected: expected.clone(), actual })
            }
            _ => Ok(self.budget),
        }
    }

    /// At most `length` bytes of the buffer.
    fn take(&mut self, length: u64) -> Bytes {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffer.len());
        self.buffer.split_to(length).freeze()
    }

    /// Reads until the buffer has `length` bytes; `false` if the layer ends before, with nothing but zeros.
    async fn fill_to(&mut self, length: usize) -> Result<bool, RootfsError> {
        while self.buffer.len() < length {
            if self.fill().await? == 0 {
                return match self.buffer.iter().all(|&byte| byte == 0) {
                    true => Ok(false),
                    false => Err(self.wrong("it breaks off in the header of a file".to_owned())),
                };
            }
        }
        Ok(true)
    }

    /// Appends the next bytes to the buffer.
    async fn fill(&mut self) -> Result<usize, RootfsError> {
        if self.buffer.capacity() - self.buffer.len() < CHUNK_BYTES / 4 {
            self.buffer.reserve(CHUNK_BYTES);
        }
        let before = self.buffer.len();
        let length = self.reader.read_buf(&mut self.buffer).await.map_err(|error| failed(&self.blob, error))?;
        // A few compressed MiB can expand to more than any disk holds.
        self.budget.take(length as u64)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.buffer[before..]);
        }
        Ok(length)
    }

    /// An error that names this layer.
    pub(crate) fn wrong(&self, reason: String) -> RootfsError {
        RootfsError::Layer { layer: self.blob.clone(), reason }
    }
}

/// An error of the reader: the source's own, or the decompressor's.
fn failed(layer: &Digest, error: io::Error) -> RootfsError {
    match error.downcast::<SourceError>() {
        Ok(error) => error.into(),
        Err(error) => RootfsError::Layer { layer: layer.clone(), reason: error.to_string() },
    }
}

/// The member that a header describes, of `size` bytes.
fn member(entry: &ParsedEntry<'_>, size: u64) -> Result<Member, String> {
    let name = entry.path_lossy();
    pax::check(entry)?;
    let target = || {
        let target = entry.link_target.as_deref().filter(|target| !target.contains(&0));
        target.map(Box::from).ok_or_else(|| format!("`{name}` is a link without a target"))
    };
    let device = || (entry.dev_major.unwrap_or_default(), entry.dev_minor.unwrap_or_default());
    let body = match entry.entry_type {
        // Folders in the old format.
        EntryType::Regular if entry.path.ends_with(b"/") && size == 0 => Body::Folder,
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => Body::File { size },
        EntryType::Directory => Body::Folder,
        EntryType::Symlink => Body::Symlink { target: target()? },
        EntryType::Link => Body::Link { target: target()? },
        EntryType::Char => Body::Char { major: device().0, minor: device().1 },
        EntryType::Block => Body::Block { major: device().0, minor: device().1 },
        EntryType::Fifo => Body::Fifo,
        other => return Err(format!("`{name}` is of the unknown type {:?}", char::from(other.to_byte()))),
    };
    if i64::try_from(size).is_err() {
        return Err(format!("`{name}` says that it has {size} bytes"));
    }
    // To chown(2) the largest id means "unchanged".
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(id);
    let id = |number| id(number).map_err(|id| format!("`{name}` has the owner {id}, which is out of range"));
    let xattrs = entry.xattrs.iter().map(|(key, value)| {
        let key = String::from_utf8(key.to_vec()).ok().filter(|key| !key.is_empty() && !key.contains('\0'));
        let key = key.ok_or_else(|| format!("`{name}` has an extended attribute without a proper name"))?;
        Ok((key.into(), value[..].into()))
    });
    let xattrs: Vec<_> = xattrs.collect::<Result<_, String>>()?;
    let meta = Meta {
        mode: entry.mode & 0o7777,
        uid: id(entry.uid)?,
        gid: id(entry.gid)?,
        mtime: pax::mtime(entry)?,
        xattrs: (!xattrs.is_empty()).then(|| xattrs.into()),
    };
    Ok(Member { path: entry.path.to_vec(), body, meta })
}
