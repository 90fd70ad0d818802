//! Clients that ask for much and push nothing.

use linkspan::image::Digest;
use rustix::process::Signal;

use crate::common::{Linkspan, Stack, read_some, unix, until};
use crate::fixture::MANIFEST;
use crate::http::{request, send};
use crate::pushes::{image, push_blobs, push_blobs_to, put, put_to};
use crate::served::Served;
use crate::uploads::content;

const WRITABLE: &[&str] = &["--registry-writable"];

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_asks_keeps_nobody_from_pushing() {
    let served = Served::layout(WRITABLE).await;
    let there = content("only asked for", 100);
    let digest = Digest::sha256(&there);
    let target = format!("/v2/asked/app/blobs/uploads/?digest={digest}");
    assert_eq!(send(&served.address, "POST", &target, &[], &there).status, 201);
    for number in 0..300 {
        assert_eq!(served.head(&format!("/v2/asked/{number}/blobs/{digest}")).status, 200, "{number}");
    }
    let image = image("pushed beside questions\n");
    push_blobs(&served, "asked/pushed", &image);
    let bytes = &image.blobs[&image.root.digest];
    assert_eq!(put(&served, "asked/pushed", "1", MANIFEST, bytes).status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_leased() {
    let stack = Stack::shared();
    let namespace = "registry-missing";
    let served = Served::containerd(namespace, WRITABLE).await;
    let digest = Digest::sha256(b"of no registry");
    for number in 0..3 {
        assert_eq!(served.head(&format!("/v2/missing/{number}/blobs/{digest}")).status, 404);
        assert_eq!(served.get(&format!("/v2/missing/{number}/blobs/{digest}")).status, 404);
        assert_eq!(served.head(&format!("/v2/missing/{number}/manifests/1")).status, 404);
    }
    assert_eq!(stack.linkspan_leases(namespace), Vec::<String>::new());
}

/// Nothing was sent, so that nothing is to be gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_ends_the_pushes_that_keep_nothing() {
    let stack = Stack::shared();
    for signal in [Signal::KILL, Signal::TERM] {
        let namespace = if signal == Signal::KILL { "registry-empty-killed" } else { "registry-empty-ended" };
        let socket = stack.fresh_path("-registry.sock");
        let listen = unix(&socket);
        let args = [&stack.containerd_flags(namespace)[..], WRITABLE, &["--registry-listen", &listen]].concat();
        let mut linkspan = Linkspan::start_at(stack, &args, &[], vec![socket.clone()]);
        for number in 0..3 {
            let target = format!("/v2/empty/{number}/blobs/uploads/");
            assert_eq!(send(&listen, "POST", &target, &[], b"").status, 202);
        }
        let image = image("kept by a restart\n");
        push_blobs_to(&listen, "kept/app", &image);
        assert_eq!(stack.linkspan_leases(namespace).len(), 4);
        match signal {
            Signal::KILL => linkspan.kill(),
            _ => assert!(linkspan.terminate().success(), "{}", linkspan.log()),
        }
        let mut linkspan = Linkspan::start_at(stack, &args, &[], vec![socket]);
        until("the empty ones to end", || stack.linkspan_leases(namespace).len(), |leases| *leases == 1);
        let bytes = &image.blobs[&image.root.digest];
        stack.collect_garbage(namespace);
        assert_eq!(put_to(&listen, "kept/app", "1", MANIFEST, bytes).status, 201);
        assert_eq!(request(&listen, "GET", "/v2/kept/app/manifests/1", &[]).body, *bytes);
        assert!(linkspan.terminate().success(), "{}", linkspan.log());
    }
}

/// An order, and no time: without a shorter limit of its own the silent one would be closed after the idle one.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_for_nothing_is_closed_long_before_one_that_has_asked() {
    use std::io::{Read as _, Write as _};
    let served = Served::layout(&[]).await;
    let host = served.address.strip_prefix("tcp://").unwrap_or(&served.address).to_owned();
    let connect = || {
        let stream = std::net::TcpStream::connect(&host).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(180))).unwrap();
        stream
    };
    let mut asking = connect();
    let mut ask = || {
        write!(asking, "HEAD /v2/ HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let (mut response, mut byte) = (Vec::new(), [0]);
        while !response.ends_with(b"\r\n\r\n") {
            asking.read_exact(&mut byte).unwrap();
            response.push(byte[0]);
        }
        assert!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response));
    };
    ask();
    let (mut silent, mut slow) = (connect(), connect());
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nHost: ").unwrap();
    for stream in [&mut silent, &mut slow] {
        assert_eq!(read_some(stream, &mut [0; 64]).unwrap(), 0, "closed without a word");
    }
    ask();
}
