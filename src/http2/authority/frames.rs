//! The frames of a client (RFC 9113, section 4), of which those with headers are held until their block is complete.

use bytes::{Buf as _, BytesMut};
use tokio::io::ReadBuf;

use super::block::Table;

/// What a client begins with (section 3.4); the server looks at it.
const PREFACE: usize = 24;
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// The largest frame that every server takes.
const FRAME: usize = 16 << 10;

/// What came from a client and what goes to the server.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes that pass before the next frame begins.
    passing: usize,
    /// From the head of a frame on.
    held: BytesMut,
    /// How many of the held bytes are frames of the block that is being held.
    walked: usize,
    ready: BytesMut,
    table: Table,
    /// How many bytes are held at most.
    most: usize,
    /// Nothing is looked into any more, because the server will end this connection.
    is_over: bool,
}

struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, s0, s1, s2, s3] = bytes.first_chunk::<HEAD>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Self { length, kind, flags, stream: [s0, s1, s2, s3] })
    }

    fn write(&self, into: &mut BytesMut) {
        // A frame's length has three bytes.
        let length = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        into.extend_from_slice(&length[1..]);
        into.extend_from_slice(&[self.kind, self.flags]);
        into.extend_from_slice(&self.stream);
    }
}

impl Frames {
    /// For a server with these limits. What is larger it does not take, either: h2 allows a quarter more, and some frames.
    pub(super) fn new(header_list: u32, frame: u32) -> Self {
        let most = header_list as usize / 4 * 5 + 8 * (frame as usize + HEAD);
        let (held, ready, table) = Default::default();
        Self { passing: PREFACE, held, walked: 0, ready, table, most, is_over: false }
    }

    /// Writes what is ready into `into`; returns whether there was something.
    pub(super) fn write_into(&mut self, into: &mut ReadBuf<'_>) -> bool {
        if self.ready.is_empty() {
            return false;
        }
        let length = self.ready.len().min(into.remaining());
        into.put_slice(&self.ready[..length]);
        self.ready.advance(length);
        true
    }

    /// Takes what was read, and returns how much of its beginning may pass at once.
    pub(super) fn take(&mut self, read: &[u8]) -> usize {
        if self.is_over {
            return read.len();
        }
        let mut at = 0;
        while self.held.is_empty() {
            let passing = self.passing.min(read.len() - at);
            (self.passing, at) = (self.passing - passing, at + passing);
            if at == read.len() {
                return at;
            }
            match Head::read(&read[at..]) {
                Some(head) if head.kind != HEADERS => self.passing = HEAD + head.length,
                _ => break,
            }
        }
        self.held.extend_from_slice(&read[at..]);
        self.work();
        at
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        self.ready.unsplit(self.held.split());
    }

    fn work(&mut self) {
        loop {
            let passing = self.passing.min(self.held.len());
            self.passing -= passing;
            self.ready.extend_from_slice(&self.held.split_to(passing));
            let Some(head) = Head::read(&self.held) else { return };
            if head.kind != HEADERS {
                self.passing = HEAD + head.length;
                continue;
            }
            match self.walk() {
                Some(true) => {
                    let block = self.held.split_to(std::mem::take(&mut self.walked));
                    if self.rewrite(&block).is_none() {
                        self.ready.extend_from_slice(&block);
                        return self.end();
                    }
                }
                Some(false) => return,
                None => return self.end(),
            }
        }
    }

    /// Goes over the frames of a block, as far as they are there: whether that is all of it. `None` if this is no block.
    fn walk(&mut self) -> Option<bool> {
        while let Some(head) = Head::read(&self.held[self.walked..]) {
            let is_next = self.walked == 0
                || head.kind == CONTINUATION && Some(head.stream) == Head::read(&self.held).map(|first| first.stream);
            let end = self.walked + HEAD + head.length;
            if !is_next || end > self.most {
                return None;
            }
            if end > self.held.len() {
                break;
            }
            self.walked = end;
            if head.flags & END_HEADERS != 0 {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Makes the frames of a block ready, with the block that the server can take. `None` if it is not rightly formed.
    fn rewrite(&mut self, frames: &[u8]) -> Option<()> {
        let first = Head::read(frames)?;
        let (mut priority, mut block, mut rest) = (&[][..], Vec::new(), frames);
        while let Some(head) = Head::read(rest) {
            let (mut payload, after) = rest[HEAD..].split_at_checked(head.length)?;
            if head.kind == HEADERS && head.flags & PADDED != 0 {
                let (padding, padded) = payload.split_first()?;
                payload = &padded[..padded.len().checked_sub(usize::from(*padding))?];
            }
            if head.kind == HEADERS && head.flags & PRIORITY != 0 {
                (priority, payload) = payload.split_at_checked(PRIORITY_BYTES)?;
            }
            block.extend_from_slice(payload);
            rest = after;
        }
        let Some(block) = self.table.rewrite(&block).ok()? else {
            self.ready.extend_from_slice(frames);
            return Some(());
        };
        let pieces = block.chunks(FRAME - PRIORITY_BYTES);
        let last = pieces.len().saturating_sub(1);
        for (at, piece) in pieces.enumerate() {
            let (kind, flags, before) = match at {
                0 => (HEADERS, first.flags & (END_STREAM | PRIORITY), priority),
                _ => (CONTINUATION, 0, &[][..]),
            };
            let flags = flags | if at == last { END_HEADERS } else { 0 };
            let head = Head { length: before.len() + piece.len(), kind, flags, stream: first.stream };
            head.write(&mut self.ready);
            self.ready.extend_from_slice(before);
            self.ready.extend_from_slice(piece);
        }
        Some(())
    }
}
