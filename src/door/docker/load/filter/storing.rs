//! New blobs, which are stored under the lease of the load instead of being sent to dockerd.
//!
//! dockerd would store the same bytes, under the digest that they have and not the one that they are named after. So it misses
//! none of them, and its import has nothing to copy. Whoever reads the archive by names gets the member from the store.

use std::future::pending;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Filter, MemberEnd, PIECE};
use crate::door::docker::load::error::FilterError;
use crate::door::docker::load::member::Member;
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestWriter};
use crate::image::{Algorithm, Digest};

/// How many blobs are committed while the archive continues. A commit waits until the blob is on the disk.
const COMMITS: usize = 1;

impl Filter<'_> {
    /// Opens a new blob for writing, if the member named after `digest` is to be stored. dockerd stores blobs under sha256 digests
    /// only.
    pub(super) async fn create(&mut self, digest: &Digest, size: u64) -> Option<Box<dyn IngestWriter>> {
        if size == 0 || digest.algorithm() != Algorithm::Sha256 {
            return None;
        }
        match self.blobs.create(size).await {
            Ok(writer) => writer,
            Err(error) => {
                self.stop_omitting(&error);
                None
            }
        }
    }

    /// Stores a member, which is thereby omitted if it is what its name says.
    pub(super) async fn store(
        &mut self,
        member: &Member,
        digest: Digest,
        head: Bytes,
        mut writer: Box<dyn IngestWriter>,
    ) -> Result<MemberEnd, FilterError> {
        self.replace(&digest).await?;
        let mut left = member.size;
        while left > 0 {
            // dockerd may have refused the load by its head alone.
            if self.output.is_closed() {
                return Err(FilterError::Output);
            }
            let Some(bytes) = self.input.next(left, self.output).await? else {
                self.output.head(head, member.size).await?;
                self.send_cut(member.size - left).await?;
                return Ok(MemberEnd::Cut);
            };
            left -= bytes.len() as u64;
            writer.write(bytes).await.map_err(FilterError::Store)?;
        }
        let stored = writer.digest().await.map_err(FilterError::Store)?;
        let commit = commit(writer, stored.clone(), member.size);
        if stored != digest {
            debug!(%digest, %stored, "a new blob in an archive is not what its name says");
            commit.await.map_err(FilterError::Store)?;
            let blob = self.blobs.find(&stored).await?;
            let blob = blob.ok_or_else(|| EngineError::Missing { digests: vec![stored] })?;
            self.output.head(head, member.size).await?;
            self.send_stored(&blob, blob.size()).await?;
            return self.pass(0, member.padding()).await;
        }
        self.commits.spawn(commit);
        self.omitted.add_new(&digest, member.size);
        self.await_commits(COMMITS).await?;
        self.skip_padding(member).await
    }

    /// Sends as many bytes as came of a blob that is cut. Their number is part of dockerd's error; what they are is not, for nobody
    /// reads a blob that is not whole.
    async fn send_cut(&mut self, mut length: u64) -> Result<(), FilterError> {
        let zeros = Bytes::from(vec![0; PIECE.min(length) as usize]);
        while length > 0 {
            let piece = zeros.slice(..PIECE.min(length) as usize);
            length -= piece.len() as u64;
            self.output.send(piece).await?;
        }
        Ok(())
    }

    /// Waits until at most `most` blobs are being committed.
    pub(super) async fn await_commits(&mut self, most: usize) -> Result<(), FilterError> {
        loop {
            let ended = match self.commits.try_join_next() {
                None if self.commits.len() > most => self.commits.join_next().await,
                ended => ended,
            };
            let Some(ended) = ended else { return Ok(()) };
            let ended = ended.unwrap_or_else(|error| {
                Err(EngineError::Protocol { operation: "committing a blob".to_owned(), reason: error.to_string() })
            });
            let (digest, size) = ended.map_err(FilterError::Store)?;
            self.blobs.stored(&digest, size).await;
        }
    }

    /// Unpacks what is new while dockerd waits for the end of the archive, unless the client leaves.
    pub(super) async fn unpack(&mut self, left: &CancellationToken) -> Result<(), FilterError> {
        let Self { input, output, blobs, .. } = self;
        output.flush().await?;
        let ahead = async {
            input.read_ahead().await;
            pending().await
        };
        let ended = tokio::select! {
            () = blobs.unpack() => return Ok(()),
            () = ahead => return Ok(()),
            () = left.cancelled() => FilterError::Left,
            () = output.closed() => FilterError::Output,
        };
        output.mark_not_ended();
        Err(ended)
    }
}

/// Commits a blob, and returns its digest and size.
async fn commit(writer: Box<dyn IngestWriter>, digest: Digest, size: u64) -> Result<(Digest, u64), EngineError> {
    let expected = Expected { digest: None, size: Some(size) };
    match writer.commit(expected).await {
        Ok((stored, size)) if stored == digest => Ok((digest, size)),
        Ok((stored, _)) => {
            let reason = format!("the store has {stored}");
            Err(EngineError::Corrupt { digest, reason })
        }
        // The engine got it from elsewhere meanwhile.
        Err(EngineError::Present { digest }) => Ok((digest, size)),
        Err(error) => Err(error),
    }
}
