//! Clients that push at the same moment, or go away in the middle.

use std::sync::Barrier;
use std::thread;

use linkspan::image::Digest;

use crate::common::until;
use crate::fixture::MANIFEST;
use crate::http::{Stream, connect, request, send};
use crate::pushes::{image, push_blobs, put, refused};
use crate::served::Served;
use crate::uploads::{begin, content, is_created, is_there};

const WRITABLE: &[&str] = &["--registry-writable"];

/// Where an upload is: how many bytes it has.
#[track_caller]
pub(crate) fn offset(address: &str, location: &str) -> usize {
    let status = request(address, "GET", location, &[]);
    assert_eq!(status.status, 204, "{status:?}");
    let last: usize = status.header("range").unwrap().strip_prefix("0-").unwrap().parse().unwrap();
    // No test sends a single byte, which has the same range as none.
    if last == 0 { 0 } else { last + 1 }
}

/// Sends the head of a PATCH that announces `length` bytes, and the first of them.
#[track_caller]
pub(crate) fn patch_slowly(address: &str, location: &str, length: usize, first: &[u8]) -> Box<dyn Stream> {
    let mut stream = connect(address);
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), first].concat()).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_push_one_blob_at_once() {
    const CLIENTS: usize = 4;
    for served in Served::everywhere("registry-at-once", WRITABLE).await {
        for round in 0..3 {
            let whole = content(&format!("at once {round} {}", served.kind()), 400_000);
            let digest = Digest::sha256(&whole);
            let together = Barrier::new(CLIENTS);
            thread::scope(|scope| {
                for client in 0..CLIENTS {
                    let (served, whole, digest, together) = (&served, &whole, &digest, &together);
                    scope.spawn(move || {
                        let name = format!("once/app{}", client % 2);
                        let location = begin(served, &name);
                        together.wait();
                        let target = format!("{location}?digest={digest}");
                        // Half of them in two steps.
                        let (first, rest) = whole.split_at(if client < 2 { 0 } else { 150_000 });
                        if !first.is_empty() {
                            assert_eq!(send(&served.address, "PATCH", &location, &[], first).status, 202);
                        }
                        is_created(&send(&served.address, "PUT", &target, &[], rest), &name, digest);
                    });
                }
            });
            is_there(&served, "once/app0", &whole);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_on_an_upload_is_told_where_it_is() {
    for served in [Served::layout(WRITABLE).await, Served::containerd("registry-second", WRITABLE).await] {
        let address = &served.address;
        let whole = content(&format!("second {}", served.kind()), 300_000);
        let digest = Digest::sha256(&whole);
        let location = begin(&served, "second/app");
        let mut first = patch_slowly(address, &location, whole.len(), &whole[..100_000]);
        until("the first bytes", || offset(address, &location), |offset| *offset == 100_000);
        let second = send(address, "PATCH", &location, &[("Content-Range", "0-9")], b"0123456789");
        refused(&second, 416, "BLOB_UPLOAD_INVALID");
        assert_eq!(second.header("range"), Some("0-99999"));
        first.write_all(&whole[100_000..]).unwrap();
        let mut response = String::new();
        first.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 202"), "{response}");
        is_created(&send(address, "PUT", &format!("{location}?digest={digest}"), &[], b""), "second/app", &digest);
        is_there(&served, "second/app", &whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_client_went_away_is_gone_on_with() {
    for served in Served::everywhere("registry-away", WRITABLE).await {
        let address = &served.address;
        let whole = content(&format!("away {}", served.kind()), 3_000_000);
        let digest = Digest::sha256(&whole);
        let location = begin(&served, "away/app");
        drop(patch_slowly(address, &location, whole.len(), &whole[..1_500_000]));
        // The next request follows at once: until the former one has ended, it is told where that is.
        let go_on = || {
            let at = offset(address, &location);
            let range = format!("{at}-{}", whole.len() - 1);
            send(address, "PATCH", &location, &[("Content-Range", &range)], &whole[at..]).status
        };
        until("the upload to go on", go_on, |status| *status == 202);
        is_created(&send(address, "PUT", &format!("{location}?digest={digest}"), &[], b""), "away/app", &digest);
        is_there(&served, "away/app", &whole);
    }
}

/// docker is asked by the name, and compares nothing: there the look comes right before.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_pushes_of_a_tag_that_must_not_move_one_wins() {
    let args = ["--registry-writable", "--deny-tag-move"];
    for served in [Served::layout(&args).await, Served::containerd("registry-race", &args).await] {
        for round in 0..5 {
            let images = ["one", "other"].map(|side| image(&format!("{side} {round} {}", served.kind())));
            images.iter().for_each(|image| push_blobs(&served, "race/app", image));
            let together = Barrier::new(images.len());
            let tag = format!("v{round}");
            let statuses: Vec<u16> = thread::scope(|scope| {
                let pushing = images.each_ref().map(|image| {
                    let (served, together, tag) = (&served, &together, &tag);
                    scope.spawn(move || {
                        together.wait();
                        put(served, "race/app", tag, MANIFEST, &image.blobs[&image.root.digest]).status
                    })
                });
                pushing.into_iter().map(|client| client.join().unwrap()).collect()
            });
            let winner = statuses.iter().position(|status| *status == 201).unwrap();
            assert_eq!(statuses[1 - winner], 403, "{statuses:?}");
            let got = served.get(&format!("/v2/race/app/manifests/{tag}"));
            assert_eq!(got.body, images[winner].blobs[&images[winner].root.digest], "{statuses:?}");
        }
    }
}
