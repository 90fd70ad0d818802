//! Pushes that survive what happens to the door, to the engine and to the lease.

use std::thread;
use std::time::Duration;

use linkspan::image::Digest;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::common::{Linkspan, Part, Stack, text, unix, until};
use crate::concurrent::{offset, patch_slowly};
use crate::fixture::{INDEX, Image, Layer, MANIFEST};
use crate::http::{request, send, stream};
use crate::pushes::{image, push_blobs, push_blobs_to, put, put_to, refused};
use crate::served::Served;
use crate::uploads::{begin, content, is_created, is_there};

const WRITABLE: &[&str] = &["--registry-writable"];

/// The door is killed after chunks, after a stream, and in the middle of a stream.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_gone_on_with_after_a_crash() {
    let stack = Stack::shared();
    for kind in ["layout", "containerd"] {
        let folder = tempfile::tempdir().unwrap();
        let layout = ["--engine", "layout", "--layout", text(folder.path())];
        let containerd = stack.containerd_flags("registry-crash");
        let engine: &[&str] = if kind == "layout" { &layout } else { &containerd };
        let socket = stack.fresh_path("-registry.sock");
        let listen = unix(&socket);
        let args = [engine, WRITABLE, &["--registry-listen", &listen]].concat();
        let start = || Linkspan::start_at(stack, &args, &[], vec![socket.clone()]);
        let mut linkspan = start();
        for way in ["chunk", "stream"] {
            let whole = content(&format!("crash {kind} {way}"), 5_000_000);
            let digest = Digest::sha256(&whole);
            let begun = send(&listen, "POST", "/v2/crash/app/blobs/uploads/", &[], b"");
            let location = begun.header("location").unwrap().to_owned();
            let first = &whole[..4_000_000];
            let patched = match way {
                "chunk" => send(&listen, "PATCH", &location, &[("Content-Range", "0-3999999")], first),
                _ => stream(&listen, "PATCH", &location, first),
            };
            assert_eq!(patched.status, 202, "{patched:?}");
            linkspan.kill();
            linkspan = start();
            let at = offset(&listen, &location);
            assert!((1..=4_000_000).contains(&at), "{kind} {way}: {at}");
            let put = send(&listen, "PUT", &format!("{location}?digest={digest}"), &[], &whole[at..]);
            is_created(&put, "crash/app", &digest);
            assert!(request(&listen, "GET", &format!("/v2/crash/app/blobs/{digest}"), &[]).body == whole);
        }
        assert!(linkspan.terminate().success(), "{}", linkspan.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_a_crash_cuts_off_is_gone_on_with() {
    let stack = Stack::shared();
    let (folder, socket) = (tempfile::tempdir().unwrap(), stack.fresh_path("-registry.sock"));
    let listen = unix(&socket);
    let engine = ["--engine", "layout", "--layout", text(folder.path())];
    let args = [&engine[..], WRITABLE, &["--registry-listen", &listen]].concat();
    let start = || Linkspan::start_at(stack, &args, &[], vec![socket.clone()]);
    let mut linkspan = start();
    let whole = content("cut off", 5_000_000);
    let digest = Digest::sha256(&whole);
    let begun = send(&listen, "POST", "/v2/cut/app/blobs/uploads/", &[], b"");
    let location = begun.header("location").unwrap().to_owned();
    let _sending = patch_slowly(&listen, &location, whole.len(), &whole[..4_000_000]);
    until("the bytes", || offset(&listen, &location), |offset| *offset == 4_000_000);
    linkspan.kill();
    let mut linkspan = start();
    let at = offset(&listen, &location);
    assert!((1..=4_000_000).contains(&at), "{at}");
    let put = send(&listen, "PUT", &format!("{location}?digest={digest}"), &[], &whole[at..]);
    is_created(&put, "cut/app", &digest);
    assert!(linkspan.terminate().success(), "{}", linkspan.log());
}

/// Nothing shows of it, and the next process goes on with the push: what was sent is kept.
#[tokio::test(flavor = "multi_thread")]
async fn the_door_is_killed_while_a_manifest_is_put() {
    let stack = Stack::start(&[Part::Containerd]);
    let namespace = "registry-killed";
    let socket = stack.fresh_path("-registry.sock");
    let listen = unix(&socket);
    let args = [&stack.containerd_flags(namespace)[..], WRITABLE, &["--registry-listen", &listen]].concat();
    let mut linkspan = Linkspan::start_at(&stack, &args, &[], vec![socket.clone()]);
    let image = Image::new(&[Layer::new().file("a", "killed").tar()]);
    let bytes = image.blobs[&image.root.digest].clone();
    push_blobs_to(&listen, "killed/app", &image);
    let containerd = stack.pid(Part::Containerd);
    kill_process(containerd, Signal::STOP).unwrap();
    let (target, body) = (listen.clone(), bytes.clone());
    let putting = thread::spawn(move || {
        // Its connection breaks: there is no response to be read.
        std::panic::catch_unwind(|| put_to(&target, "killed/app", "1", MANIFEST, &body)).is_err()
    });
    // However far it has come by then.
    thread::sleep(Duration::from_millis(300));
    linkspan.kill();
    kill_process(containerd, Signal::CONT).unwrap();
    assert!(putting.join().unwrap());
    assert_eq!(stack.images(namespace), []);
    assert_eq!(stack.linkspan_leases(namespace).len(), 1);
    let mut linkspan = Linkspan::start_at(&stack, &args, &[], vec![socket]);
    stack.collect_garbage(namespace);
    assert_eq!(put_to(&listen, "killed/app", "1", MANIFEST, &bytes).status, 201);
    assert_eq!(stack.image_of(namespace, "docker.io/killed/app:1"), Some(image.root.digest.to_string()));
    assert!(linkspan.terminate().success(), "{}", linkspan.log());
}

/// An index may come long after its images: the push that they came with is taken up by another process, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_comes_long_after_its_image() {
    let stack = Stack::shared();
    let namespace = "registry-late";
    let socket = stack.fresh_path("-registry.sock");
    let listen = unix(&socket);
    let args = [&stack.containerd_flags(namespace)[..], WRITABLE, &["--registry-listen", &listen]].concat();
    let mut linkspan = Linkspan::start_at(stack, &args, &[], vec![socket.clone()]);
    let child = image("late\n");
    push_blobs_to(&listen, "late/app", &child);
    let bytes = &child.blobs[&child.root.digest];
    assert_eq!(put_to(&listen, "late/app", child.root.digest.as_str(), MANIFEST, bytes).status, 201);
    assert!(linkspan.terminate().success(), "{}", linkspan.log());
    stack.collect_garbage(namespace);
    let mut linkspan = Linkspan::start_at(stack, &args, &[], vec![socket]);
    stack.collect_garbage(namespace);
    let index = Image::index(&[child]);
    assert_eq!(put_to(&listen, "late/app", "1", INDEX, &index.blobs[&index.root.digest]).status, 201);
    assert_eq!(stack.image_of(namespace, "docker.io/late/app:1"), Some(index.root.digest.to_string()));
    assert!(linkspan.terminate().success(), "{}", linkspan.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_is_restarted_under_an_upload() {
    let stack = Stack::start(&[Part::Containerd]);
    let flags = stack.containerd_flags("registry-restarted");
    let (mut linkspan, address) = Linkspan::registry(&stack, &[&flags[..], WRITABLE].concat());
    let whole = content("restarted", 2_000_000);
    let digest = Digest::sha256(&whole);
    let begun = send(&address, "POST", "/v2/restarted/app/blobs/uploads/", &[], b"");
    let location = begun.header("location").unwrap().to_owned();
    assert_eq!(send(&address, "PATCH", &location, &[], &whole[..1_000_000]).status, 202);
    stack.kill(Part::Containerd);
    let at = offset(&address, &location);
    let during = send(&address, "PATCH", &location, &[], &whole[at..]);
    assert!(during.status >= 500, "{during:?}");
    stack.up();
    let go_on = || {
        let at = offset(&address, &location);
        let range = format!("{at}-{}", whole.len() - 1);
        send(&address, "PATCH", &location, &[("Content-Range", &range)], &whole[at..]).status
    };
    until("the upload to go on", go_on, |status| *status == 202);
    let put = send(&address, "PUT", &format!("{location}?digest={digest}"), &[], b"");
    is_created(&put, "restarted/app", &digest);
    assert!(request(&address, "GET", &format!("/v2/restarted/app/blobs/{digest}"), &[]).body == whole);
    assert!(linkspan.terminate().success(), "{}", linkspan.log());
}

/// `ctr leases rm`, or whatever takes leases for its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_lease_was_deleted_goes_on_under_another_one() {
    let stack = Stack::shared();
    let namespace = "registry-lease-lost";
    let served = Served::containerd(namespace, WRITABLE).await;
    let (name, address) = ("lost/app", &served.address);
    let image = image("lost\n");
    let unused = begin(&served, name);
    let half = begin(&served, name);
    let whole = content("half of it is lost", 1000);
    let digest = Digest::sha256(&whole);
    let lost = content("the other half, too", 1000);
    let delete_leases = || {
        // Those of readers, too.
        let leases = stack.linkspan_leases(namespace);
        assert_ne!(leases, Vec::<String>::new());
        for lease in leases {
            stack.ctr(namespace, ["leases", "rm", "--sync", &lease]).ok();
        }
        until("it to be collected", || stack.linkspan_ingests(namespace), Vec::is_empty);
    };
    assert_eq!(send(address, "PATCH", &half, &[("Content-Range", "0-499")], &lost[..500]).status, 202);
    push_blobs(&served, name, &image);
    delete_leases();
    // An upload that has sent nothing is as good as new; one that has is lost, and is sent anew.
    is_created(&send(address, "PUT", &format!("{unused}?digest={digest}"), &[], &whole), name, &digest);
    is_there(&served, name, &whole);
    let target = format!("{half}?digest={}", Digest::sha256(&lost));
    let put_half = send(address, "PUT", &target, &[], &lost[500..]);
    assert!(matches!(put_half.status, 404 | 416 | 503), "{put_half:?}");
    let anew = format!("{}?digest={}", begin(&served, name), Digest::sha256(&lost));
    is_created(&send(address, "PUT", &anew, &[], &lost), name, &Digest::sha256(&lost));
    // What is gone is asked for, and comes.
    let bytes = &image.blobs[&image.root.digest];
    refused(&put(&served, name, "1", MANIFEST, bytes), 400, "MANIFEST_BLOB_UNKNOWN");
    push_blobs(&served, name, &image);
    delete_leases();
    // Once more, before the manifest: its blobs may be gone, but the push is not.
    push_blobs(&served, name, &image);
    assert_eq!(put(&served, name, "1", MANIFEST, bytes).status, 201);
    assert_eq!(stack.image_of(namespace, "docker.io/lost/app:1"), Some(image.root.digest.to_string()));
    // A HEAD that finds something pins it under the new lease, too.
    delete_leases();
    let other = format!("/v2/lost/other/blobs/{}", image.config.digest);
    assert_eq!(served.head(&other).status, 200);
    assert_eq!(served.head(&format!("/v2/lost/app/blobs/{}", image.config.digest)).status, 200);
    let tags = served.get("/v2/lost/app/tags/list").json()["tags"].clone();
    assert_eq!(tags, json!(["1"]));
}
