//! Heads: where they end, and the body framing that they announce.

use super::*;

fn parse(raw: &str) -> Result<RequestHead, BadHead> {
    assert_eq!(Scanner::default().end(raw.as_bytes()), Some(raw.len()), "{raw:?}");
    RequestHead::parse(Bytes::copy_from_slice(raw.as_bytes()))
}

fn framing(headers: &str) -> Result<Framing, BadHead> {
    parse(&format!("POST /x HTTP/1.1\r\nHost: docker\r\n{headers}\r\n")).map(|head| head.framing())
}

#[test]
fn a_head_ends_at_its_empty_line_at_every_cut() {
    for raw in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\r\nA: b\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n",
    ] {
        let bytes = [raw.as_bytes(), b"more\r\n\r\n"].concat();
        for cut in 0..=bytes.len() {
            let mut scanner = Scanner::default();
            let end = scanner.end(&bytes[..cut]).or_else(|| scanner.end(&bytes));
            assert_eq!(end, Some(raw.len()), "{raw:?} cut at {cut}");
        }
        assert_eq!(parse(raw).unwrap().raw(), raw.as_bytes());
    }
    assert_eq!(Scanner::default().end(b"\r\n\r\n\n\n"), None, "empty lines before a head are no head");
}

#[test]
fn the_target_and_the_path() {
    let target = |target: &str| parse(&format!("GET {target} HTTP/1.1\r\n\r\n")).unwrap().target().to_owned();
    assert_eq!(target("/v1.55/info?a=b://c"), "/v1.55/info?a=b://c");
    assert_eq!(target("http://docker/v1.55/info"), "/v1.55/info");
    assert_eq!(target("http://docker"), "/");
    assert_eq!(target("http://docker?a=/info"), "/");
    assert_eq!(target("http:///info"), "/info");
    assert_eq!(target("http:/info"), "/info");
    assert_eq!(target("http:info"), "http:info");
    assert_eq!(target("x:y://a/info"), "x:y://a/info");
    assert_eq!(target("//http://docker/info"), "//http://docker/info");
    assert_eq!(target("*"), "*");
    assert_eq!(target("host:80"), "host:80");
    let head = parse("post /x HTTP/1.0\r\nA: 1\r\na:2\r\nB:\r\n\r\n").unwrap();
    assert_eq!(head.method(), "post");
    assert_eq!(head.headers().all("a").collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!((head.headers().get("b"), head.headers().get("c")), (Some(b"".as_slice()), None));
}

#[test]
fn how_a_request_ends() {
    assert_eq!(framing(""), Ok(Framing::Length(0)));
    assert_eq!(framing("Content-Length: 12\r\n"), Ok(Framing::Length(12)));
    assert_eq!(framing("content-length: 12\r\nCONTENT-LENGTH:12\r\n"), Ok(Framing::Length(12)));
    assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
}

#[test]
fn what_could_end_in_two_places_is_refused() {
    let ambiguous = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 99999999999999999999999\r\n",
    ];
    for headers in ambiguous {
        let error = framing(headers).unwrap_err();
        assert!(matches!(error, BadHead::Length(_)), "{headers}: {error}");
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    }
    for headers in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        assert_eq!(framing(headers).unwrap_err(), BadHead::Coding, "{headers}");
    }
    let error = parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_err();
    assert!(matches!(error, BadHead::Length(_)), "{error}");
}

#[test]
fn what_is_not_a_head_is_refused() {
    for raw in [
        "GET /\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        "hello\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\rContent-Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nA: \0\r\n\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
    ] {
        let error = parse(raw).unwrap_err();
        assert!(matches!(error, BadHead::Syntax(_)), "{raw:?}: {error}");
    }
    assert_eq!(parse("GET / HTTP/2.0\r\n\r\n").unwrap_err(), BadHead::Version);
}

#[test]
fn many_headers_are_no_reason_to_refuse() {
    let headers: String = (0..5000).map(|number| format!("h{number}: {number}\r\n")).collect();
    let head = parse(&format!("GET / HTTP/1.1\r\n{headers}\r\n")).unwrap();
    assert_eq!(head.headers().get("H4999"), Some(b"4999".as_slice()));
}

#[test]
fn how_a_response_ends() {
    let end = |method: &str, raw: &str| {
        ResponseHead::parse(Bytes::copy_from_slice(raw.as_bytes()), method).map(|head| head.framing())
    };
    assert_eq!(end("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), Some(Framing::Length(3)));
    assert_eq!(end("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Some(Framing::Chunked));
    assert_eq!(end("GET", "HTTP/1.1 200 OK\r\n\r\n"), Some(Framing::UntilEnd));
    assert_eq!(end("GET", "HTTP/1.0 200 OK\r\n\r\n"), Some(Framing::UntilEnd));
    for status in ["204 No Content", "304 Not Modified", "100 Continue", "103 Early Hints"] {
        let raw = format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\n");
        assert_eq!(end("GET", &raw), Some(Framing::Length(0)), "{status}");
    }
    assert_eq!(end("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), Some(Framing::Length(0)));
    assert_eq!(end("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Some(Framing::Length(0)));
    assert_eq!(end("POST", "HTTP/1.1 101 UPGRADED\r\nContent-Length: 3\r\n\r\n"), Some(Framing::UntilEnd));
    assert_eq!(end("CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), Some(Framing::UntilEnd));
    for raw in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "220 smtp.example ESMTP\r\n\r\n",
    ] {
        assert_eq!(end("GET", raw), None, "{raw:?}");
    }
}
