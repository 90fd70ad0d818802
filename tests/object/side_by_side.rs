//! Several doors in front of one bucket.

use crate::common::{Context, Minio, Run, Stack, text};
use crate::fixture::{export, names};
use crate::http::{request, send};
use crate::names::layout;
use crate::redirects::{compressed, door};

const WRITABLE: &[&str] = &["--registry-writable", "--registry-redirect"];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_to_one_door_is_pulled_from_the_other() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let ((mut one, first), (_other, second)) = (door(&bucket, WRITABLE), door(&bucket, WRITABLE));
    let (image, folder) = (compressed("side by side\n"), tempfile::tempdir().unwrap());
    export(&*layout(folder.path()).await, &image, &names(&["x:1"])).await.unwrap();
    let digest = image.root.digest.as_str();
    // The blobs go to the first, and the other takes the manifest.
    for blob in image.layers.iter().chain([&image.config]) {
        let target = format!("/v2/side/split/blobs/uploads/?digest={}", blob.digest);
        assert_eq!(send(&first, "POST", &target, &[], &image.blobs[&blob.digest]).status, 201);
        let head = request(&second, "HEAD", &format!("/v2/side/split/blobs/{}", blob.digest), &[]);
        assert_eq!(head.status, 200, "a client of the other door need not send it");
    }
    let kind = [("Content-Type", crate::fixture::MANIFEST)];
    let bytes = &image.blobs[&image.root.digest];
    assert_eq!(send(&second, "PUT", "/v2/side/split/manifests/1", &kind, bytes).status, 201);
    for address in [&first, &second] {
        let name = format!("{address}/side/split:1");
        stack.run("crane").args(["validate", "--remote", &name]).ok();
        assert_eq!(stack.run("crane").args(["digest", &name]).ok().stdout.trim(), digest);
    }
    // A whole push to the first; the tag is at the other at once, and still there when the first is gone.
    stack.run("crane").args(["push", text(folder.path()), &format!("{first}/side/whole:1")]).ok();
    let name = format!("{second}/side/whole:1");
    assert_eq!(stack.run("crane").args(["digest", &name]).ok().stdout.trim(), digest);
    one.kill();
    stack.run("crane").args(["validate", "--remote", &name]).ok();
    let (_again, third) = door(&bucket, WRITABLE);
    stack.docker(["pull", "--quiet", &format!("{third}/side/whole:1")]).ok();
    let copied = tempfile::tempdir().unwrap();
    let copy = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let to = format!("dir:{}", text(copied.path()));
    Run::new("skopeo").args(copy).args([&format!("docker://{third}/side/whole:1"), &to]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_begun_at_one_door_is_sent_to_the_other() {
    let bucket = Minio::shared().bucket();
    let ((_one, first), (_other, second)) = (door(&bucket, WRITABLE), door(&bucket, WRITABLE));
    let image = compressed("begun here, sent there\n");
    let (digest, bytes) = (&image.layers[1].digest, &image.blobs[&image.layers[1].digest]);
    let begin = || {
        let begun = send(&first, "POST", "/v2/side/sent/blobs/uploads/", &[], b"");
        assert_eq!(begun.status, 202);
        begun.header("location").unwrap().to_owned()
    };
    // All of it at once, as BuildKit and containerd send it.
    let put = send(&second, "PUT", &format!("{}?digest={digest}", begin()), &[], bytes);
    assert_eq!(put.status, 201, "{put:?}");
    assert_eq!(request(&first, "HEAD", &format!("/v2/side/sent/blobs/{digest}"), &[]).status, 200);
    // Whoever has sent a part must go on where it is: elsewhere nothing is known of it.
    let location = begin();
    let part = send(&first, "PATCH", &location, &[("Content-Range", "0-9")], &bytes[..10]);
    assert_eq!(part.status, 202, "{part:?}");
    let next = send(&second, "PATCH", &location, &[("Content-Range", "10-19")], &bytes[10..20]);
    assert_eq!((next.status, next.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    let end = send(&second, "PUT", &format!("{location}?digest={digest}"), &[], b"");
    assert_eq!((end.status, end.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    // An id that no door made.
    for id in ["x", "x.y", "0000.1111"] {
        let target = format!("/v2/side/sent/blobs/uploads/{id}?digest={digest}");
        assert_eq!(send(&second, "PUT", &target, &[], bytes).status, 404, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_pushes_through_one_door_and_docker_runs_it_from_the_other() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let ((_one, first), (_other, second)) = (door(&bucket, WRITABLE), door(&bucket, WRITABLE));
    let builder = stack.builder(stack.buildkit_host());
    let context = Context::new(&format!("FROM {}\nCOPY big /big\nRUN echo built >/built\n", stack.base_image()));
    let context = context.noise("big", 12 << 20, 6);
    builder.build(context.path(), ["--push", "-t", &format!("{first}/side/built:1")]).ok();
    let name = format!("{second}/side/built:1");
    assert_eq!(stack.docker(["run", "--rm", &name, "cat", "/built"]).ok().stdout, "built\n");
}
