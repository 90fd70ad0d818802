//! The filter: an archive without the blobs that the engine holds.
//!
//! A name in an archive is only a claim, so a member is omitted only when all its bytes are equal to the engine's own
//! copy of the blob that it is named after. Then dockerd would store nothing new, however the archive continues. And as
//! soon as they differ, the whole member is sent: the bytes that were already skipped are read from the engine's copy.
//!
//! A blob that the engine lacks is stored under the lease of the load, and is from then on a blob that it holds.

mod omitting;
mod pass;
mod storing;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::blobs::EngineBlobs;
use super::error::FilterError;
use super::guard::{Denied, Guard, Watch, unclear};
use super::member::{Member, Read, read};
use super::omitted::{OmittedBlobs, Savings};
use super::pinning::{self, Pins};
use super::pipe::{Chunks, Input, Output, zeros};
use crate::engine::{EngineError, StoredBlob};
use crate::image::Digest;
use crate::tar;

/// The size of one comparison.
const PIECE: u64 = 1 << 20;
/// The largest `oci-layout` that is parsed; a usual one has 30 bytes.
const LAYOUT_BYTES: u64 = 4 << 10;
/// The limit for all headers of one member. tar-core's and our own limits stay well below.
const HEAD_BYTES: usize = 4 << 20;

/// Copies an archive from `chunks` to `output`, and omits blobs that `blobs` has. `savings` is set before dockerd can
/// know that the archive is complete.
pub(super) async fn run(
    blobs: Arc<dyn EngineBlobs>,
    watch: Watch,
    chunks: Chunks,
    output: &mut Output,
    savings: &OnceLock<Savings>,
) -> Result<(), FilterError> {
    let Watch { guard, by_index, left } = watch;
    let mut filter = Filter {
        input: Input::new(chunks),
        output,
        trusted: true,
        blobs,
        guard,
        omitted: OmittedBlobs::default(),
        pins: Pins::default(),
        commits: JoinSet::new(),
        is_layout: false,
        is_whole: false,
        buffer: Vec::new(),
    };
    let rest = filter.archive().await?;
    // The end of the archive, after which dockerd sets names, is sent only after this check.
    if let Some(guard) = &filter.guard
        && let Err(denied) = guard.check_moves(by_index && filter.is_layout).await
    {
        filter.output.mark_not_ended();
        return Err(denied.into());
    }
    if filter.is_whole {
        filter.unpack(&left).await?;
    }
    // Set only here.
    let _ = savings.set(filter.omitted.savings());
    let Filter { mut input, output, .. } = filter;
    if let Some(bytes) = rest {
        output.send(bytes).await?;
        match rest_of(&mut input, output).await {
            // dockerd has read all that it reads: errors after the archive's end do not matter.
            Err(FilterError::Input(error)) if output.is_after_end() => {
                debug!(%error, "an archive is broken behind its end");
            }
            sent => sent?,
        }
    }
    output.end().await
}

/// Copies all of `chunks` without parsing it.
pub(super) async fn pass(chunks: Chunks, output: &mut Output) -> Result<(), FilterError> {
    output.mark_position_unknown();
    rest_of(&mut Input::new(chunks), output).await?;
    output.end().await
}

async fn rest_of(input: &mut Input, output: &mut Output) -> Result<(), FilterError> {
    while let Some(bytes) = input.next(u64::MAX, output).await? {
        output.send(bytes).await?;
    }
    Ok(())
}

struct Filter<'o> {
    input: Input,
    output: &'o mut Output,
    blobs: Arc<dyn EngineBlobs>,
    guard: Option<Guard>,
    /// Whether the engine still responds as expected. Members that were omitted before that ended stay pinned.
    trusted: bool,
    omitted: OmittedBlobs,
    pins: Pins,
    /// New blobs that are being committed.
    commits: JoinSet<Result<(Digest, u64), EngineError>>,
    /// Whether dockerd will certainly read the archive as an OCI layout, by digests and not by names.
    is_layout: bool,
    /// Whether the archive is an OCI layout that came to its usual end.
    is_whole: bool,
    /// The engine's copy of the piece that is being compared.
    buffer: Vec<u8>,
}

/// The position in the archive after a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberEnd {
    /// Before its end.
    Here,
    /// At its end, which came before bytes that a header promised.
    Cut,
    /// At its end, with this many bytes of padding missing. Go's reader accepts that as a usual end.
    Unpadded(usize),
}

/// The engine's copy of a blob.
enum EngineCopy {
    /// It has the size of the member.
    Same(Arc<dyn StoredBlob>),
    Absent,
    /// The member is sent.
    Unusable,
}

impl Filter<'_> {
    /// Copies the archive up to its end, or up to where the rest passes unchanged. Returns the bytes of that rest that
    /// were already read; `None` if there is no rest.
    async fn archive(&mut self) -> Result<Option<Bytes>, FilterError> {
        loop {
            self.await_pins(false).await?;
            let mut head = BytesMut::new();
            let mut needed = tar::BLOCK;
            let what = loop {
                if !self.input.fill(&mut head, needed, self.output).await? {
                    return self.end_without_blocks(head.freeze()).await;
                }
                match read(&head) {
                    Read::More(more) if more > HEAD_BYTES => break Read::Strange("headers of more than 4 MiB"),
                    Read::More(more) => needed = more,
                    read => break read,
                }
            };
            let head = head.freeze();
            let at = match what {
                Read::Member(member) => self.member(member, head).await?,
                Read::Zeros => return self.end(head).await,
                Read::Strange(reason) if self.is_restricted() => return Err(Denied::Unreadable(reason).into()),
                Read::Strange(reason) => {
                    debug!(reason, "the rest of an archive passes as it is");
                    self.await_pins(true).await?;
                    // How dockerd reads the archive from here on is not known.
                    self.restore().await?;
                    self.output.mark_position_unknown();
                    return Ok(Some(head));
                }
                Read::More(_) => MemberEnd::Cut,
            };
            match at {
                MemberEnd::Here => {}
                MemberEnd::Cut => {
                    self.await_pins(true).await?;
                    return Ok(None);
                }
                MemberEnd::Unpadded(missing) => {
                    self.await_pins(true).await?;
                    if !self.is_layout && !self.omitted.is_empty() {
                        self.output.send(zeros(missing)).await?;
                        self.restore().await?;
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Whether the client may do less than everything.
    fn is_restricted(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_restrictive)
    }

    /// Handles an archive that ended at or within a header.
    async fn end_without_blocks(&mut self, head: Bytes) -> Result<Option<Bytes>, FilterError> {
        self.await_pins(true).await?;
        // Half a header is an error, so nothing else matters.
        if head.is_empty() && !self.is_layout {
            self.restore().await?;
        }
        self.is_whole = head.is_empty() && self.is_layout;
        Ok(Some(head))
    }

    /// The archive's end is one block of zeros, followed by another or by no bytes.
    async fn end(&mut self, first: Bytes) -> Result<Option<Bytes>, FilterError> {
        let mut blocks = BytesMut::from(first);
        let is_whole = self.input.fill(&mut blocks, 2 * tar::BLOCK, self.output).await?;
        self.await_pins(true).await?;
        let is_end = if is_whole { blocks.iter().all(|&byte| byte == 0) } else { blocks.len() == tar::BLOCK };
        if is_end && !self.is_layout {
            self.restore().await?;
        }
        self.is_whole = is_end && self.is_layout;
        if is_end {
            self.output.mark_ended();
        } else {
            self.output.mark_position_unknown();
        }
        Ok(Some(blocks.freeze()))
    }

    async fn member(&mut self, member: Member, head: Bytes) -> Result<MemberEnd, FilterError> {
        let digest = member.file.as_deref().and_then(blob);
        if let Some(digest) = digest.as_ref().filter(|_| member.plain) {
            match self.find(digest, member.size).await {
                EngineCopy::Same(blob) => return self.omit(&member, digest.clone(), head, blob).await,
                EngineCopy::Absent => {
                    if let Some(writer) = self.create(digest, member.size).await {
                        return self.store(&member, digest.clone(), head, writer).await;
                    }
                }
                EngineCopy::Unusable => {}
            }
        }
        if let Some(digest) = &digest {
            self.replace(digest).await?;
        }
        if self.guard.is_some() {
            let is_restricted = self.is_restricted();
            if let Some(link) = member.link.as_deref().filter(|name| is_restricted && Guard::concerns(name)) {
                return Err(unclear(link, "it is a link".to_owned()).into());
            }
            let is_read = is_restricted || member.size <= Guard::limit();
            if let Some(name) = member.file.as_deref().filter(|name| is_read && Guard::concerns(name)) {
                return self.pass_names(name, &member, head).await;
            }
        }
        self.output.head(head, member.size).await?;
        if member.file.as_deref() == Some(b"oci-layout") {
            return self.pass_layout(&member).await;
        }
        self.pass(member.size, member.padding()).await
    }

    /// Prepares to send a member with the name of `digest`, which replaces an omitted one. If the omitted one has to be
    /// sent after all, that must happen before.
    async fn replace(&mut self, digest: &Digest) -> Result<(), FilterError> {
        if self.omitted.remove(digest) && !self.omitted.is_pinned(digest) {
            self.await_pins(true).await?;
        }
        Ok(())
    }

    /// The engine's copy of a blob that may be omitted.
    async fn find(&mut self, digest: &Digest, size: u64) -> EngineCopy {
        if !self.trusted || self.omitted.is_full() {
            return EngineCopy::Unusable;
        }
        match self.blobs.find(digest).await {
            Ok(Some(blob)) if blob.size() == size => EngineCopy::Same(blob),
            Ok(Some(_)) => EngineCopy::Unusable,
            Ok(None) => EngineCopy::Absent,
            Err(error) => {
                self.stop_omitting(&error);
                EngineCopy::Unusable
            }
        }
    }

    fn stop_omitting(&mut self, error: &EngineError) {
        self.trusted = false;
        warn!(%error, "nothing more is left out of an archive");
    }

    async fn omit(
        &mut self,
        member: &Member,
        digest: Digest,
        head: Bytes,
        blob: Arc<dyn StoredBlob>,
    ) -> Result<MemberEnd, FilterError> {
        let is_pinned = self.omitted.is_pinned(&digest);
        if !is_pinned {
            self.pins.request(&self.blobs, &digest);
        }
        let mut offset = 0;
        while offset < member.size {
            let length = PIECE.min(member.size - offset);
            let (chunks, is_equal) = self.compare(&blob, offset, length).await?;
            let received: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
            if !is_equal {
                self.replace(&digest).await?;
                self.output.head(head, member.size).await?;
                self.send_stored(&blob, offset).await?;
                for chunk in chunks {
                    self.output.send(chunk).await?;
                }
                if received < length {
                    return Ok(MemberEnd::Cut);
                }
                debug!(%digest, "a blob in an archive is not what its name says");
                return self.pass(member.size - offset - length, member.padding()).await;
            }
            offset += length;
        }
        self.omitted.add(&digest, member.size);
        if !is_pinned {
            self.pins.add(pinning::Member { digest, head, blob });
        }
        self.skip_padding(member).await
    }

    /// Skips the padding behind a member that is omitted. Its content does not matter, and it can be missing only at the end of the
    /// archive, where without this member nothing is missing.
    async fn skip_padding(&mut self, member: &Member) -> Result<MemberEnd, FilterError> {
        let mut padding = member.padding() as u64;
        while padding > 0 {
            match self.input.next(padding, self.output).await? {
                Some(skipped) => padding -= skipped.len() as u64,
                None => break,
            }
        }
        Ok(MemberEnd::Here)
    }

    /// Receives `length` bytes, unless the archive ends, and returns whether all of them arrived and equal the engine's
    /// from `offset` on.
    async fn compare(
        &mut self,
        blob: &Arc<dyn StoredBlob>,
        offset: u64,
        length: u64,
    ) -> Result<(Vec<Bytes>, bool), FilterError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        // At most PIECE.
        buffer.resize(length as usize, 0);
        let (stored, received) =
            tokio::join!(blob.clone().read_at(offset, buffer), receive(&mut self.input, self.output, length));
        let chunks = received?;
        let is_equal = match &stored {
            Ok(stored) => is_equal(stored, &chunks),
            Err(error) => {
                self.stop_omitting(error);
                false
            }
        };
        self.buffer = stored.unwrap_or_default();
        Ok((chunks, is_equal))
    }
}

/// Receives `length` bytes, or fewer at the end.
async fn receive(input: &mut Input, output: &mut Output, length: u64) -> Result<Vec<Bytes>, FilterError> {
    let (mut chunks, mut missing) = (Vec::new(), length);
    while missing > 0 {
        let Some(chunk) = input.next(missing, output).await? else { break };
        missing -= chunk.len() as u64;
        chunks.push(chunk);
    }
    Ok(chunks)
}

fn is_equal(stored: &[u8], chunks: &[Bytes]) -> bool {
    let mut rest = stored;
    for chunk in chunks {
        match rest.split_at_checked(chunk.len()) {
            Some((stored, after)) if stored == chunk => rest = after,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// The digest that a file named `blobs/<algorithm>/<hex>` claims to have.
fn blob(name: &[u8]) -> Option<Digest> {
    let (algorithm, hex) = std::str::from_utf8(name).ok()?.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}
