//! Objects that others deleted or damaged: the next export mends them, and one bad object does not hide the others.

use futures_util::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::common::{Bucket, Minio, Stack, refusal, text};
use crate::fixture::{Image, Layer, export, image, names};
use crate::names::{layout, resolved};

/// The bucket as other tools reach it.
fn store(bucket: &Bucket) -> impl ObjectStore {
    let variables = bucket.variables();
    let client = variables.iter().fold(AmazonS3Builder::new(), |client, (name, value)| {
        client.with_config(name.to_ascii_lowercase().parse().unwrap(), value)
    });
    client.with_bucket_name(&bucket.name).build().unwrap()
}

fn path(key: &str) -> Path {
    Path::from(format!("some/prefix/docker/registry/v2/repositories/{key}"))
}

async fn delete_below(bucket: &Bucket, key: &str) {
    let store = store(bucket);
    let found: Vec<_> = store.list(Some(&path(key))).map(|found| found.unwrap().location).collect().await;
    assert!(!found.is_empty(), "{key}");
    for location in found {
        store.delete(&location).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_missing_is_written_by_the_next_export() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let registry = bucket.registry(stack);
    let engine = bucket.engine().await.unwrap().engine;
    let few = image("two layers\n");
    let many: Vec<_> =
        (0..6).map(|at: usize| Layer::new().file(&format!("file-{at}"), "in a layer of its own").tar()).collect();
    for image in [&few, &Image::new(&many)] {
        let set = names(&["linked:1"]);
        let digest = &image.root.digest;
        let check = || {
            let name = format!("{}/linked:1", registry.address);
            stack.run("crane").args(["validate", "--remote", &name]).output()
        };
        export(&*engine, image, &set).await.unwrap();
        let complete = Some(image.blobs.len());
        for key in [
            format!("linked/_layers/sha256/{}", image.layers[0].digest.hex()),
            format!("linked/_layers/sha256/{}", image.config.digest.hex()),
            format!("linked/_manifests/revisions/sha256/{}", digest.hex()),
        ] {
            assert_eq!(engine.already_complete(&image.root, &set).await.unwrap(), complete);
            delete_below(&bucket, &key).await;
            assert_eq!(engine.already_complete(&image.root, &set).await.unwrap(), None, "{key}");
            let folder = tempfile::tempdir().unwrap();
            export(&*layout(folder.path()).await, image, &names(&["linked:1"])).await.unwrap();
            let (from, to) = (format!("oci:{}:linked:1", text(folder.path())), format!("{}:", bucket.address()));
            bucket.with(["copy", &from, &to]).ok();
            assert_eq!(engine.already_complete(&image.root, &set).await.unwrap(), complete, "{key}");
            let served = check();
            assert!(served.status.success(), "{key}: {served}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_no_link_hides_no_others_and_is_replaced_or_removed() {
    let bucket = Minio::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    let (good, new) = (image("good\n"), image("new\n"));
    export(&*engine, &good, &names(&["good:1"])).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    export(&*layout(folder.path()).await, &new, &names(&["bad:1"])).await.unwrap();
    let from = format!("oci:{}:bad:1", text(folder.path()));
    let copy = ["copy", &from, &format!("{}:", bucket.address())];
    let tag = path("bad/_manifests/tags/1/current/link");
    for bad in [b"hello".to_vec(), Vec::new(), vec![b'x'; 200_000]] {
        store(&bucket).put(&tag, bad.clone().into()).await.unwrap();
        let listed = bucket.linkspan(["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().stdout;
        assert_eq!(listed.trim(), "good:1");
        let output = bucket.linkspan(["inspect", "bad:1"]).fails();
        assert!(refusal(&output).contains("it is no link"), "{output}");
        let output = bucket.with(copy).env("LINKSPAN_DENY_TAG_MOVE", "true").fails();
        assert!(refusal(&output).contains("it is no link"), "{output}");
        bucket.with(copy).ok();
        assert_eq!(resolved(&bucket, "bad:1").await.as_ref(), Some(&new.root.digest));
        store(&bucket).put(&tag, bad.into()).await.unwrap();
        let output = bucket.linkspan(["rm", "bad:1"]).ok();
        assert_eq!(output.stdout.trim(), "Untagged: bad:1");
        assert!(!bucket.keys().iter().any(|key| key.contains("/bad/_manifests/tags/1/")));
        assert_eq!(resolved(&bucket, "bad:1").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_image_is_gone_is_named_and_removed() {
    let bucket = Minio::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    let gone = image("gone\n");
    export(&*engine, &gone, &names(&["gone:1"])).await.unwrap();
    let hex = gone.root.digest.hex();
    let key = Path::from(format!("some/prefix/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    store(&bucket).delete(&key).await.unwrap();
    let output = bucket.linkspan(["inspect", "gone:1"]).fails();
    let expected = format!("the tag points to {}, which the bucket does not hold", gone.root.digest);
    assert!(refusal(&output).contains(&expected), "{output}");
    bucket.linkspan(["rm", "gone:1"]).ok();
    assert!(!bucket.keys().iter().any(|key| key.contains("/tags/1/")));
    let output = bucket.linkspan(["rm", "gone:1"]).fails();
    assert!(!output.stderr.contains("points to"), "{output}");
}
