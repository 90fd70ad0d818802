//! Ends of bodies, for every way of splitting the bytes.

use proptest::prelude::*;

use super::*;

/// Feeds `bytes` in pieces of `sizes` (repeating the last size); returns the body's length, whether it is done, and
/// its copy.
fn feed(framing: Framing, bytes: &[u8], sizes: &[usize]) -> Result<(usize, bool, Option<Bytes>), BrokenChunk> {
    let mut body = Body::new(framing).copied(1 << 20);
    let (mut at, mut piece) = (0, 0);
    while at < bytes.len() && !body.is_done() {
        let size = sizes[piece.min(sizes.len() - 1)].clamp(1, bytes.len() - at);
        piece += 1;
        let count = body.advance(&bytes[at..at + size])?;
        at += count;
        assert!(count == size || body.is_done());
    }
    let done = body.is_done();
    Ok((at, done, body.copy()))
}

const NEXT: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

#[test]
fn chunked_bodies_end_where_they_should_at_every_cut() {
    let cases: [(&[u8], &[u8]); 6] = [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5;a=b;c\r\nhello\r\n00A \r\n0123456789\r\n0\r\n\r\n", b"hello0123456789"),
        (b"1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", b"\r\n"),
        (b"1\r\nx\r\n0\r\nDigest: y\r\nOther: 0\r\n\r\n", b"x"),
        (b"000000000000000b\r\nhello world\r\n0;last\r\nA:\r\n\r\n", b"hello world"),
    ];
    for (raw, content) in cases {
        let whole = [raw, NEXT].concat();
        for cut in 0..=whole.len() {
            for rest in [1, whole.len()] {
                let fed = feed(Framing::Chunked, &whole, &[cut, rest]).unwrap();
                assert_eq!(fed, (raw.len(), true, Some(Bytes::copy_from_slice(content))), "cut at {cut}");
            }
        }
        let fed = feed(Framing::Chunked, &raw[..raw.len() - 1], &[3]).unwrap();
        assert_eq!(fed, (raw.len() - 1, false, None), "one byte is missing");
    }
}

#[test]
fn broken_chunks_are_refused_and_named() {
    let digits = format!("{}\r\n", "0".repeat(17));
    let extension = format!("1;{}\r\n", "x".repeat(LINE_BYTES));
    let trailers = format!("0\r\n{}", "a: b\r\n".repeat(TRAILER_BYTES / 6 + 2));
    let cases: [(&[u8], &str); 14] = [
        (b"\r\n", "a chunk has no size"),
        (b"x\r\n", "a chunk has no size"),
        (b"-5\r\n", "a chunk has no size"),
        (b"0x5\r\n", "a chunk's size is not hexadecimal"),
        (b"5\n", "a chunk's size is not hexadecimal"),
        (b"5;a\nhello", "a line ends without CR"),
        (b"5\rhello", "a CR without LF"),
        (b"5\r\nhello!\r\n", "a chunk is longer than its size"),
        (b"5\r\nhello\n0\r\n", "a chunk is longer than its size"),
        (b"0\r\n\n", "a line ends without CR"),
        (b"0\r\na: b\n\r\n", "a line ends without CR"),
        (digits.as_bytes(), "a chunk's size has more than 16 digits"),
        (extension.as_bytes(), "a chunk's extensions are too long"),
        (trailers.as_bytes(), "the trailers are too long"),
    ];
    for (raw, reason) in cases {
        for size in [1, raw.len()] {
            let text = String::from_utf8_lossy(&raw[..raw.len().min(40)]);
            assert_eq!(feed(Framing::Chunked, raw, &[size]), Err(BrokenChunk(reason)), "{text}");
        }
    }
}

#[test]
fn other_framings() {
    assert_eq!(feed(Framing::Length(0), NEXT, &[1]).unwrap(), (0, true, Some(Bytes::new())));
    assert_eq!(feed(Framing::Length(3), NEXT, &[2]).unwrap(), (3, true, Some(Bytes::from_static(b"GET"))));
    assert_eq!(feed(Framing::Length(u64::MAX), NEXT, &[4]).unwrap(), (NEXT.len(), false, None));
    assert_eq!(feed(Framing::UntilEnd, NEXT, &[4]).unwrap(), (NEXT.len(), false, None));
}

#[test]
fn a_copy_is_whole_or_none() {
    let copy = |limit| {
        let mut body = Body::new(Framing::Chunked).copied(limit);
        body.advance(b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n").unwrap();
        body.copy()
    };
    assert_eq!(copy(4), Some(Bytes::from_static(b"abcd")));
    assert_eq!(copy(3), None);
    assert_eq!(copy(0), None);
}

proptest! {
    #[test]
    fn any_content_in_any_chunks_at_any_cuts(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        sizes in prop::collection::vec(1usize..50, 1..40),
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut raw = Vec::new();
        for chunk in &chunks {
            raw.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            raw.extend_from_slice(chunk);
            raw.extend_from_slice(b"\r\n");
        }
        raw.extend_from_slice(b"0\r\n\r\n");
        let length = raw.len();
        raw.extend_from_slice(&behind);
        let fed = feed(Framing::Chunked, &raw, &sizes).unwrap();
        prop_assert_eq!(fed, (length, true, Some(Bytes::from(chunks.concat()))));
    }

    #[test]
    fn noise_never_panics_and_cuts_never_matter(
        noise in prop::collection::vec(prop::sample::select(b"0123afz;:\r\n \t".to_vec()), 0..200),
        sizes in prop::collection::vec(1usize..20, 1..40),
    ) {
        prop_assert_eq!(feed(Framing::Chunked, &noise, &sizes), feed(Framing::Chunked, &noise, &[1000]));
    }
}
