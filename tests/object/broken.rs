//! Objects that others deleted or damaged: the next export mends them, and one bad object does not hide the others.

use futures_util::StreamExt as _;
use linkspan::image::Digest;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use rustix::process::Signal;

use crate::common::{Bucket, Minio, Stack, refusal, text, unix, until};
use crate::fixture::{Image, Layer, export, image, names};
use crate::names::{layout, resolved};

/// The bucket as other tools reach it.
pub(crate) fn store(bucket: &Bucket) -> impl ObjectStore {
    let variables = bucket.variables();
    let client = variables.iter().fold(AmazonS3Builder::new(), |client, (name, value)| {
        client.with_config(name.to_ascii_lowercase().parse().unwrap(), value)
    });
    client.with_bucket_name(&bucket.name).build().unwrap()
}

fn path(key: &str) -> Path {
    Path::from(format!("some/prefix/docker/registry/v2/repositories/{key}"))
}

/// The object of a blob.
fn blob(digest: &Digest) -> Path {
    let hex = digest.hex();
    Path::from(format!("some/prefix/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
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
            let (pulled, name) = (tempfile::tempdir().unwrap(), format!("{}/linked:1", registry.address));
            stack.run("crane").args(["pull", "--format", "oci", &name, text(pulled.path())]).ok();
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
    store(&bucket).delete(&blob(&gone.root.digest)).await.unwrap();
    let output = bucket.linkspan(["inspect", "gone:1"]).fails();
    let expected = format!("the tag points to {}, which the bucket does not hold", gone.root.digest);
    assert!(refusal(&output).contains(&expected), "{output}");
    bucket.linkspan(["rm", "gone:1"]).ok();
    assert!(!bucket.keys().iter().any(|key| key.contains("/tags/1/")));
    let output = bucket.linkspan(["rm", "gone:1"]).fails();
    assert!(!output.stderr.contains("points to"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_document_is_written_again_by_an_export_that_brings_it() {
    let bucket = Minio::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    let image = image("damaged documents\n");
    let set = names(&["documents:1"]);
    for damaged in [&image.root, &image.config] {
        let plan = export(&*engine, &image, &set).await.unwrap();
        assert!(plan.missing.iter().all(|blob| blob.digest != damaged.digest));
        let mut bytes = image.blobs[&damaged.digest].to_vec();
        bytes[10] ^= 1;
        store(&bucket).put(&blob(&damaged.digest), bytes.into()).await.unwrap();
        assert_eq!(engine.already_complete(&image.root, &set).await.unwrap(), None);
        let plan = export(&*engine, &image, &set).await.unwrap();
        assert_eq!(plan.stored.iter().map(|blob| &blob.digest).collect::<Vec<_>>(), [&damaged.digest]);
        assert_eq!(engine.already_complete(&image.root, &set).await.unwrap(), Some(image.blobs.len()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_archive_is_saved_of_a_damaged_image() {
    let bucket = Minio::shared().bucket();
    let (image, name) = (image("damaged layer\n"), names(&["damaged:1"]));
    export(&*bucket.engine().await.unwrap().engine, &image, &name).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    export(&*layout(folder.path()).await, &image, &name).await.unwrap();
    let layer = &image.layers[1].digest;
    let mut bytes = image.blobs[layer].to_vec();
    bytes[700] ^= 1;
    let file = folder.path().join("blobs/sha256").join(layer.hex());
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    store(&bucket).put(&blob(layer), bytes.into()).await.unwrap();
    let to = tempfile::tempdir().unwrap();
    let archive = to.path().join("image.tar");
    let save = ["save", "-o", text(&archive), "damaged:1"];
    for run in [bucket.linkspan(save), bucket.with(save).args(["--layout", text(folder.path())])] {
        let output = run.fails();
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert!(refusal(&output).contains(layer.as_str()) && output.stderr.contains("it is damaged"), "{output}");
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0, "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_up_yet_is_waited_for() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    // Of a listener that is gone, so that nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let later = bucket.at(&address.to_string());
    let door = unix(&stack.fresh_path(".sock"));
    let serve = |timeout: &str| later.linkspan(["serve", "--export-listen", &door, "--engine-timeout", timeout]);
    let output = serve("1").fails();
    assert!(output.stderr.contains("the object store does not respond at s3://"), "{output}");
    assert!(refusal(&output).contains("AWS_ENDPOINT_URL"), "{output}");

    let daemon = serve("600").spawn();
    until("it to wait", || daemon.stderr(), |stderr| stderr.contains("waiting for the engine, "));
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let behind = bucket.endpoint.strip_prefix("http://").unwrap().to_owned();
    let relay = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let behind = behind.clone();
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(behind).await.unwrap();
                // Either side may end it.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    until("the door to open", || daemon.stderr(), |stderr| stderr.contains("listening on "));
    daemon.signal(Signal::TERM);
    let output = daemon.wait();
    assert_eq!(output.status.code(), Some(0), "{output}");
    relay.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_collected_while_a_manifest_is_damaged() {
    let bucket = Minio::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    let (image, set) = (image("with a damaged manifest\n"), names(&["damaged:1"]));
    export(&*engine, &image, &set).await.unwrap();
    let before = bucket.keys();
    // It is JSON, and says nothing of its layers.
    store(&bucket).put(&blob(&image.root.digest), "{\"schemaVersion\":2}".into()).await.unwrap();
    crate::collect::next_second().await;
    let collect = || bucket.linkspan(["gc", "--grace", "0", "--wait", "0"]);
    let output = collect().fails();
    assert!(refusal(&output).contains("it is damaged") && output.stderr.contains(image.root.digest.hex()), "{output}");
    let mut after = bucket.keys();
    after.retain(|key| key != "_linkspan/conditional");
    assert_eq!(after, before.into_iter().filter(|key| key != "_linkspan/conditional").collect::<Vec<_>>());
    export(&*engine, &image, &set).await.unwrap();
    collect().ok();
    crate::collect::check_whole(&bucket, &set[0], &image).await;
}
