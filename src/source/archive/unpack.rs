//! Unpacks the layout in an archive into a folder, for layouts that are no images, such as build caches.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::files::read_at;
use super::members::{BlobLocation, Members};
use super::spool::spool;
use super::{ArchiveError, BUFFER_BYTES, blocking, remark};
use crate::compression::{Compression, decompress_archive};
use crate::image::Digest;
use crate::image::layout::{INDEX_FILE, MARKER_FILE, MAX_INDEX, MAX_MARKER, blob_path};
use crate::tar::BLOCK;

/// How many bytes are copied at once.
const CHUNK: usize = 1 << 20;

/// Copies the layout in the tar archive at `path`, which may be compressed, into `folder`: its marker, its index and files that
/// are named as blobs are, and nothing else. Blobs are not verified. Returns a defect that does not keep it from being read.
///
/// # Errors
/// When the archive cannot be read or is cut off, or the folder cannot be written.
pub(crate) async fn unpack(path: &Path, folder: &Path) -> Result<Option<String>, ArchiveError> {
    let archive = path.display().to_string();
    let failed = |error| ArchiveError::Io { archive: archive.clone(), what: "cannot be opened".to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    let mut reader =
        BufReader::with_capacity(BUFFER_BYTES, tokio::fs::File::from_std(file.try_clone().map_err(failed)?));
    let is_plain = Compression::of(reader.fill_buf().await.map_err(failed)?) == Compression::None;
    let (members, remark) = if is_plain {
        let name = archive.clone();
        (blocking(&archive, move || members(&name, file)).await??, None)
    } else {
        let plain = decompress_archive(reader).await.map_err(failed)?;
        let (members, behind) = spool(&archive, plain, None).await?;
        (members, behind.map(|error| remark(&archive, &error)))
    };
    let (name, folder) = (archive.clone(), folder.to_owned());
    blocking(&archive, move || copy_members(&name, &members, &folder)).await??;
    Ok(remark)
}

/// The members of an archive that is not compressed, which has its end. Blocks.
fn members(archive: &str, file: File) -> Result<Members, ArchiveError> {
    let failed = |error| ArchiveError::Io { archive: archive.to_owned(), what: "reading it".to_owned(), error };
    let file = Arc::new(file);
    let size = file.metadata().map_err(failed)?.len();
    let (mut begin, mut end) = (Vec::new(), Vec::new());
    for (block, at) in [(&mut begin, 0), (&mut end, size.saturating_sub(BLOCK as u64))] {
        let whole = BlobLocation::File { file: file.clone(), offset: at, size: (size - at).min(BLOCK as u64) };
        block.resize(BLOCK, 0);
        let read = read_at(&whole, 0, block).map_err(failed)?;
        block.truncate(read);
    }
    let members = Members::of(&file).map_err(|reason| ArchiveError::tar(archive, &begin, reason))?;
    if end.iter().any(|byte| *byte != 0) {
        return Err(ArchiveError::tar(archive, &begin, "its end is missing".to_owned()));
    }
    Ok(members)
}

/// Blocks.
fn copy_members(archive: &str, members: &Members, folder: &Path) -> Result<(), ArchiveError> {
    for (name, location) in members.files() {
        let Some((target, limit)) = target(name) else { continue };
        if location.size() > limit {
            let reason = format!("has {} bytes; at most {limit} are read", location.size());
            return Err(ArchiveError::Member { archive: archive.to_owned(), member: target, reason });
        }
        copy(location, &folder.join(&target)).map_err(|error| ArchiveError::Io {
            archive: archive.to_owned(),
            what: format!("unpacking `{target}`"),
            error,
        })?;
    }
    Ok(())
}

/// Where the member `name` belongs, and how many bytes it may have.
fn target(name: &[u8]) -> Option<(String, u64)> {
    let name = std::str::from_utf8(name).ok()?;
    match name {
        MARKER_FILE => Some((name.to_owned(), MAX_MARKER)),
        INDEX_FILE => Some((name.to_owned(), MAX_INDEX)),
        _ => {
            let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
            let digest: Digest = format!("{algorithm}:{hex}").parse().ok()?;
            Some((blob_path(&digest), u64::MAX))
        }
    }
}

fn copy(location: &BlobLocation, path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let (mut file, mut at, mut bytes) = (File::create(path)?, 0, vec![0; CHUNK]);
    loop {
        match read_at(location, at, &mut bytes)? {
            0 => return Ok(()),
            read => file.write_all(&bytes[..read])?,
        }
        at += bytes.len() as u64;
        if at >= location.size() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_layout_has_is_unpacked() {
        let digest = Digest::sha256(b"x");
        let blob = blob_path(&digest);
        assert_eq!(target(blob.as_bytes()), Some((blob.clone(), u64::MAX)));
        assert_eq!(target(b"index.json").map(|(name, _)| name).as_deref(), Some("index.json"));
        for other in ["blobs/sha256/../../etc", "blobs/md5/00", "etc/passwd", "ingest/x", "blobs/sha256", "/index.json"]
        {
            assert_eq!(target(other.as_bytes()), None, "{other}");
        }
    }
}
