//! An archive that can be read only once: from a pipe, or through a decompressor.
//!
//! The index, which says which of the files are needed, mostly comes last. So all files are kept in an unnamed temporary
//! file, except for large blobs that the engine has: those are skipped, and read from the engine if need be.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::members::{BlobLocation, Head, Members, Step, cut_off, step};
use super::{ArchiveError, BlobLookup, system_error};
use crate::compression::{Compression, Decompressed};
use crate::image::{Digest, Limits};
use crate::tar::BLOCK;

/// How much is copied at once.
const COPY_BYTES: usize = 256 << 10;

/// Reads the archive `name`, and whatever follows its end. An error after the end is returned beside the members, because
/// dockerd does not read that far.
pub(super) async fn spool(
    name: &str,
    mut archive: Decompressed,
    engine: Option<&dyn BlobLookup>,
) -> Result<(Members, Option<io::Error>), ArchiveError> {
    let failed = |what: &str| {
        let (archive, what) = (name.to_owned(), what.to_owned());
        move |error: io::Error| ArchiveError::Io { archive, what, error }
    };
    let broken =
        |begin: &Option<Vec<u8>>, reason| ArchiveError::tar(name, begin.as_deref().unwrap_or_default(), reason);
    let unkept = |error| {
        let (archive, folder) = (name.to_owned(), std::env::temp_dir().display().to_string());
        ArchiveError::Keeping { archive, folder, error: system_error(error) }
    };
    let kept = Arc::new(tempfile::tempfile().map_err(unkept)?);
    let mut into = tokio::fs::File::from_std(kept.try_clone().map_err(unkept)?);
    let (mut members, mut at, mut end) = (Members::default(), 0_u64, 0_u64);
    // The first header tells whether it is an archive at all.
    let (mut head, mut needed, mut begin, mut is_whole) = (Vec::new(), BLOCK, None, false);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let have = head.len();
        head.resize(needed, 0);
        let read = fill(&mut archive, &mut head[have..]).await.map_err(failed("reading it"))?;
        head.truncate(have + read);
        if begin.is_none() && (head.len() >= BLOCK || head.len() < needed) {
            begin = Some(head.clone());
            if head.is_empty() {
                return Err(ArchiveError::tar(name, &head, String::new()));
            }
        }
        if head.len() < needed {
            if head.iter().any(|&byte| byte != 0) {
                return Err(broken(&begin, cut_off(at)));
            }
            break;
        }
        match step(&head).map_err(|reason| broken(&begin, format!("at byte {at}: {reason}")))? {
            Step::More(more) => {
                needed = more;
                continue;
            }
            Step::End => {
                is_whole = true;
                break;
            }
            Step::Skip(size) => at += size,
            Step::Member(member) => {
                let there = there(&member, engine).await;
                let (keep, mut mark) = (member.is_file && there.is_none(), Vec::new());
                let mut left = member.size + member.padding();
                let mut content = member.size;
                while left > 0 {
                    let length = usize::try_from(left).unwrap_or(COPY_BYTES).min(COPY_BYTES);
                    let read = archive.read(&mut buffer[..length]).await.map_err(failed("reading it"))?;
                    if read == 0 {
                        return Err(broken(&begin, cut_off(at)));
                    }
                    left -= read as u64;
                    let useful = usize::try_from(content).unwrap_or(read).min(read);
                    content -= useful as u64;
                    if there.is_some() && mark.len() < Compression::MARK_BYTES {
                        mark.extend_from_slice(&buffer[..useful.min(Compression::MARK_BYTES - mark.len())]);
                    }
                    if keep {
                        into.write_all(&buffer[..useful]).await.map_err(unkept)?;
                    }
                }
                at += member.head + member.size + member.padding();
                let offset = end;
                end += if keep { member.size } else { 0 };
                let file = &kept;
                let location = |size| match there {
                    None => BlobLocation::File { file: file.clone(), offset, size },
                    Some(digest) => BlobLocation::Engine { size, digest, mark },
                };
                members.add(member, location).map_err(|reason| broken(&begin, reason))?;
            }
        }
        head.clear();
        needed = BLOCK;
    }
    // Read to the end: the writer of the pipe must not get SIGPIPE, and a wrong checksum must be noticed.
    let behind = loop {
        match archive.read(&mut buffer).await {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) if is_whole => break Some(error),
            Err(error) => return Err(failed("reading it")(error)),
        }
    };
    into.flush().await.map_err(unkept)?;
    Ok((members, behind))
}

/// The digest in this member's name, if the engine has that blob. A member that is small enough to be a document is kept,
/// because documents are read before anything is sent.
async fn there(member: &Head, engine: Option<&dyn BlobLookup>) -> Option<Digest> {
    let engine = engine.filter(|_| member.is_file && member.size > Limits::default().config_bytes)?;
    let name = std::str::from_utf8(member.name()).ok()?.strip_prefix("blobs/")?;
    let digest: Digest = name.replacen('/', ":", 1).parse().ok()?;
    // If the lookup fails the blob is kept: the export looks it up again.
    let size = engine.reliable_size(&digest).await.ok().flatten();
    (size == Some(member.size)).then_some(digest)
}

/// Reads until `into` is full or the archive ends.
async fn fill(archive: &mut Decompressed, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match archive.read(&mut into[filled..]).await? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
