//! Bytes in and bytes out.

use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::error::FilterError;
use crate::tar::{BLOCK, padding};

/// The archive as it comes, in chunks of any size.
pub(super) type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Pieces shorter than this are sent together. Each piece costs a chunk header and a share of a system call.
const SMALL: usize = 4 << 10;
/// How much is sent together at most.
const TOGETHER: usize = 64 << 10;
/// An archive that ends so is cut off for every reader.
const HALF_A_HEADER: &[u8] = b"linkspan: the archive broke off here";

/// What goes on to dockerd.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// The archive is complete. Without it, it was cut off.
    End,
}

/// Where the archive stands, as dockerd reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// In a member of which so many bytes are to come; between two members both are 0.
    In { content: u64, padding: u64 },
    /// Behind its end: dockerd reads no further.
    Behind,
    /// Not certain, because another reader may understand it in another way.
    Anywhere,
}

/// The archive on its way out.
#[derive(Debug)]
pub(super) struct Output {
    pieces: mpsc::Sender<Piece>,
    small: BytesMut,
    stands: Stands,
}

impl Output {
    pub(super) fn new(pieces: mpsc::Sender<Piece>) -> Self {
        Self { pieces, small: BytesMut::new(), stands: Stands::In { content: 0, padding: 0 } }
    }

    /// Sends the headers of a member with `size` bytes of content, which are to be sent next.
    pub(super) async fn head(&mut self, head: Bytes, size: u64) -> Result<(), FilterError> {
        self.send(head).await?;
        self.stands = Stands::In { content: size, padding: padding(size) as u64 };
        Ok(())
    }

    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), FilterError> {
        if let Stands::In { content, padding } = &mut self.stands {
            let length = bytes.len() as u64;
            let of_padding = length.saturating_sub(*content);
            *content = content.saturating_sub(length);
            *padding = padding.saturating_sub(of_padding);
        }
        if bytes.len() < SMALL {
            self.small.extend_from_slice(&bytes);
            return if self.small.len() < TOGETHER { Ok(()) } else { self.flush().await };
        }
        self.flush().await?;
        self.hand_on(Piece::Bytes(bytes)).await
    }

    /// Sends what was kept back to be sent together.
    pub(super) async fn flush(&mut self) -> Result<(), FilterError> {
        if self.small.is_empty() {
            return Ok(());
        }
        let small = self.small.split().freeze();
        self.hand_on(Piece::Bytes(small)).await
    }

    pub(super) async fn end(&mut self) -> Result<(), FilterError> {
        self.flush().await?;
        self.hand_on(Piece::End).await
    }

    /// What follows is nothing that dockerd reads.
    pub(super) fn is_over(&mut self) {
        self.stands = Stands::Behind;
    }

    /// The end of the archive is not going to be sent, though all members are.
    pub(super) fn is_not_over(&mut self) {
        if self.stands == Stands::Behind {
            self.stands = Stands::In { content: 0, padding: 0 };
        }
    }

    /// What dockerd makes of what follows is not known.
    pub(super) fn is_lost(&mut self) {
        self.stands = Stands::Anywhere;
    }

    pub(super) fn stands_behind_the_end(&self) -> bool {
        self.stands == Stands::Behind
    }

    /// Ends an archive that lacks its rest, so that dockerd fails with it, in its own time, and cleans up after itself. (When
    /// its connection breaks off, its lease of a day and what that keeps stay: the request is then cancelled, and with it
    /// the release.)
    ///
    /// Where the archive stands at a place that dockerd would take for its end, half a header makes it none. Where it
    /// stands anywhere it is broken off.
    pub(super) async fn spoil(&mut self) -> Result<(), FilterError> {
        match self.stands {
            Stands::Anywhere => return Ok(()),
            Stands::In { content: 0, padding } => {
                // Less than a block.
                self.send(zeros(padding as usize)).await?;
                self.send(Bytes::from_static(HALF_A_HEADER)).await?;
            }
            Stands::In { .. } | Stands::Behind => {}
        }
        self.end().await
    }

    async fn hand_on(&self, piece: Piece) -> Result<(), FilterError> {
        self.pieces.send(piece).await.map_err(|_| FilterError::Output)
    }
}

/// The archive on its way in.
pub(super) struct Input {
    chunks: Chunks,
    rest: Bytes,
}

impl Input {
    pub(super) fn new(chunks: Chunks) -> Self {
        Self { chunks, rest: Bytes::new() }
    }

    /// The next bytes, at most `limit` of them; `None` at the end. Before it waits, it sends on what `output` keeps: nobody
    /// shall wait for bytes that are here.
    pub(super) async fn next(&mut self, limit: u64, output: &mut Output) -> Result<Option<Bytes>, FilterError> {
        while self.rest.is_empty() {
            let next = match self.chunks.next().now_or_never() {
                Some(next) => next,
                None => {
                    output.flush().await?;
                    self.chunks.next().await
                }
            };
            match next {
                Some(chunk) => self.rest = chunk.map_err(FilterError::Input)?,
                None => return Ok(None),
            }
        }
        let length = usize::try_from(limit).map_or(self.rest.len(), |limit| limit.min(self.rest.len()));
        Ok(Some(self.rest.split_to(length)))
    }

    /// Lengthens `bytes` to `length`; `false` if the archive ends before that.
    pub(super) async fn fill(
        &mut self,
        bytes: &mut BytesMut,
        length: usize,
        output: &mut Output,
    ) -> Result<bool, FilterError> {
        while bytes.len() < length {
            match self.next((length - bytes.len()) as u64, output).await? {
                Some(more) => bytes.extend_from_slice(&more),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Less than a block of them.
pub(super) fn zeros(length: usize) -> Bytes {
    Bytes::from_static(&[0; BLOCK]).slice(..length.min(BLOCK))
}
