//! Detects HTTP/2 by the first bytes of each end.

use super::stdcopy::{HEADER, Header, Stream};

/// The connection preface of an HTTP/2 client (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of an HTTP/2 frame's header.
const FRAME_HEADER: usize = 9;

/// The most bytes that are examined; the header of a server's first frame comes long before.
const MAX_UNDECIDED_BYTES: usize = 64 << 10;

/// The detected protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2.
    Http2,
    /// Something else.
    Other,
    /// More bytes are needed.
    Unclear,
}

/// Detects the protocol of a client by its first bytes.
pub fn client(bytes: &[u8]) -> Protocol {
    let length = bytes.len().min(PREFACE.len());
    match bytes[..length] == PREFACE[..length] {
        true if length == PREFACE.len() => Protocol::Http2,
        true => Protocol::Unclear,
        false => Protocol::Other,
    }
}

/// Detects the protocol of a server by its first bytes.
pub fn server(bytes: &[u8]) -> Protocol {
    match bytes.first_chunk::<FRAME_HEADER>() {
        Some(frame) if is_settings(frame) => Protocol::Http2,
        Some(_) => Protocol::Other,
        None => Protocol::Unclear,
    }
}

/// Detects the protocol of a process by its output, which is in stdcopy frames. A server's first frame is SETTINGS (RFC
/// 9113, section 3.4), and Go's servers send it without waiting for the client.
///
/// Also returns the length of the complete frames of standard error at the beginning, which can be sent to the client.
pub fn output(bytes: &[u8]) -> (usize, Protocol) {
    let (mut errors, mut at) = (0, 0);
    let mut start: Vec<u8> = Vec::with_capacity(FRAME_HEADER);
    while let Some(header) = bytes[at..].first_chunk::<HEADER>() {
        let Ok(Header { stream, length }) = Header::read(*header) else { return (errors, Protocol::Other) };
        let payload = &bytes[at + HEADER..];
        let there = payload.len().min(length as usize);
        match stream {
            Stream::Output => start.extend(payload[..there].iter().take(FRAME_HEADER - start.len())),
            Stream::Error if errors == at && there == length as usize => errors = at + HEADER + there,
            Stream::Error => {}
            Stream::System => return (errors, Protocol::Other),
        }
        match server(&start) {
            Protocol::Unclear => {}
            decided => return (errors, decided),
        }
        if there < length as usize {
            break;
        }
        at += HEADER + there;
    }
    (errors, if bytes.len() - errors > MAX_UNDECIDED_BYTES { Protocol::Other } else { Protocol::Unclear })
}

/// Length (three bytes, a multiple of six), type 4, no flags, stream 0 (RFC 9113, section 6.5).
fn is_settings(frame: &[u8; FRAME_HEADER]) -> bool {
    let [a, b, c, rest @ ..] = *frame;
    u32::from_be_bytes([0, a, b, c]).is_multiple_of(6) && rest == [4, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: Stream, payload: &[u8]) -> Vec<u8> {
        [&Header { stream, length: payload.len() as u32 }.write()[..], payload].concat()
    }

    const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0";

    #[test]
    fn clients() {
        for length in 0..PREFACE.len() {
            assert_eq!(client(&PREFACE[..length]), Protocol::Unclear);
        }
        assert_eq!(client(&[PREFACE, b"more"].concat()), Protocol::Http2);
        assert_eq!(client(b"GET / HTTP/1.1"), Protocol::Other);
        assert_eq!(client(b"PRI * HTTP/2.1\r\n"), Protocol::Other);
    }

    #[test]
    fn servers_in_any_number_of_frames() {
        let whole = frame(Stream::Output, SETTINGS);
        let split = [frame(Stream::Output, &SETTINGS[..4]), frame(Stream::Output, &SETTINGS[4..])].concat();
        for bytes in [whole, split] {
            let decided =
                (0..=bytes.len()).map(|length| output(&bytes[..length]).1).find(|it| *it != Protocol::Unclear);
            assert_eq!(decided, Some(Protocol::Http2));
        }
        assert_eq!(output(&frame(Stream::Output, b"hello, world")).1, Protocol::Other);
        assert_eq!(output(&frame(Stream::System, b"no")).1, Protocol::Other);
        assert_eq!(output(SETTINGS).1, Protocol::Other);
    }

    #[test]
    fn words_on_standard_error_that_come_first_are_found() {
        let (oops, settings) = (frame(Stream::Error, b"oops"), frame(Stream::Output, SETTINGS));
        assert_eq!(output(&oops[..10]), (0, Protocol::Unclear));
        assert_eq!(output(&oops), (oops.len(), Protocol::Unclear));
        assert_eq!(output(&[&oops[..], &oops, &settings].concat()), (2 * oops.len(), Protocol::Http2));
        // Frames of standard error after the first output do not count.
        let between = [frame(Stream::Output, &SETTINGS[..4]), oops, frame(Stream::Output, &SETTINGS[4..])].concat();
        assert_eq!(output(&between), (0, Protocol::Http2));
    }

    #[test]
    fn it_ends() {
        let endless = frame(Stream::Output, b"").repeat(MAX_UNDECIDED_BYTES / HEADER + 1);
        assert_eq!(output(&endless).1, Protocol::Other);
    }
}
