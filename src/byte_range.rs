//! Ranges of bytes in a request (RFC 9110, section 14.1.2).

use std::ops::Range;

use http::HeaderMap;
use http::header::RANGE;

/// Which bytes are requested.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ByteRange {
    /// All of them.
    All,
    /// Some, of which there is at least one.
    Part(Range<u64>),
    /// None that exists.
    Unsatisfiable,
}

/// The range in a request for `size` bytes. Several ranges, and those of other units, count as none, as the RFC allows. One
/// that ends before it begins cannot be satisfied: so say the registries that clients know.
pub(crate) fn requested(headers: &HeaderMap, size: u64) -> ByteRange {
    let Some((first, last)) = parts(headers) else { return ByteRange::All };
    let part = match (number(first), number(last)) {
        (Some(start), Some(last)) => start..last.saturating_add(1).min(size),
        (Some(start), None) if last.is_empty() => start..size,
        (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        _ => return ByteRange::All,
    };
    if part.is_empty() { ByteRange::Unsatisfiable } else { ByteRange::Part(part) }
}

fn parts(headers: &HeaderMap) -> Option<(&str, &str)> {
    headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn ranges_are_those_of_registries() {
        for (header, expected) in [
            ("bytes=0-", ByteRange::Part(0..10)),
            ("bytes=4-", ByteRange::Part(4..10)),
            ("bytes=4-5", ByteRange::Part(4..6)),
            ("bytes=4-99", ByteRange::Part(4..10)),
            ("bytes=4-18446744073709551615", ByteRange::Part(4..10)),
            ("bytes=-3", ByteRange::Part(7..10)),
            ("bytes=-99", ByteRange::Part(0..10)),
            ("bytes=10-", ByteRange::Unsatisfiable),
            ("bytes=10-12", ByteRange::Unsatisfiable),
            ("bytes=-0", ByteRange::Unsatisfiable),
            ("bytes=5-2", ByteRange::Unsatisfiable),
            ("bytes=+1-", ByteRange::All),
            ("bytes=0-1,3-4", ByteRange::All),
            ("bytes=-", ByteRange::All),
            ("lines=0-", ByteRange::All),
        ] {
            let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(header))]);
            assert_eq!(requested(&headers, 10), expected, "{header}");
        }
        assert_eq!(requested(&HeaderMap::new(), 10), ByteRange::All);
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-0"))]);
        assert_eq!(requested(&headers, 0), ByteRange::Unsatisfiable);
    }
}
