//! The properties that the fuzz targets `http1_head` and `http1_body` check for any bytes.

use bytes::Bytes;

use super::body::{Body, Framing};
use super::head::{RequestHead, ResponseHead, Scanner};

/// A head ends at the same byte however its bytes are split, and parsing it terminates.
pub fn head(bytes: &[u8]) {
    let whole = Scanner::default().end(bytes);
    let mut scanner = Scanner::default();
    let in_pieces = (1..=bytes.len()).find_map(|length| scanner.end(&bytes[..length]));
    assert_eq!(whole, in_pieces);
    let Some(end) = whole else { return };
    let raw = Bytes::copy_from_slice(&bytes[..end]);
    if let Ok(head) = RequestHead::parse(raw.clone()) {
        assert_eq!(*head.raw(), raw);
        let _ = (head.method(), head.target(), head.framing(), head.headers().get("Host"));
    }
    for method in ["GET", "HEAD", "CONNECT"] {
        if let Some(head) = ResponseHead::parse(raw.clone(), method) {
            let _ = (head.status(), head.framing(), head.is_interim());
        }
    }
}

/// A body ends at the same byte, with the same copy, however its bytes are split. The first byte chooses the framing.
pub fn body(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let framing = match kind % 3 {
        0 => Framing::Chunked,
        1 => Framing::Length(u64::from(*kind) * 3),
        _ => Framing::UntilEnd,
    };
    let mut whole = Body::new(framing).copied(1 << 16);
    let length = whole.advance(bytes);
    let mut pieces = Body::new(framing).copied(1 << 16);
    let mut passed = 0;
    for byte in bytes.chunks(1) {
        match pieces.advance(byte) {
            Ok(0) => break,
            Ok(count) => passed += count,
            Err(broken) => {
                assert_eq!(length, Err(broken));
                return;
            }
        }
    }
    assert_eq!(length, Ok(passed));
    assert_eq!((whole.is_done(), whole.copy()), (pieces.is_done(), pieces.copy()));
}
