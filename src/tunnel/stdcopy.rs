//! The frames of a container's output, as dockerd sends them where there is no terminal (moby `api/pkg/stdcopy`): one byte
//! for the stream, three zero bytes, the payload's length as a big-endian 32-bit number, the payload.

/// The length of a frame's header.
pub const HEADER: usize = 8;

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output. dockerd's own reader takes frames of stream 0 (standard input) for it, too.
    Output,
    /// Standard error.
    Error,
    /// dockerd's own words about a failure, after which nothing comes.
    System,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whose bytes follow.
    pub stream: Stream,
    /// How many.
    pub length: u32,
}

/// Eight bytes that begin no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a frame of a container's output, got {0:02x?}")]
pub struct Malformed(pub [u8; HEADER]);

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// When the stream is none of dockerd's, or bytes that are always zero are not.
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
