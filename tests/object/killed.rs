//! Processes that are killed in the middle of an export.

use rustix::process::Signal;

use crate::common::{Minio, Stack, text, until};
use crate::faulty::{Fault, Faulty};
use crate::fixture::{Image, export, names};
use crate::names::{layout, resolved};
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
