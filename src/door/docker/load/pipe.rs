//! The input and output of the filter.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::error::FilterError;
use crate::tar::{BLOCK, padding};

/// The archive as it is received, in chunks of any size.
pub(super) type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Pieces shorter than this are merged. Each piece costs a chunk header and a share of a system call.
const SMALL: usize = 4 << 10;
/// The size from which merged pieces are sent.
const TOGETHER: usize = 64 << 10;
/// How much is read before it is wanted: more than what is usual behind the end of an archive, which are 10 KiB of zeros.
const AHEAD: usize = 64 << 10;
/// An archive that ends with these bytes is truncated for every reader.
const HALF_A_HEADER: &[u8] = b"linkspan: the archive broke off here";

/// A piece of dockerd's request body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// The archive is complete. Without it, it is truncated.
    End,
}

/// The position in the archive, as dockerd reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArchivePosition {
    /// In a member with so many bytes left; between two members both are 0.
    InMember { content: u64, padding: u64 },
    /// After its end: dockerd reads no further.
    AfterEnd,
    /// Not known, because another reader may read the archive differently.
    Unknown,
}

/// The archive that is sent.
#[derive(Debug)]
pub(super) struct Output {
    pieces: mpsc::Sender<Piece>,
    small: BytesMut,
    position: ArchivePosition,
}

impl Output {
    pub(super) fn new(pieces: mpsc::Sender<Piece>) -> Self {
        Self { pieces, small: BytesMut::new(), position: ArchivePosition::InMember { content: 0, padding: 0 } }
    }

    /// Sends the headers of a member; its `size` bytes of content must follow.
    pub(super) async fn head(&mut self, head: Bytes, size: u64) -> Result<(), FilterError> {
        self.send(head).await?;
        self.position = ArchivePosition::InMember { content: size, padding: padding(size) as u64 };
        Ok(())
    }

    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), FilterError> {
        if let ArchivePosition::InMember { content, padding } = &mut self.position {
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
        self.send_piece(Piece::Bytes(bytes)).await
    }

    /// Sends the pieces that were merged.
    pub(super) async fn flush(&mut self) -> Result<(), FilterError> {
        if self.small.is_empty() {
            return Ok(());
        }
        let small = self.small.split().freeze();
        self.send_piece(Piece::Bytes(small)).await
    }

    pub(super) async fn end(&mut self) -> Result<(), FilterError> {
        self.flush().await?;
        self.send_piece(Piece::End).await
    }

    /// Marks that dockerd reads none of the bytes that follow.
    pub(super) fn mark_ended(&mut self) {
        self.position = ArchivePosition::AfterEnd;
    }

    /// Marks that the end of the archive will not be sent, although all members were.
    pub(super) fn mark_not_ended(&mut self) {
        if self.position == ArchivePosition::AfterEnd {
            self.position = ArchivePosition::InMember { content: 0, padding: 0 };
        }
    }

    /// Marks that the position is no longer known.
    pub(super) fn mark_position_unknown(&mut self) {
        self.position = ArchivePosition::Unknown;
    }

    pub(super) fn is_after_end(&self) -> bool {
        self.position == ArchivePosition::AfterEnd
    }

    /// Ends an incomplete archive so that dockerd fails with it, in its own time, and cleans up. (If its connection
    /// closed, its lease of a day and the content under it would stay: the request is then cancelled, and with it the
    /// release.)
    ///
    /// Between two members, which dockerd might take for the archive's end, half a header is sent. If the position is
    /// not known, the connection's write side is closed instead.
    pub(super) async fn truncate(&mut self) -> Result<(), FilterError> {
        match self.position {
            ArchivePosition::Unknown => return Ok(()),
            ArchivePosition::InMember { content: 0, padding } => {
                // Less than a block.
                self.send(zeros(padding as usize)).await?;
                self.send(Bytes::from_static(HALF_A_HEADER)).await?;
            }
            ArchivePosition::InMember { .. } | ArchivePosition::AfterEnd => {}
        }
        self.end().await
    }

    /// Waits until dockerd reads no further.
    pub(super) async fn closed(&self) {
        self.pieces.closed().await;
    }

    /// Whether dockerd reads no further.
    pub(super) fn is_closed(&self) -> bool {
        self.pieces.is_closed()
    }

    async fn send_piece(&self, piece: Piece) -> Result<(), FilterError> {
        self.pieces.send(piece).await.map_err(|_| FilterError::Output)
    }
}

/// The archive that is received.
pub(super) struct Input {
    chunks: Chunks,
    rest: Bytes,
    /// What was read before it was wanted.
    ahead: VecDeque<io::Result<Bytes>>,
    has_ended: bool,
}

impl Input {
    pub(super) fn new(chunks: Chunks) -> Self {
        Self { chunks, rest: Bytes::new(), ahead: VecDeque::new(), has_ended: false }
    }

    /// Reads on before more is wanted, up to the end or a limit: only whoever reads notices that the client has left.
    pub(super) async fn read_ahead(&mut self) {
        let mut length = 0;
        while length < AHEAD && !self.has_ended {
            let next = self.chunks.next().await;
            length += next.iter().flatten().map(Bytes::len).sum::<usize>();
            self.has_ended = !matches!(next, Some(Ok(_)));
            self.ahead.extend(next);
        }
    }

    /// The next bytes, at most `limit` of them; `None` at the end. Before it waits, it flushes `output`, so that bytes
    /// already received are not delayed.
    pub(super) async fn next(&mut self, limit: u64, output: &mut Output) -> Result<Option<Bytes>, FilterError> {
        while self.rest.is_empty() {
            let next = match self.ahead.pop_front() {
                None if self.has_ended => None,
                None => match self.chunks.next().now_or_never() {
                    Some(next) => next,
                    None => {
                        output.flush().await?;
                        self.chunks.next().await
                    }
                },
                next => next,
            };
            match next {
                Some(chunk) => self.rest = chunk.map_err(FilterError::Input)?,
                None => return Ok(None),
            }
        }
        let length = usize::try_from(limit).map_or(self.rest.len(), |limit| limit.min(self.rest.len()));
        Ok(Some(self.rest.split_to(length)))
    }

    /// Extends `bytes` to `length`; `false` if the archive ends before that.
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

/// Zeros, less than a block of them.
pub(super) fn zeros(length: usize) -> Bytes {
    Bytes::from_static(&[0; BLOCK]).slice(..length.min(BLOCK))
}
