use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const END: u8 = 0x1 | 0x4;

/// What gRPC's C core sends first, with this authority, and its next two calls.
fn c_core(authority: &str) -> [Vec<u8>; 3] {
    let length = u8::try_from(authority.len()).unwrap();
    let first = [
        b"@\x05:path\x06/a.B/C@\n:authority",
        &[length][..],
        authority.as_bytes(),
        b"\x83\x86@\x0ccontent-type\x10application/grpc@\x02te\x08trailers@\x0cgrpc-timeout\x04399m@\nuser-agent\x03c/1",
    ];
    // Path, authority, content-type, te and, after a new time, user-agent.
    let second = b"\xc3\xc2\x83\x86\xc1\xc0@\x0cgrpc-timeout\x04400m\xbf";
    let third = b"\xc4\xc3\x83\x86\xc2\xc1@\x0cgrpc-timeout\x04400m\xc0";
    [first.concat(), second.to_vec(), third.to_vec()]
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block that ends its stream.
fn request(nth: usize, block: &[u8]) -> Vec<u8> {
    frame(1, END, u32::try_from(nth).unwrap() * 2 + 1, block)
}

/// What h2 makes of a client's bytes, which come in pieces of this size: so many requests, one after the other.
async fn served(sent: Vec<u8>, piece: usize, count: usize) -> Vec<Request<()>> {
    let (mut client, server) = tokio::io::duplex(piece);
    // The server's own words are not of interest, and must not fill anything up.
    let io = tokio::io::join(AuthorityRewriter::new(server, 1 << 16, 1 << 14), tokio::io::sink());
    // It stays open: h2 forgets what it has not given out when the client leaves.
    let client = tokio::spawn(async move { client.write_all(&sent).await.map(|()| client) });
    let accept = async {
        let mut connection = h2::server::handshake(io).await.unwrap();
        let mut found = Vec::new();
        while found.len() < count {
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_response(Response::new(()), true).unwrap();
            found.push(request.map(|_| ()));
        }
        found
    };
    let found = tokio::time::timeout(Duration::from_secs(60), accept).await.unwrap();
    client.await.unwrap().unwrap();
    found
}

fn named<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

#[tokio::test]
async fn calls_of_c_core_arrive_whatever_they_name() {
    for (authority, expected) in [
        ("tmp%2Fs.sock", "localhost"),
        ("", "localhost"),
        ("unix:/x", "localhost"),
        ("[::1", "localhost"),
        ("user@host:1", "user@host:1"),
        ("example.org", "example.org"),
    ] {
        let [first, second, third] = c_core(authority);
        let sent = [PREFACE, &request(0, &first), &request(1, &second), &request(2, &third)].concat();
        for piece in [1, 2, 5, 9, 64, 1 << 16] {
            let found = served(sent.clone(), piece, 3).await;
            for (request, timeout) in found.iter().zip(["399m", "400m", "400m"]) {
                assert_eq!(request.uri().authority().unwrap(), expected, "{authority}");
                assert_eq!(request.uri().path(), "/a.B/C");
                for (name, value) in [("user-agent", "c/1"), ("te", "trailers"), ("grpc-timeout", timeout)] {
                    assert_eq!(named(request.headers(), name), value, "{authority} in pieces of {piece}");
                }
            }
        }
    }
}

/// The client's bytes as they are given on.
async fn passed(sent: &[u8]) -> Vec<u8> {
    let mut given = Vec::new();
    AuthorityRewriter::new(sent, 1 << 16, 1 << 14).read_to_end(&mut given).await.unwrap();
    given
}

#[tokio::test]
async fn what_can_be_taken_passes_as_it_came() {
    let [first, next, _] = c_core("localhost");
    // Padded, with a priority, and in several frames, with some of other kinds in between.
    let padded = [&[3][..], &[0, 0, 0, 0, 16], &first[..20], &[0; 3]].concat();
    let sent = [
        PREFACE.to_vec(),
        frame(1, 0x1 | 0x8 | 0x20, 1, &padded),
        frame(9, 0x4, 1, &first[20..]),
        frame(0, 0, 3, &[7; 5000]),
        frame(6, 0, 0, &[0; 8]),
        request(2, &next),
        // No rightly formed block, and the beginning of a frame.
        request(3, &[0xff; 9]),
        request(4, &c_core("unix:/x")[0]),
        vec![0, 0, 9, 1],
    ];
    assert_eq!(passed(&sent.concat()).await, sent.concat());
    // A frame of another stream where the block should go on, and one that is larger than any server takes.
    for wrong in [[frame(1, 0, 1, &first), frame(9, 0x4, 3, &[])].concat(), frame(1, 0x4, 1, &vec![0; 1 << 20])] {
        let sent = [PREFACE, &wrong, &request(4, &c_core("unix:/x")[0])].concat();
        assert_eq!(passed(&sent).await, sent);
    }
}

#[tokio::test]
async fn frames_may_be_padded_and_cut_anywhere() {
    let [first, next, _] = c_core("unix:/x");
    let padded = [&[3][..], &[0, 0, 0, 0, 16], &first[..20], &[0; 3]].concat();
    let sent = [
        PREFACE.to_vec(),
        frame(1, 0x1 | 0x8 | 0x20, 1, &padded),
        frame(9, 0, 1, &first[20..21]),
        frame(9, 0x4, 1, &first[21..]),
        request(1, &next),
    ];
    let found = served(sent.concat(), 7, 2).await;
    assert!(found.iter().all(|request| request.uri() == "http://localhost/a.B/C"), "{found:?}");
}

/// An encoder with a table of its own, which chooses among all ways to encode a field.
#[derive(Default)]
struct Encoder {
    table: Vec<(Bytes, Bytes)>,
}

impl Encoder {
    /// Like a server's table of 4096 bytes.
    fn insert(&mut self, name: &Bytes, value: &Bytes) {
        self.table.insert(0, (name.clone(), value.clone()));
        let size =
            |table: &[(Bytes, Bytes)]| table.iter().map(|(name, value)| 32 + name.len() + value.len()).sum::<usize>();
        while size(&self.table) > 4096 {
            self.table.pop();
        }
    }

    fn encode(&mut self, into: &mut Vec<u8>, name: &str, value: &str, way: u32) {
        let (name, value) = (Bytes::from(name.to_owned()), Bytes::from(value.to_owned()));
        let known = self.table.iter().position(|field| *field == (name.clone(), value.clone()));
        if let Some(at) = known.filter(|_| way.is_multiple_of(2)) {
            return put(into, 0x80, 7, at + 62);
        }
        let (kind, bits) = [(0x40, 6), (0x40, 6), (0x00, 4), (0x10, 4)][way as usize / 2 % 4];
        let at = self.table.iter().position(|(other, _)| *other == name);
        put(into, kind, bits, at.filter(|_| (way / 8).is_multiple_of(2)).map_or(0, |at| at + 62));
        if at.is_none() || !(way / 8).is_multiple_of(2) {
            put(into, 0, 7, name.len());
            into.extend_from_slice(&name);
        }
        put(into, 0, 7, value.len());
        into.extend_from_slice(&value);
        if kind == 0x40 {
            self.insert(&name, &value);
        }
    }
}

fn put(into: &mut Vec<u8>, kind: u8, bits: u8, number: usize) {
    let most = (1 << bits) - 1;
    if number < most {
        return into.push(kind | number as u8);
    }
    into.push(kind | most as u8);
    let mut left = number - most;
    while left >= 128 {
        into.push(left as u8 | 0x80);
        left >>= 7;
    }
    into.push(left as u8);
}

#[tokio::test]
async fn the_tables_of_both_sides_stay_one() {
    let mut seed = 7u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 8
    };
    let (mut encoder, mut sent, mut expected) = (Encoder::default(), PREFACE.to_vec(), Vec::new());
    let authorities = ["", "/a", "b%2Fc", "good.example", "other:1"];
    for nth in 0..400 {
        let mut block = Vec::new();
        let authority = authorities[next() as usize % 5];
        let (path, value) = (format!("/{}", next() % 40), "v".repeat(next() as usize % 300));
        for (name, value) in [(":method", "POST"), (":path", &path), (":authority", authority), (":scheme", "http")] {
            encoder.encode(&mut block, name, value, next());
        }
        let name = format!("x-{}", next() % 5);
        encoder.encode(&mut block, &name, &value, next());
        sent.extend(request(nth, &block));
        expected.push((if authority.len() > 6 { authority } else { "localhost" }, path, name, value));
    }
    let found = served(sent, 1 << 16, expected.len()).await;
    for (request, (authority, path, name, value)) in found.iter().zip(&expected) {
        assert_eq!(request.uri().authority().unwrap(), authority);
        assert_eq!((request.uri().path(), named(request.headers(), name)), (&path[..], &value[..]));
    }
}

#[tokio::test]
async fn coded_and_static_authorities_are_looked_at_too() {
    let field = |value: &str| {
        let value = hex::decode(value).unwrap();
        [&[0x41, 0x80 | value.len() as u8][..], &value].concat()
    };
    // `%2Frun%2Fx` and `example.org:8080`; the empty one of the static table, and a name in Huffman's code.
    let blocks = [
        (field("54586cb6a54587cf"), "localhost"),
        (field("2f91d35d055cf64d71e03c0f"), "example.org:8080"),
        (vec![0x81], "localhost"),
        ([&[0x40, 0x88][..], &hex::decode("b83b5339ec327d7f").unwrap(), b"\x01/"].concat(), "localhost"),
        // What was sent first and second, by the index that it has after another one.
        (vec![0xc0], "localhost"),
        (vec![0xbf], "example.org:8080"),
        (vec![0xbe], "localhost"),
    ];
    let requests =
        blocks.iter().enumerate().flat_map(|(nth, (block, _))| request(nth, &[b"\x83\x86\x84", &block[..]].concat()));
    let found = served(PREFACE.iter().copied().chain(requests).collect(), 1 << 16, blocks.len()).await;
    let found: Vec<_> = found.iter().map(|request| request.uri().authority().unwrap().as_str()).collect();
    assert_eq!(found, blocks.map(|(_, expected)| expected));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_begin_is_late_and_who_has_begun_may_be_silent() {
    let late = opening::LIMIT + Duration::from_secs(1);
    for sent in [&b""[..], &PREFACE[..23]] {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        client.write_all(sent).await.unwrap();
        let mut server = AuthorityRewriter::new(server, 1 << 16, 1 << 14);
        let read = async {
            let mut bytes = Vec::new();
            server.read_to_end(&mut bytes).await
        };
        let error = tokio::time::timeout(late, read).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }
    let (mut client, server) = tokio::io::duplex(1 << 10);
    client.write_all(PREFACE).await.unwrap();
    let mut server = AuthorityRewriter::new(server, 1 << 16, 1 << 14);
    let mut bytes = [0; PREFACE.len()];
    server.read_exact(&mut bytes).await.unwrap();
    assert!(tokio::time::timeout(late * 100, server.read_u8()).await.is_err(), "it may wait as long as it likes");
}
