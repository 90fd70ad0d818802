//! The bytes in a stream of gRPC messages `BytesMessage { bytes data = 1; }` (BuildKit
//! `api/services/control/control.proto`).
//!
//! Where messages begin and end means nothing to those that read the bytes, so they are passed on as they come, before
//! their message is complete.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::http2::MAX_MESSAGE_BYTES;

/// A gRPC message's head: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// The field `data`, as protobuf writes its number and its kind.
const DATA: u64 = 1 << 3 | LENGTH_DELIMITED;
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;
/// The most bytes in front of a message's data: the head, the field's number and kind, and its length in four bytes.
pub(super) const HEAD: usize = PREFIX + 1 + 4;

/// What came is no stream of such messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session's call does not carry BuildKit's BytesMessage")]
pub(super) struct Malformed;

/// Reads messages, of which pieces are fed to it.
#[derive(Debug, Default)]
pub(super) struct Messages {
    chunk: Bytes,
    state: ParserState,
    /// What is left of the message.
    left: usize,
}

#[derive(Debug)]
enum ParserState {
    Prefix {
        bytes: [u8; PREFIX],
        have: usize,
    },
    Key(Varint),
    Length {
        of: Kind,
        length: Varint,
    },
    /// A number, which no field that we know of has.
    Number(Varint),
    Run {
        of: Kind,
        left: usize,
    },
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Data,
    Other,
}

#[derive(Debug, Default, Clone, Copy)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Default for ParserState {
    fn default() -> Self {
        Self::Prefix { bytes: [0; PREFIX], have: 0 }
    }
}

impl Varint {
    /// The value, once `byte` was its last.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, Malformed> {
        if self.shift >= u64::BITS {
            return Err(Malformed);
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

impl Messages {
    /// Takes what comes next. All that came before must have been read.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// The next bytes; `None` when more must be fed first.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Malformed> {
        while !self.chunk.is_empty() {
            if let ParserState::Run { of, left } = &mut self.state {
                let piece = self.chunk.split_to(self.chunk.len().min(*left));
                (*left, self.left) = (*left - piece.len(), self.left - piece.len());
                let (of, is_over) = (*of, *left == 0);
                if is_over {
                    self.field_ended();
                }
                match of {
                    Kind::Data => return Ok(Some(piece)),
                    Kind::Other => continue,
                }
            }
            self.step()?;
        }
        Ok(None)
    }

    /// Reads a byte that is no data.
    fn step(&mut self) -> Result<(), Malformed> {
        let byte = self.chunk.get_u8();
        if let ParserState::Prefix { bytes, have } = &mut self.state {
            bytes[*have] = byte;
            *have += 1;
            if *have == PREFIX {
                let [flag, length @ ..] = *bytes;
                self.left = u32::from_be_bytes(length) as usize;
                // BuildKit does not compress sessions, and a compressed message could not be read here.
                if flag != 0 || self.left > MAX_MESSAGE_BYTES {
                    return Err(Malformed);
                }
                self.field_ended();
            }
            return Ok(());
        }
        self.left -= 1;
        match &mut self.state {
            ParserState::Key(key) => {
                if let Some(key) = key.push(byte)? {
                    let length = Varint::default();
                    self.state = match (key, key & 7) {
                        (DATA, _) => ParserState::Length { of: Kind::Data, length },
                        (_, LENGTH_DELIMITED) => ParserState::Length { of: Kind::Other, length },
                        (_, VARINT) => ParserState::Number(length),
                        (_, FIXED_64) => ParserState::Run { of: Kind::Other, left: 8 },
                        (_, FIXED_32) => ParserState::Run { of: Kind::Other, left: 4 },
                        _ => return Err(Malformed),
                    };
                }
            }
            ParserState::Length { of, length } => {
                if let Some(length) = length.push(byte)? {
                    let left = usize::try_from(length).map_err(|_| Malformed)?;
                    self.state = ParserState::Run { of: *of, left };
                    if left == 0 {
                        self.field_ended();
                        return Ok(());
                    }
                }
            }
            ParserState::Number(number) => {
                if number.push(byte)?.is_some() {
                    self.field_ended();
                    return Ok(());
                }
            }
            ParserState::Prefix { .. } | ParserState::Run { .. } => {}
        }
        // The field goes on, so the message must.
        let needed = if let ParserState::Run { left, .. } = self.state { left } else { 1 };
        if needed > self.left { Err(Malformed) } else { Ok(()) }
    }

    fn field_ended(&mut self) {
        self.state = if self.left == 0 { ParserState::default() } else { ParserState::Key(Varint::default()) };
    }
}

/// Makes a message of `buffer`, of which the first [`HEAD`] bytes are room for what stands in front of the data.
pub(super) fn seal(mut buffer: BytesMut) -> Bytes {
    let length = buffer.len() - HEAD;
    let mut head = [0; HEAD];
    let mut at = PREFIX;
    head[at] = DATA as u8;
    at += 1;
    let mut rest = length;
    while rest > 0x7f {
        head[at] = rest as u8 | 0x80;
        (rest, at) = (rest >> 7, at + 1);
    }
    head[at] = rest as u8;
    at += 1;
    let message = (at - PREFIX + length) as u32;
    head[1..PREFIX].copy_from_slice(&message.to_be_bytes());
    buffer[HEAD - at..HEAD].copy_from_slice(&head[..at]);
    buffer.advance(HEAD - at);
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
    use prost::Message as _;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    fn read(stream: &[u8], step: usize) -> Result<Vec<u8>, Malformed> {
        let (mut messages, mut data) = (Messages::default(), Vec::new());
        for chunk in stream.chunks(step) {
            messages.feed(Bytes::copy_from_slice(chunk));
            while let Some(piece) = messages.next()? {
                data.extend_from_slice(&piece);
            }
        }
        if matches!(messages.state, ParserState::Prefix { have: 0, .. }) { Ok(data) } else { Err(Malformed) }
    }

    #[test]
    fn data_is_read_wherever_its_messages_are_cut() {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for length in [0, 1, 127, 128, 20_000] {
            let data: Vec<u8> = (0..length).map(|n: usize| n as u8).collect();
            stream.extend(framed(&BytesMessage { data: data.clone() }.encode_to_vec()));
            expected.extend(data);
        }
        for step in [1, 2, 3, 7, 1000, stream.len()] {
            assert_eq!(read(&stream, step).unwrap(), expected, "{step}");
        }
    }

    #[test]
    fn what_is_sealed_is_what_protobuf_writes() {
        for length in [1, 127, 128, 16_383, 16_384, 64 << 10, (2 << 20) + 1] {
            let data = vec![7; length];
            let mut buffer = BytesMut::zeroed(HEAD);
            buffer.extend_from_slice(&data);
            assert_eq!(seal(buffer), framed(&BytesMessage { data }.encode_to_vec()), "{length}");
        }
    }

    #[test]
    fn fields_that_are_unknown_are_left_out() {
        let message = [
            &[0x10, 0x96, 0x01][..],
            &[0x0a, 1, b'a'],
            &[0x1a, 2, b'x', b'x'],
            &[0x25, 1, 2, 3, 4],
            &[0x29, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x0a, 0],
            &[0x0a, 1, b'b'],
        ]
        .concat();
        for step in 1..message.len() {
            assert_eq!(read(&framed(&message), step).unwrap(), b"ab");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let compressed = [1, 0, 0, 0, 3, 0x0a, 1, b'a'];
        let huge = [0, 0xff, 0, 0, 0];
        for stream in [
            &compressed[..],
            &huge,
            &framed(&[0x0a, 2, b'a']),
            &framed(&[0x0a]),
            &framed(&[0x0b, 0]),
            &framed(&[0xff; 11]),
            &framed(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            &framed(&[0x10, 0x80]),
            &framed(&[0x0a, 1, b'a'])[..7],
        ] {
            assert_eq!(read(stream, 3), Err(Malformed), "{stream:?}");
        }
    }
}
