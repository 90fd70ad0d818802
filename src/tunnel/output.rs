//! The streams of a process in a container as one byte stream: reads its standard output, writes its standard input.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::sync::mpsc;

use super::stdcopy::{HEADER, Header, Stream};

/// The size of the read buffer. dockerd sends up to 32 KiB in a frame; reading header and payload in one system call is
/// worth a copy.
const BUFFER_BYTES: usize = 64 << 10;

/// How much of dockerd's message about a failure is kept.
const MAX_SYSTEM_BYTES: usize = 4 << 10;

/// The most chunks of standard error that are queued, each of at most 64 KiB; more are dropped. A client that does not
/// read must not block a stream that others share.
pub const MAX_ERRORS_WAITING: usize = 16;

/// The channel that standard error is sent to.
pub type Errors = mpsc::Sender<Bytes>;

/// The demultiplexed streams of a process.
#[derive(Debug)]
pub struct Output<S> {
    stream: BufReader<S>,
    state: FramePart,
    errors: Option<Errors>,
    /// dockerd's message about a failure, so far.
    system: Vec<u8>,
}

#[derive(Debug)]
enum FramePart {
    Header { bytes: [u8; HEADER], read: usize },
    Payload { stream: Stream, left: usize },
}

const NEXT: FramePart = FramePart::Header { bytes: [0; HEADER], read: 0 };

impl<S: AsyncRead> Output<S> {
    /// Reads frames from `stream`, and sends standard error to `errors`.
    pub fn new(stream: S, errors: Option<Errors>) -> Self {
        Self { stream: BufReader::with_capacity(BUFFER_BYTES, stream), state: NEXT, errors, system: Vec::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Output<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let FramePart::Payload { left: 0, stream } = this.state {
                if stream == Stream::System {
                    return Poll::Ready(Err(io::Error::other(String::from_utf8_lossy(&this.system).trim().to_owned())));
                }
                this.state = NEXT;
            }
            let there = ready!(Pin::new(&mut this.stream).poll_fill_buf(context))?;
            if there.is_empty() {
                // Like dockerd's own reader, treats an end within a frame as the end.
                return Poll::Ready(Ok(()));
            }
            let (used, done) = match &mut this.state {
                FramePart::Header { bytes, read } => {
                    let used = there.len().min(HEADER - *read);
                    bytes[*read..*read + used].copy_from_slice(&there[..used]);
                    *read += used;
                    if *read == HEADER {
                        let header =
                            Header::read(*bytes).map_err(|it| io::Error::new(io::ErrorKind::InvalidData, it))?;
                        this.state = FramePart::Payload { stream: header.stream, left: header.length as usize };
                    }
                    (used, false)
                }
                FramePart::Payload { stream, left } => {
                    let mut used = there.len().min(*left);
                    match stream {
                        Stream::Output => {
                            used = used.min(into.remaining());
                            into.put_slice(&there[..used]);
                        }
                        Stream::Error => {
                            if let Some(errors) = &this.errors {
                                // The queue is full, or the receiver is gone.
                                let _ = errors.try_send(Bytes::copy_from_slice(&there[..used]));
                            }
                        }
                        Stream::System => {
                            let room = MAX_SYSTEM_BYTES.saturating_sub(this.system.len());
                            this.system.extend_from_slice(&there[..used.min(room)]);
                        }
                    }
                    *left -= used;
                    (used, *stream == Stream::Output)
                }
            };
            Pin::new(&mut this.stream).consume(used);
            if done {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Output<S> {
    forward!(write stream);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(stream: Stream, payload: &[u8]) -> Vec<u8> {
        [&Header { stream, length: payload.len() as u32 }.write()[..], payload].concat()
    }

    /// Reads frames that arrive in pieces of `piece` bytes.
    async fn read(frames: &[u8], piece: usize) -> (io::Result<String>, String) {
        let mut builder = pieces(frames, piece);
        let (errors, mut stderr) = mpsc::channel(MAX_ERRORS_WAITING);
        let mut text = String::new();
        let result = Output::new(&mut builder, Some(errors)).read_to_string(&mut text).await;
        let mut written = Vec::new();
        while let Some(bytes) = stderr.recv().await {
            written.extend_from_slice(&bytes);
        }
        (result.map(|_| text), String::from_utf8(written).unwrap())
    }

    fn pieces(bytes: &[u8], piece: usize) -> impl AsyncRead + Unpin + use<> {
        let pieces: Vec<_> =
            bytes.chunks(piece).map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece))).collect();
        tokio_util::io::StreamReader::new(futures_util::stream::iter(pieces))
    }

    #[tokio::test]
    async fn streams_are_distinguished_however_they_arrive() {
        let frames = [
            frame(Stream::Output, b"one "),
            frame(Stream::Error, b"oops"),
            frame(Stream::Output, b""),
            frame(Stream::Output, b"two"),
        ]
        .concat();
        for piece in [1, 3, 8, 1000] {
            let (output, errors) = read(&frames, piece).await;
            assert_eq!((output.unwrap().as_str(), errors.as_str()), ("one two", "oops"));
        }
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_an_end() {
        let frames = frame(Stream::Output, b"cut off");
        assert_eq!(read(&frames[..12], 5).await.0.unwrap(), "cut ");
        assert_eq!(read(&frames[..3], 5).await.0.unwrap(), "");
    }

    #[tokio::test]
    async fn what_dockerd_sends_is_an_error() {
        let frames = [frame(Stream::Output, b"x"), frame(Stream::System, b"log driver broke\n")].concat();
        assert_eq!(read(&frames, 100).await.0.unwrap_err().to_string(), "log driver broke");
        let error = read(b"HTTP/1.1 200 OK", 100).await.0.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn unread_errors_do_not_hold_up_the_output() {
        let mut frames = frame(Stream::Error, b"e").repeat(MAX_ERRORS_WAITING + 10);
        frames.extend(frame(Stream::Output, b"on it goes"));
        let (output, errors) = read(&frames, 100).await;
        assert_eq!((output.unwrap().as_str(), errors.len()), ("on it goes", MAX_ERRORS_WAITING));
    }
}
