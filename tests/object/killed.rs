//! Processes that are killed in the middle of an export.

use linkspan::image::Digest;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use rustix::process::Signal;

use crate::broken::store;
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
async fn an_upload_of_a_killed_daemon_goes_on_behind_the_parts_that_the_store_has() {
    let minio = Minio::start(Stack::shared());
    let bucket = minio.bucket();
    let (mut linkspan, address) = door(&bucket, &["--registry-writable"]);
    let bytes = noise(30, 210);
    let begin = |address: &str| {
        let begun = send(address, "POST", "/v2/killed/app/blobs/uploads/", &[], b"");
        begun.header("location").unwrap().to_owned()
    };
    let [long, short] = [begin(&address), begin(&address)];
    assert_eq!(send(&address, "PATCH", &long, &[], &bytes[..10 << 20]).status, 202);
    assert_eq!(
        send(&address, "PATCH", &long, &[("Content-Range", "10485760-17825791")], &bytes[10 << 20..17 << 20]).status,
        202
    );
    assert_eq!(send(&address, "PATCH", &short, &[], &bytes[..1 << 20]).status, 202);
    linkspan.kill();
    assert_eq!(bucket.uploads(), 1, "the store has parts of the long one");

    let (mut linkspan, address) = door(&bucket, &["--registry-writable"]);
    // Of the short one only the process knew.
    let unknown = request(&address, "GET", &short, &[]);
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    let offset = |address: &str| {
        let found = request(address, "GET", &long, &[]);
        assert_eq!(found.status, 204, "{found:?}");
        found.header("range").unwrap().strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1
    };
    assert_eq!(offset(&address), 16 << 20, "two parts");
    let behind = send(&address, "PATCH", &long, &[("Content-Range", "17825792-17825793")], b"xx");
    assert_eq!((behind.status, behind.header("range")), (416, Some("0-16777215")));
    let range = format!("{}-{}", 16 << 20, (25 << 20) - 1);
    assert_eq!(send(&address, "PATCH", &long, &[("Content-Range", &range)], &bytes[16 << 20..25 << 20]).status, 202);
    // Stopped this time, and not killed.
    assert!(linkspan.terminate().success(), "{}", linkspan.log());
    let (mut linkspan, address) = door(&bucket, &["--registry-writable"]);
    let at = offset(&address);
    assert_eq!(at, 24 << 20, "three parts");
    let digest = Digest::sha256(&bytes);
    let wrong = Digest::sha256(b"something else");
    let put = send(&address, "PUT", &format!("{long}?digest={digest}"), &[], &bytes[at..]);
    assert_eq!(put.status, 201, "{put:?}");
    assert!(request(&address, "GET", &format!("/v2/killed/app/blobs/{digest}"), &[]).body == bytes);
    // It has ended, for the next process, too; and one that is no such blob is gone.
    assert_eq!(request(&address, "GET", &long, &[]).status, 404);
    let location = begin(&address);
    assert_eq!(send(&address, "PATCH", &location, &[], &bytes[..9 << 20]).status, 202);
    linkspan.kill();
    let (_linkspan, address) = door(&bucket, &["--registry-writable"]);
    assert_eq!(request(&address, "GET", &long, &[]).status, 404);
    let put = send(&address, "PUT", &format!("{location}?digest={wrong}"), &[], b"");
    assert_eq!((put.status, put.code().as_str()), (400, "DIGEST_INVALID"), "{put:?}");
    assert_eq!(request(&address, "GET", &location, &[]).status, 404);
    let left = bucket.keys().into_iter().filter(|key| key.starts_with("_linkspan/uploads/")).collect::<Vec<_>>();
    assert!(bucket.uploads() == 0 && left.is_empty(), "{left:?}");
}

/// What an earlier version noted of an upload, or nobody can read, is no reason to keep its parts.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_with_which_nobody_can_go_on_is_aborted_and_sent_again() {
    let minio = Minio::start(Stack::shared());
    let bucket = minio.bucket();
    let (mut linkspan, address) = door(&bucket, &["--registry-writable"]);
    let bytes = noise(9, 215);
    let begin = |address: &str| {
        let begun = send(address, "POST", "/v2/killed/app/blobs/uploads/", &[], b"");
        begun.header("location").unwrap().to_owned()
    };
    let location = begin(&address);
    assert_eq!(send(&address, "PATCH", &location, &[], &bytes).status, 202);
    linkspan.kill();
    let store = store(&bucket);
    // Readers have leases, too.
    let mut noted = Vec::new();
    for key in bucket.keys().into_iter().filter(|key| key.starts_with("_linkspan/leases/")) {
        let path = Path::from(format!("some/prefix/{key}"));
        let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        noted.extend(text.contains("\"hash\":\"sha2-").then_some((path, text)));
    }
    let [(path, text)] = &noted[..] else { panic!("{noted:?}") };
    store.put(path, text.replace("\"hash\":\"sha2-", "\"hash\":\"other-").into()).await.unwrap();
    let (_linkspan, address) = door(&bucket, &["--registry-writable"]);
    assert_eq!(bucket.uploads(), 0);
    let gone = request(&address, "GET", &location, &[]);
    assert_eq!((gone.status, gone.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    assert_eq!(send(&address, "PATCH", &location, &[("Content-Range", "8388608-8388609")], b"xx").status, 404);
    let (location, digest) = (begin(&address), Digest::sha256(&bytes));
    assert_eq!(send(&address, "PATCH", &location, &[], &bytes).status, 202);
    assert_eq!(send(&address, "PUT", &format!("{location}?digest={digest}"), &[], b"").status, 201);
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
