//! Processes that are killed in the middle of an export.

use linkspan::image::Digest;
use rustix::process::Signal;

use crate::common::{Minio, Stack, text, until};
use crate::faulty::{Fault, Faulty};
use crate::fixture::{Image, export, names};
use crate::http::{request, send};
use crate::names::{layout, resolved};
use crate::redirects::door;
use crate::uploads::noise;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_copy_left_is_aborted_by_the_next_command() {
    let minio = Minio::start(Stack::shared());
    let bucket = minio.bucket();
    let image = Image::new(&[noise(40, 200), noise(1, 201)]);
    let folder = tempfile::tempdir().unwrap();
    export(&*layout(folder.path()).await, &image, &names(&["killed:1"])).await.unwrap();
    let faulty =
        Faulty::start(&bucket, |_, target| if target.contains("partNumber=3") { Fault::Stall } else { Fault::Pass })
            .await;
    let stalled = faulty.bucket(&bucket);
    let from = format!("oci:{}:killed:1", text(folder.path()));
    let copy = stalled.with(["copy", &from, &format!("{}:", bucket.address())]).spawn();
    until("the third part", || faulty.count(Fault::Stall), |count| *count > 0);
    copy.signal(Signal::KILL);
    assert!(!copy.wait().status.success());
    assert_eq!((bucket.uploads(), resolved(&bucket, "killed:1").await), (1, None));
    let leases = || bucket.keys().iter().filter(|key| key.starts_with("_linkspan/leases/")).count();
    assert_eq!(leases(), 1);

    bucket.linkspan(["images"]).ok();
    assert_eq!((bucket.uploads(), leases()), (0, 0));
    // And it can be copied again; the small layer is there.
    bucket.with(["copy", &from, &format!("{}:", bucket.address())]).ok();
    assert_eq!(resolved(&bucket, "killed:1").await, Some(image.root.digest));
    assert_eq!((bucket.uploads(), leases()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_was_sent_is_aborted_at_its_next_start_and_sent_again() {
    let minio = Minio::start(Stack::shared());
    let bucket = minio.bucket();
    let (mut linkspan, address) = door(&bucket, &["--registry-writable"]);
    let bytes = noise(20, 210);
    let digest = Digest::sha256(&bytes);
    let begin = |address: &str| {
        let begun = send(address, "POST", "/v2/killed/app/blobs/uploads/", &[], b"");
        begun.header("location").unwrap().to_owned()
    };
    let location = begin(&address);
    assert_eq!(send(&address, "PATCH", &location, &[], &bytes[..17 << 20]).status, 202);
    linkspan.kill();
    assert_eq!(bucket.uploads(), 1, "the store has a part of it");

    // What was hashed is not known any more: its client begins anew.
    let (_linkspan, address) = door(&bucket, &["--registry-writable"]);
    assert_eq!(bucket.uploads(), 0);
    assert_eq!(request(&address, "GET", &location, &[]).status, 404);
    assert_eq!(send(&address, "PATCH", &location, &[("Content-Range", "17825792-17825793")], b"xx").status, 404);
    let location = begin(&address);
    assert_eq!(send(&address, "PATCH", &location, &[], &bytes).status, 202);
    let put = send(&address, "PUT", &format!("{location}?digest={digest}"), &[], b"");
    assert_eq!(put.status, 201, "{put:?}");
    let left = bucket.keys().into_iter().filter(|key| key.starts_with("_linkspan/uploads/")).collect::<Vec<_>>();
    assert!(bucket.uploads() == 0 && left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_a_killed_daemon_had_not_named_yet_is_removed() {
    let minio = Minio::start(Stack::shared());
    let bucket = minio.bucket();
    // The copy from the place of blobs without a digest to its own.
    let faulty = Faulty::start(&bucket, |method, target| {
        let is_copy = method == "PUT" && target.contains("blobs/sha256") && !target.contains("partNumber");
        if is_copy { Fault::Stall } else { Fault::Pass }
    })
    .await;
    let (mut linkspan, address) = door(&faulty.bucket(&bucket), &["--registry-writable"]);
    let bytes = noise(20, 220);
    let begun = send(&address, "POST", "/v2/killed/app/blobs/uploads/", &[], b"");
    let location = begun.header("location").unwrap().to_owned();
    assert_eq!(send(&address, "PATCH", &location, &[], &bytes).status, 202);
    let target = format!("{location}?digest={}", Digest::sha256(&bytes));
    let end = std::thread::spawn(move || std::panic::catch_unwind(|| send(&address, "PUT", &target, &[], b"")));
    until("the copy", || faulty.count(Fault::Stall), |count| *count > 0);
    linkspan.kill();
    drop(end.join());
    let unnamed = || bucket.keys().iter().filter(|key| key.starts_with("_linkspan/uploads/")).count();
    assert_eq!(unnamed(), 1);
    let (_linkspan, _) = door(&bucket, &["--registry-writable"]);
    assert_eq!((unnamed(), bucket.uploads()), (0, 0));
}
