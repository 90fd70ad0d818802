//! Finds the end of a message's body (RFC 9112, section 6) while the body is forwarded.

use bytes::Bytes;

/// Longest chunk-size line, extensions included; Go's `net/http/internal/chunked.go` has the same.
const LINE_BYTES: usize = 4096;
/// Longest trailer section.
const TRAILER_BYTES: usize = 64 << 10;

/// How the end of a body is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// The body has this many bytes; 0 when there is no body.
    Length(u64),
    /// Chunks and trailers.
    Chunked,
    /// The body ends with the connection.
    UntilEnd,
}

impl Framing {
    /// Whether the content is known to be longer than `limit` bytes.
    pub(super) fn is_longer_than(self, limit: usize) -> bool {
        matches!(self, Self::Length(length) if length > limit as u64)
    }
}

/// A body's chunks violate RFC 9112. Nothing is guessed: if two parties disagree about where a message ends, one of
/// them takes part of it for another message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body's chunked coding is broken: {0}")]
pub struct BrokenChunk(&'static str);

/// A body that is being forwarded: examines each byte once, in order, and may keep a copy of the content.
#[derive(Debug)]
pub(super) struct Body {
    state: BodyState,
    copy: Option<Copy>,
}

/// The content so far, up to a limit.
#[derive(Debug)]
struct Copy {
    limit: usize,
    /// `None` once the limit was exceeded.
    content: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyState {
    Length(u64),
    UntilEnd,
    /// In a chunk's size, with the number of digits so far.
    Size {
        size: u64,
        digits: u8,
    },
    /// After the size, in extensions that end with the line, with the length so far.
    Extension {
        size: u64,
        length: usize,
    },
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a trailer, or of the empty line at the end, with the length of the section so far.
    LineStart(usize),
    Line(usize),
    LineLf(usize),
    LastLf,
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(length) => BodyState::Length(length),
            Framing::Chunked => BodyState::Size { size: 0, digits: 0 },
            Framing::UntilEnd => BodyState::UntilEnd,
        };
        Self { state, copy: None }
    }

    /// Keeps a copy of the content (without the chunks around it) if it is not longer than `limit` bytes.
    pub(super) fn copied(mut self, limit: usize) -> Self {
        self.copy = Some(Copy { limit, content: Some(Vec::new()) });
        self
    }

    /// Whether its last byte was seen.
    pub(super) fn is_done(&self) -> bool {
        self.state == BodyState::Length(0)
    }

    /// The copy of a body that is done.
    pub(super) fn copy(&self) -> Option<Bytes> {
        let copy = self.copy.as_ref().filter(|_| self.is_done())?;
        copy.content.as_deref().map(Bytes::copy_from_slice)
    }

    /// Returns how many of the next `bytes` belong to the body.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, BrokenChunk> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            let rest = &bytes[at..];
            at += match self.state {
                BodyState::Length(left) => {
                    let count = within(rest, left);
                    self.keep(&rest[..count]);
                    self.state = BodyState::Length(left - count as u64);
                    count
                }
                BodyState::Data(left) => {
                    let count = within(rest, left);
                    self.keep(&rest[..count]);
                    let left = left - count as u64;
                    self.state = if left == 0 { BodyState::DataCr } else { BodyState::Data(left) };
                    count
                }
                BodyState::UntilEnd => {
                    self.keep(rest);
                    rest.len()
                }
                state => {
                    self.state = state.step(rest[0]).map_err(BrokenChunk)?;
                    1
                }
            };
        }
        Ok(at)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let Some(Copy { limit, content }) = &mut self.copy else { return };
        match content {
            Some(kept) if kept.len() + bytes.len() <= *limit => kept.extend_from_slice(bytes),
            _ => *content = None,
        }
    }
}

impl BodyState {
    /// The state after one `byte` of the chunked coding (RFC 9112, section 7.1). Only CR LF ends a line: servers differ
    /// in how they interpret a single LF.
    fn step(self, byte: u8) -> Result<Self, &'static str> {
        Ok(match (self, byte) {
            (Self::Size { digits: 0, .. }, byte) if !byte.is_ascii_hexdigit() => return Err("a chunk has no size"),
            (Self::Size { size, .. }, b'\r') => Self::SizeLf(size),
            (Self::Size { size, .. }, b';' | b' ' | b'\t') => Self::Extension { size, length: 1 },
            (Self::Size { digits: 16, .. }, _) => return Err("a chunk's size has more than 16 digits"),
            (Self::Size { size, digits }, byte) => {
                let digit = char::from(byte).to_digit(16).ok_or("a chunk's size is not hexadecimal")?;
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Extension { size, .. }, b'\r') => Self::SizeLf(size),
            (Self::Extension { .. }, b'\n') => return Err("a line ends without CR"),
            (Self::Extension { length: LINE_BYTES.., .. }, _) => return Err("a chunk's extensions are too long"),
            (Self::Extension { size, length }, _) => Self::Extension { size, length: length + 1 },
            (Self::SizeLf(0), b'\n') => Self::LineStart(0),
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::DataCr | Self::DataLf, _) => return Err("a chunk is longer than its size"),
            (Self::LineStart(_), b'\r') => Self::LastLf,
            (Self::LastLf, b'\n') => Self::Length(0),
            (Self::Line(length), b'\r') => Self::LineLf(length + 1),
            (Self::LineLf(length), b'\n') => Self::LineStart(length + 1),
            (Self::LineStart(_) | Self::Line(_), b'\n') => return Err("a line ends without CR"),
            (Self::LineStart(TRAILER_BYTES..) | Self::Line(TRAILER_BYTES..), _) => {
                return Err("the trailers are too long");
            }
            (Self::LineStart(length) | Self::Line(length), _) => Self::Line(length + 1),
            (Self::SizeLf(_) | Self::LineLf(_) | Self::LastLf, _) => return Err("a CR without LF"),
            // Content is not examined byte by byte.
            (Self::Length(_) | Self::Data(_) | Self::UntilEnd, _) => self,
        })
    }
}

/// The number of `bytes`, at most `limit`.
fn within(bytes: &[u8], limit: u64) -> usize {
    usize::try_from(limit).map_or(bytes.len(), |limit| limit.min(bytes.len()))
}

#[cfg(test)]
mod tests;
