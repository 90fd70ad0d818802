//! A client's `:authority`, made one that HTTP/2 servers of Rust take.
//!
//! On a unix socket there is no host to name, and gRPC's libraries put other things there: C core (Python, C++, Ruby,
//! PHP) the percent-encoded path of the socket, Java the path, others nothing. Go's servers never look at it; h2 resets
//! every such call with PROTOCOL_ERROR, and has no option for it (hyperium/h2#487, open since 2020). [`AuthorityRewriter`] stands
//! between the connection and h2 and writes `localhost`, as gRPC's Go clients do, wherever h2 would refuse what the
//! client sent. All else passes as the bytes that it came in.
//!
//! The whole of HPACK is not needed for that. Fields are only walked over (`block`): what is replaced is left out of the
//! table that client and server share, and the indices of what is older are lowered by it. So nothing is decoded but the
//! authority itself, and nothing is kept but one mark for each field of that table.

mod block;
mod frames;
mod huffman;
mod opening;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frames::Frames;
use opening::Opening;

/// A connection from an HTTP/2 client, on which every authority can be taken.
#[derive(Debug)]
pub struct AuthorityRewriter<S> {
    stream: S,
    frames: Frames,
    opening: Opening,
}

impl<S> AuthorityRewriter<S> {
    /// Reads from `stream` for a server that takes header lists of up to `header_list` bytes, in frames of up to
    /// `frame` bytes.
    pub fn new(stream: S, header_list: u32, frame: u32) -> Self {
        Self { stream, frames: Frames::new(header_list, frame), opening: Opening::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityRewriter<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.frames.write_into(into) || into.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let start = into.filled().len();
            match Pin::new(&mut self.stream).poll_read(context, into) {
                Poll::Ready(read) => read?,
                Poll::Pending => return self.opening.poll_late(context),
            }
            let read = &into.filled()[start..];
            self.opening.left = self.opening.left.saturating_sub(read.len());
            if read.is_empty() {
                // What is left is no whole frame; the server says what it thinks of that.
                self.frames.end();
                self.frames.write_into(into);
                return Poll::Ready(Ok(()));
            }
            // Frames that may pass are left where they were read.
            let passed = self.frames.take(read);
            into.set_filled(start + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityRewriter<S> {
    forward!(write stream);
}
