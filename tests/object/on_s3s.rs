//! The engine over a second S3 server, in this process: what is not MinIO's own way of doing things.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use linkspan::engine::images::Record;
use linkspan::engine::{EngineError, Lifetime};
use linkspan::image::Descriptor;

use crate::collect::{blobs, check_whole, collect, left, next_second, what_lost_its_tag_is_collected};
use crate::common::{Bucket, Context, Linkspan, Run, Stack, cached_steps, refusal, text};
use crate::fixture::{Image, begin, export, image, names, origin, send};
use crate::http::request;
use crate::names::{layout, precondition, prepared, resolved};
use crate::redirects::{compressed, door, location};
use crate::s3s::S3s;
use crate::uploads::noise;

/// The bytes of a blob from an offset on.
async fn read(bucket: &Bucket, blob: &Descriptor, offset: u64) -> Bytes {
    let engine = bucket.engine().await.unwrap().engine;
    let chunks: Vec<Bytes> = engine.images().unwrap().open(blob, offset).await.unwrap().try_collect().await.unwrap();
    chunks.concat().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_loaded_listed_inspected_and_copied_out_as_it_was() {
    let (stack, bucket, image) = (Stack::shared(), S3s::shared().bucket(), image("over another server\n"));
    let (folder, digest) = (tempfile::tempdir().unwrap(), image.root.digest.to_string());
    export(&*layout(folder.path()).await, &image, &names(&["demo:1"])).await.unwrap();
    let archive = stack.fresh_path(".tar");
    let from = ["save", "--engine", "layout", "--layout", text(folder.path()), "-o", text(&archive), "demo:1"];
    crate::common::linkspan(from).ok();
    bucket.linkspan(["load", "-i", text(&archive)]).ok();
    let listed = bucket.linkspan(["images", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}"]).ok().stdout;
    assert_eq!(listed.trim(), format!("demo:1 {digest}"));
    let inspected = bucket.linkspan(["inspect", "demo:1"]).ok().stdout;
    assert!(inspected.contains(&digest), "{inspected}");
    check_whole(&bucket, &names(&["demo:1"])[0], &image).await;
    let back = tempfile::tempdir().unwrap();
    let to = format!("oci:{}:back:1", text(back.path()));
    bucket.with(["copy", &format!("{}:demo:1", bucket.address()), &to]).ok();
    let engine = layout(back.path()).await;
    assert_eq!(engine.resolve(&names(&["back:1"])[0]).await.unwrap(), Some(image.root.digest.clone()));
    for blob in image.graph().descriptors() {
        let chunks: Vec<Bytes> = engine.images().unwrap().open(blob, 0).await.unwrap().try_collect().await.unwrap();
        assert_eq!(chunks.concat(), image.blobs[&blob.digest], "{}", blob.digest);
    }
    bucket.linkspan(["rm", "demo:1"]).ok();
    assert_eq!(bucket.linkspan(["images", "--quiet"]).ok().stdout, "");
    assert_eq!(left(&bucket), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_goes_in_parts_and_a_wrong_one_leaves_nothing() {
    let bucket = S3s::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    // Below, at and above the size of a part.
    let layers = [noise(1, 1), noise(8, 2), noise(33, 3)];
    let image = Image::new(&layers);
    export(&*engine, &image, &names(&["large:1"])).await.unwrap();
    for (layer, bytes) in image.layers.iter().zip(&layers) {
        for offset in [0, layer.size / 2, layer.size - 1, layer.size] {
            let from = usize::try_from(offset).unwrap();
            assert!(read(&bucket, layer, offset).await == bytes[from..], "{} from {offset}", layer.digest);
        }
    }
    let (right, wrong) = (noise(20, 5), noise(20, 6));
    let image = Image::new(std::slice::from_ref(&right));
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let error = send(&*transaction, &image.layers[0], &wrong).await.unwrap_err();
    assert!(matches!(&error, EngineError::Corrupt { digest, .. } if *digest == image.layers[0].digest), "{error}");
    assert_eq!(engine.images().unwrap().size(&image.layers[0].digest).await.unwrap(), None);
    send(&*transaction, &image.layers[0], &right).await.unwrap();
    transaction.prepare().await.unwrap().commit(&names(&["right:1"]), &[]).await.unwrap();
    lease.release().await.unwrap();
    assert!(read(&bucket, &image.layers[0], 0).await == right);
    crate::common::until("the upload to be aborted", || bucket.uploads(), |count| *count == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_created_and_moved_only_from_where_it_was_seen() {
    let bucket = S3s::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    let name = names(&["app:1"]).remove(0);
    let mut before = None;
    for round in 0..3 {
        let (next, late) = (image(&format!("round {round}\n")), image(&format!("late in round {round}\n")));
        let conditions = [precondition(&name, before.as_ref())];
        // Both have seen the same.
        let (lease, transaction) = prepared(&*engine, &late).await;
        let (other, first) = prepared(&*engine, &next).await;
        first.prepare().await.unwrap().commit(std::slice::from_ref(&name), &conditions).await.unwrap();
        let set = transaction.prepare().await.unwrap().commit(std::slice::from_ref(&name), &conditions).await;
        assert!(
            matches!(&set, Err(EngineError::NameMoved { current: Some(current), .. }) if *current == next.root.digest),
            "{set:?}"
        );
        lease.release().await.unwrap();
        other.release().await.unwrap();
        before = Some(next.root.digest.clone());
        assert_eq!(resolved(&bucket, "app:1").await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_push_to_the_door_and_pull_from_it_and_from_the_store() {
    let (stack, bucket) = (Stack::shared(), S3s::shared().bucket());
    let (_passed, address) = door(&bucket, &["--registry-writable"]);
    let (_other, redirecting) = door(&bucket, &["--registry-redirect"]);
    let (image, folder) = (compressed("pushed\n"), tempfile::tempdir().unwrap());
    export(&*layout(folder.path()).await, &image, &names(&["x:1"])).await.unwrap();
    let digest = image.root.digest.as_str();
    stack.run("crane").args(["push", text(folder.path()), &format!("{address}/a:1")]).ok();
    assert_eq!(resolved(&bucket, "a:1").await.as_ref().map(|digest| digest.as_str()), Some(digest));
    let copy = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"];
    let copy = |from: &str, to: &str| Run::new("skopeo").args(copy).args([from, to]).ok();
    copy(&format!("oci:{}", text(folder.path())), &format!("docker://{address}/a:2"));
    for address in [&address, &redirecting] {
        let back = tempfile::tempdir().unwrap();
        for tag in ["1", "2"] {
            let name = format!("{address}/a:{tag}");
            assert_eq!(stack.run("crane").args(["digest", &name]).ok().stdout.trim(), digest, "{name}");
            stack.run("crane").args(["validate", "--remote", &name]).ok();
            copy(&format!("docker://{name}"), &format!("oci:{}:{tag}", text(back.path())));
        }
    }
    let target = format!("/v2/a/blobs/{}", image.layers[0].digest);
    let response = request(&redirecting, "GET", &target, &[]);
    assert_eq!(response.status, 307, "{response:?}");
    let (host, path) = location(&response);
    assert!(bucket.endpoint.ends_with(&host), "{host}");
    let whole = request(&host, "GET", &path, &[("Host", &host)]);
    assert!(whole.status == 200 && whole.body == image.blobs[&image.layers[0].digest][..], "{}", whole.status);
    stack.docker(["pull", "--quiet", &format!("{redirecting}/a:1")]).ok();
    let output = stack.docker(["run", "--rm", &format!("{redirecting}/a:1"), "cat", "/etc/greeting"]).ok();
    assert_eq!(output.stdout, "pushed\n");
}

/// It reads; to be pushed to, it needs a list of uploads.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_the_bucket_as_its_storage_serves_what_was_exported() {
    let (stack, bucket) = (Stack::shared(), S3s::shared().bucket());
    let (registry, image) = (bucket.registry(stack), compressed("served by a registry\n"));
    export(&*bucket.engine().await.unwrap().engine, &image, &names(&["a:1"])).await.unwrap();
    let name = format!("{}/a:1", registry.address);
    stack.run("crane").args(["validate", "--remote", &name]).ok();
    assert_eq!(stack.run("crane").args(["digest", &name]).ok().stdout.trim(), image.root.digest.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_and_its_cache_come_back_from_the_bucket() {
    let (stack, bucket) = (Stack::shared(), S3s::shared().bucket());
    let (sockets, builders) = (vec![stack.fresh_path(".sock")], [stack.buildkit_host()]);
    let linkspan = Linkspan::start_with(stack, &bucket.flags(), &builders, sockets, &bucket.variables());
    let builder = stack.builder(&linkspan.address());
    let dockerfile = format!("FROM {}\nCOPY noise /noise\nRUN sha256sum /noise | tee /sum\n", stack.base_image());
    let context = Context::new(&dockerfile).noise("noise", 1 << 20, 78);
    let cache = "type=linkspan,ref=app:main";
    builder.build(context.path(), ["--cache-to", &format!("{cache},mode=max"), "-o", "type=linkspan,name=a:1"]).ok();
    let built = resolved(&bucket, "a:1").await;
    assert!(built.is_some());
    builder.prune();
    let again = builder.build(context.path(), ["--cache-from", cache, "-o", "type=linkspan,name=a:2"]).ok();
    assert!(cached_steps(&again) > 0, "the cache was of use: {again}");
    bucket.linkspan(["cache", "rm", "app:main"]).ok();
    assert!(!bucket.linkspan(["cache", "ls"]).ok().stdout.contains("app:main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_its_tag_goes() {
    let bucket = S3s::shared().bucket();
    let engine = bucket.engine().await.unwrap().engine;
    let (old, new, before) = what_lost_its_tag_is_collected(&bucket).await;
    check_whole(&bucket, &names(&["app:1"])[0], &new).await;
    // And the same image again.
    export(&*engine, &old, &names(&["app:1"])).await.unwrap();
    check_whole(&bucket, &names(&["app:1"])[0], &old).await;
    let record = Record { name: Some(names(&["app:1"])[0].to_string()), target: old.root.clone() };
    engine.remove(&record, false).await.unwrap();
    next_second().await;
    assert_eq!(collect(&*engine, Duration::ZERO).await.blobs as usize, before);
    assert_eq!((blobs(&bucket), left(&bucket)), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_bucket_is_said_with_what_to_do() {
    let bucket = S3s::shared().bucket();
    let mut none = bucket.clone();
    none.name = "no-such-bucket".to_owned();
    let output = none.linkspan(["images"]).fails();
    assert!(
        refusal(&output).contains("s3://no-such-bucket/some/prefix") && output.stderr.contains("create the bucket"),
        "{output}"
    );
    for (variable, value) in [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "nobody")] {
        let output = bucket.linkspan(["images"]).env(variable, value).fails();
        assert!(refusal(&output).contains("credentials"), "{variable}: {output}");
    }
    // Nothing made it meanwhile.
    none.linkspan(["images"]).fails();
}
