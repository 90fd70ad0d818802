//! The filter: an archive without the blobs that the engine holds.
//!
//! A name in an archive is only a claim, so a member is left out only when all its bytes are equal to the engine's own
//! copy of the blob that it is named after. Then dockerd would store nothing new, whatever the archive goes on to make of
//! it. And the moment they turn out to differ, dockerd is sent all of them: those that were read past already are
//! the first bytes of the engine's copy.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tracing::{debug, warn};

use super::blobs::EngineBlobs;
use super::guard::{Denied, Guard, Watch, unclear};
use super::layout::is_layout;
use super::ledger::{Ledger, Spared};
use super::member::{Member, Read, read};
use super::pins::{self, Pins, Settled};
use super::pipe::{Chunks, Input, Output, zeros};
use crate::engine::{EngineError, StoredBlob};
use crate::image::Digest;
use crate::tar;

/// How much is compared at once.
const PIECE: u64 = 1 << 20;
/// The largest `oci-layout` that is looked into; a usual one has 30 bytes.
const LAYOUT_BYTES: u64 = 4 << 10;
/// All headers of one member. tar-core's and our own limits keep well below.
const HEAD_BYTES: usize = 4 << 20;

/// Why an archive did not reach its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// It could not be read: the client went away, or it cannot be decompressed.
    #[error(transparent)]
    Input(io::Error),
    /// dockerd takes no more of it.
    #[error("docker reads no further")]
    Output,
    /// What was left out cannot be sent after all.
    #[error("a blob that was left out of the archive is needed and cannot be read: {0}")]
    Lost(#[from] EngineError),
    /// Policy does not let it be loaded.
    #[error(transparent)]
    Denied(#[from] Denied),
}

/// Copies an archive from `chunks` to `output`, and omits what `blobs` keeps. `spared` is set before dockerd can know
/// that the archive is complete.
pub(super) async fn run(
    blobs: Arc<dyn EngineBlobs>,
    watch: Watch,
    chunks: Chunks,
    output: &mut Output,
    spared: &OnceLock<Spared>,
) -> Result<(), Broken> {
    let Watch { guard, by_index } = watch;
    let mut filter = Filter {
        input: Input::new(chunks),
        output,
        trusted: true,
        blobs,
        guard,
        ledger: Ledger::default(),
        pins: Pins::default(),
        is_layout: false,
        buffer: Vec::new(),
    };
    let rest = filter.archive().await?;
    // The end of the archive comes after this, and dockerd's names with that.
    if let Some(guard) = &filter.guard
        && let Err(denied) = guard.settle(by_index && filter.is_layout).await
    {
        filter.output.is_not_over();
        return Err(denied.into());
    }
    // Set once, here.
    let _ = spared.set(filter.ledger.spared());
    let Filter { mut input, output, .. } = filter;
    if let Some(bytes) = rest {
        output.send(bytes).await?;
        match rest_of(&mut input, output).await {
            // dockerd has read all that it reads: what is wrong behind the end is wrong for nobody.
            Err(Broken::Input(error)) if output.stands_behind_the_end() => {
                debug!(%error, "an archive is broken behind its end");
            }
            sent => sent?,
        }
    }
    output.end().await
}

/// Copies what comes from `chunks`, whatever it is.
pub(super) async fn pass(chunks: Chunks, output: &mut Output) -> Result<(), Broken> {
    output.is_lost();
    rest_of(&mut Input::new(chunks), output).await?;
    output.end().await
}

async fn rest_of(input: &mut Input, output: &mut Output) -> Result<(), Broken> {
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
    /// Whether the engine answers as it should. What was left out before that ended stays pinned.
    trusted: bool,
    ledger: Ledger,
    pins: Pins,
    /// Whether dockerd is certain to take the archive for an OCI layout, which it reads by digests and not by names.
    is_layout: bool,
    /// The engine's copy of the piece that is compared.
    buffer: Vec<u8>,
}

/// Where the archive is after some of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Still going on.
    Here,
    /// At its end, short of bytes that a header promised.
    Cut,
    /// At its end, with so many bytes missing that are only padding. Go's reader takes that for a usual end.
    Unpadded(usize),
}

impl Filter<'_> {
    /// Copies the archive up to its end, or to where the rest of it passes as it is. What was read of that already is
    /// the result; `None` if there is no more.
    async fn archive(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            self.settle(false).await?;
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
                Read::Strange(reason) if self.guard.is_some() => return Err(Denied::Unreadable(reason).into()),
                Read::Strange(reason) => {
                    debug!(reason, "the rest of an archive passes as it is");
                    self.settle(true).await?;
                    // What dockerd makes of the archive from here on we cannot tell.
                    self.restore().await?;
                    self.output.is_lost();
                    return Ok(Some(head));
                }
                Read::More(_) => At::Cut,
            };
            match at {
                At::Here => {}
                At::Cut => {
                    self.settle(true).await?;
                    return Ok(None);
                }
                At::Unpadded(missing) => {
                    self.settle(true).await?;
                    if !self.is_layout && !self.ledger.is_empty() {
                        self.output.send(zeros(missing)).await?;
                        self.restore().await?;
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// The archive ended where a header may be, or within it.
    async fn end_without_blocks(&mut self, head: Bytes) -> Result<Option<Bytes>, Broken> {
        self.settle(true).await?;
        // Half a header is an error, and then nothing else counts.
        if head.is_empty() && !self.is_layout {
            self.restore().await?;
        }
        Ok(Some(head))
    }

    /// The archive's end is announced by one block of zeros, and there if it is followed by another or by nothing.
    async fn end(&mut self, first: Bytes) -> Result<Option<Bytes>, Broken> {
        let mut blocks = BytesMut::from(first);
        let is_whole = self.input.fill(&mut blocks, 2 * tar::BLOCK, self.output).await?;
        self.settle(true).await?;
        let is_end = if is_whole { blocks.iter().all(|&byte| byte == 0) } else { blocks.len() == tar::BLOCK };
        if is_end && !self.is_layout {
            self.restore().await?;
        }
        if is_end {
            self.output.is_over();
        } else {
            self.output.is_lost();
        }
        Ok(Some(blocks.freeze()))
    }

    async fn member(&mut self, member: Member, head: Bytes) -> Result<At, Broken> {
        let digest = member.file.as_deref().and_then(blob);
        if let Some(digest) = digest.as_ref().filter(|_| member.plain)
            && let Some(blob) = self.find(digest, member.size).await
        {
            return self.leave_out(&member, digest.clone(), head, blob).await;
        }
        if let Some(digest) = &digest {
            self.replace(digest).await?;
        }
        if self.guard.is_some() {
            if let Some(link) = member.link.as_deref().filter(|name| Guard::concerns(name)) {
                return Err(unclear(link, "it is a link".to_owned()).into());
            }
            if let Some(name) = member.file.as_deref().filter(|name| Guard::concerns(name)) {
                return self.pass_names(name, &member, head).await;
            }
        }
        self.output.head(head, member.size).await?;
        if member.file.as_deref() == Some(b"oci-layout") {
            return self.pass_layout(&member).await;
        }
        self.pass(member.size, member.padding()).await
    }

    /// A member with the name of `digest` is about to be sent: it takes the place of one that was left out. Should that one
    /// have to be sent after all, it must be sent before.
    async fn replace(&mut self, digest: &Digest) -> Result<(), Broken> {
        if self.ledger.remove(digest) && !self.ledger.is_pinned(digest) {
            self.settle(true).await?;
        }
        Ok(())
    }

    /// The engine's copy of a blob, if it can be left out.
    async fn find(&mut self, digest: &Digest, size: u64) -> Option<Arc<dyn StoredBlob>> {
        if !self.trusted || self.ledger.is_full() {
            return None;
        }
        match self.blobs.find(digest).await {
            Ok(found) => found.filter(|blob| blob.size() == size),
            Err(error) => {
                self.mistrust(&error);
                None
            }
        }
    }

    fn mistrust(&mut self, error: &EngineError) {
        self.trusted = false;
        warn!(%error, "nothing more is left out of an archive");
    }

    async fn leave_out(
        &mut self,
        member: &Member,
        digest: Digest,
        head: Bytes,
        blob: Arc<dyn StoredBlob>,
    ) -> Result<At, Broken> {
        let is_pinned = self.ledger.is_pinned(&digest);
        if !is_pinned {
            self.pins.want(&self.blobs, &digest);
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
                    return Ok(At::Cut);
                }
                debug!(%digest, "a blob in an archive is not what its name says");
                return self.pass(member.size - offset - length, member.padding()).await;
            }
            offset += length;
        }
        self.ledger.add(&digest, member.size);
        if !is_pinned {
            self.pins.add(pins::Member { digest, head, blob });
        }
        // What the padding is made of matters to nobody, and that it is missing only at the end of the archive, where
        // nothing is missing without this member.
        let mut padding = member.padding() as u64;
        while padding > 0 {
            match self.input.next(padding, self.output).await? {
                Some(skipped) => padding -= skipped.len() as u64,
                None => break,
            }
        }
        Ok(At::Here)
    }

    /// Receives `length` bytes, unless the archive ends, and says whether all of them are there and equal to the
    /// engine's from `offset` on.
    async fn compare(
        &mut self,
        blob: &Arc<dyn StoredBlob>,
        offset: u64,
        length: u64,
    ) -> Result<(Vec<Bytes>, bool), Broken> {
        let mut buffer = std::mem::take(&mut self.buffer);
        // At most PIECE.
        buffer.resize(length as usize, 0);
        let (stored, received) =
            tokio::join!(blob.clone().read_at(offset, buffer), receive(&mut self.input, self.output, length));
        let chunks = received?;
        let is_equal = match &stored {
            Ok(stored) => is_equal(stored, &chunks),
            Err(error) => {
                self.mistrust(error);
                false
            }
        };
        self.buffer = stored.unwrap_or_default();
        Ok((chunks, is_equal))
    }

    /// Sends the first `length` bytes of the engine's copy.
    async fn send_stored(&mut self, blob: &Arc<dyn StoredBlob>, length: u64) -> Result<(), Broken> {
        let mut offset = 0;
        while offset < length {
            let piece = PIECE.min(length - offset);
            // Its own buffer, because it is handed on.
            let bytes = blob.clone().read_at(offset, vec![0; piece as usize]).await?;
            self.output.send(bytes.into()).await?;
            offset += piece;
        }
        Ok(())
    }

    /// Sends everything that was left out: dockerd finds files by their names where there is no OCI layout (containerd
    /// `core/images/archive/importer.go`, `ImportIndex`).
    async fn restore(&mut self) -> Result<(), Broken> {
        for (digest, size) in self.ledger.take() {
            let blob = self.blobs.find(&digest).await?.filter(|blob| blob.size() == size);
            let blob = blob.ok_or_else(|| EngineError::Missing { digests: vec![digest.clone()] })?;
            let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
            self.output.head(tar::member(&name, size), size).await?;
            self.send_stored(&blob, size).await?;
            self.output.send(zeros(tar::padding(size))).await?;
        }
        Ok(())
    }

    /// Sends what turned out not to be pinned, between two members. With `all` it waits until that is known of every
    /// member that was left out.
    async fn settle(&mut self, all: bool) -> Result<(), Broken> {
        while self.pins.is_due() || (all && !self.pins.is_idle()) {
            let Settled { pinned, lost, error } = self.pins.settle(&self.blobs).await;
            for digest in pinned {
                self.ledger.pinned(digest);
            }
            if let Some(error) = &error {
                self.mistrust(error);
            }
            for pins::Member { digest, head, blob } in lost {
                debug!(%digest, "a blob was removed before it was pinned, and is sent");
                self.ledger.remove(&digest);
                self.output.head(head, blob.size()).await?;
                self.send_stored(&blob, blob.size()).await?;
                self.output.send(zeros(tar::padding(blob.size()))).await?;
            }
        }
        Ok(())
    }

    async fn pass(&mut self, mut size: u64, padding: usize) -> Result<At, Broken> {
        while size > 0 {
            match self.input.next(size, self.output).await? {
                Some(bytes) => {
                    size -= bytes.len() as u64;
                    self.output.send(bytes).await?;
                }
                None => return Ok(At::Cut),
            }
        }
        let mut missing = padding;
        while missing > 0 {
            match self.input.next(missing as u64, self.output).await? {
                Some(bytes) => {
                    missing -= bytes.len();
                    self.output.send(bytes).await?;
                }
                None => return Ok(At::Unpadded(missing)),
            }
        }
        Ok(At::Here)
    }

    /// Passes a file that names images, when it has been looked at.
    async fn pass_names(&mut self, name: &[u8], member: &Member, head: Bytes) -> Result<At, Broken> {
        if member.size > Guard::limit() {
            return Err(unclear(name, format!("it has more than {} bytes", Guard::limit())).into());
        }
        let mut text = BytesMut::new();
        // At most the limit.
        let is_whole = self.input.fill(&mut text, member.size as usize, self.output).await?;
        if let Some(guard) = self.guard.as_mut().filter(|_| is_whole) {
            guard.look(name, &text)?;
        }
        self.output.head(head, member.size).await?;
        self.output.send(text.freeze()).await?;
        if is_whole { self.pass(0, member.padding()).await } else { Ok(At::Cut) }
    }

    /// Passes a file named `oci-layout`, the last of which decides.
    async fn pass_layout(&mut self, member: &Member) -> Result<At, Broken> {
        self.is_layout = false;
        if member.size > LAYOUT_BYTES {
            return self.pass(member.size, member.padding()).await;
        }
        let mut text = BytesMut::new();
        // At most LAYOUT_BYTES.
        let is_whole = self.input.fill(&mut text, member.size as usize, self.output).await?;
        self.is_layout = is_whole && member.plain && is_layout(&text);
        self.output.send(text.freeze()).await?;
        if is_whole { self.pass(0, member.padding()).await } else { Ok(At::Cut) }
    }
}

/// Receives `length` bytes, or what there is.
async fn receive(input: &mut Input, output: &mut Output, length: u64) -> Result<Vec<Bytes>, Broken> {
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

#[cfg(test)]
mod tests;
