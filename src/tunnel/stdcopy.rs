//! The frames of a container's output without a terminal (moby `api/pkg/stdcopy`): one byte for the stream, three zero
//! bytes, the payload's length as a big-endian 32-bit number, the payload.

/// The length of a frame's header.
pub const HEADER: usize = 8;

/// The stream of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; also stream 0 (standard input), as in dockerd's own reader.
    Output,
    /// Standard error.
    Error,
    /// dockerd's message about a failure, which ends the output.
    System,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The stream of the payload.
    pub stream: Stream,
    /// The length of the payload.
    pub length: u32,
}

/// Eight bytes that are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a frame of a container's output, got {0:02x?}")]
pub struct Malformed(pub [u8; HEADER]);

impl Header {
    /// Parses a header.
    ///
    /// # Errors
    /// When the stream is unknown, or the zero bytes are not zero.
    pub fn read(bytes: [u8; HEADER]) -> Result<Self, Malformed> {
        let [stream, 0, 0, 0, length @ ..] = bytes else { return Err(Malformed(bytes)) };
        let stream = match stream {
            0 | 1 => Stream::Output,
            2 => Stream::Error,
            3 => Stream::System,
            _ => return Err(Malformed(bytes)),
        };
        Ok(Self { stream, length: u32::from_be_bytes(length) })
    }

    /// The header's bytes.
    pub fn write(self) -> [u8; HEADER] {
        let stream = match self.stream {
            Stream::Output => 1,
            Stream::Error => 2,
            Stream::System => 3,
        };
        let [a, b, c, d] = self.length.to_be_bytes();
        [stream, 0, 0, 0, a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_dockerd() {
        let header = Header { stream: Stream::Error, length: 0x0102_0304 };
        assert_eq!(header.write(), [2, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(Header::read(header.write()), Ok(header));
        assert_eq!(Header::read([0, 0, 0, 0, 0, 0, 0, 9]), Ok(Header { stream: Stream::Output, length: 9 }));
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [*b"HTTP/1.1", [4, 0, 0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 0, 0, 0, 1]] {
            assert_eq!(Header::read(bytes), Err(Malformed(bytes)));
        }
    }
}
