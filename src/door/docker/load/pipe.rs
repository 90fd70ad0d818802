//! Bytes in and bytes out.

use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::filter::Broken;

/// The archive as it comes, in chunks of any size.
pub(super) type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Pieces shorter than this are sent together. Each piece costs a chunk header and a share of a system call.
const SMALL: usize = 4 << 10;
/// How much is sent together at most.
const TOGETHER: usize = 64 << 10;

/// What goes on to dockerd.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// The archive is complete. Without it, it was cut off.
    End,
}

/// The archive on its way out.
#[derive(Debug)]
pub(super) struct Output {
    pieces: mpsc::Sender<Piece>,
    small: BytesMut,
}

impl Output {
    pub(super) fn new(pieces: mpsc::Sender<Piece>) -> Self {
        Self { pieces, small: BytesMut::new() }
    }

    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), Broken> {
        if bytes.len() < SMALL {
            self.small.extend_from_slice(&bytes);
            return if self.small.len() < TOGETHER { Ok(()) } else { self.flush().await };
        }
        self.flush().await?;
        self.hand_on(Piece::Bytes(bytes)).await
    }

    /// Sends what was kept back to be sent together.
    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        if self.small.is_empty() {
            return Ok(());
        }
        let small = self.small.split().freeze();
        self.hand_on(Piece::Bytes(small)).await
    }

    pub(super) async fn end(mut self) -> Result<(), Broken> {
        self.flush().await?;
        self.hand_on(Piece::End).await
    }

    async fn hand_on(&self, piece: Piece) -> Result<(), Broken> {
        self.pieces.send(piece).await.map_err(|_| Broken::Output)
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
    pub(super) async fn next(&mut self, limit: u64, output: &mut Output) -> Result<Option<Bytes>, Broken> {
        while self.rest.is_empty() {
            let next = match self.chunks.next().now_or_never() {
                Some(next) => next,
                None => {
                    output.flush().await?;
                    self.chunks.next().await
                }
            };
            match next {
                Some(chunk) => self.rest = chunk.map_err(Broken::Input)?,
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
    ) -> Result<bool, Broken> {
        while bytes.len() < length {
            match self.next((length - bytes.len()) as u64, output).await? {
                Some(more) => bytes.extend_from_slice(&more),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}
