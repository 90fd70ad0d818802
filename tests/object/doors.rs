//! The doors in front of a bucket. The registry door has its own tests, which run on a bucket as well.

use crate::common::{Context, Linkspan, Minio, Stack, text};
use crate::fixture::{export, image, names};
use crate::names::{layout, resolved};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_goes_from_the_builder_to_the_bucket_and_a_registry_serves_it() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let (flags, door) = (bucket.flags(), stack.fresh_path(".sock"));
    let linkspan = Linkspan::start_with(stack, &flags, &[stack.buildkit_host()], vec![door], &bucket.variables());
    let builder = stack.builder(&linkspan.address());
    let context = Context::new(&format!("FROM {}\nCOPY big /big\nRUN echo built >/built\n", stack.base_image()));
    let context = context.noise("big", 12 << 20, 5);
    for (again, output) in [(false, "type=linkspan,name=ci/app:1"), (true, "type=linkspan,name=ci/app:1")] {
        builder.build(context.path(), ["-o", output]).ok();
        assert!(resolved(&bucket, "ci/app:1").await.is_some(), "{again}");
    }
    let registry = bucket.registry(stack);
    let name = format!("{}/ci/app:1", registry.address);
    let output = stack.docker(["run", "--rm", &name, "cat", "/built"]).ok().stdout;
    assert_eq!(output, "built\n");
    builder.build(context.path(), ["--load", "-t", "ci/loaded:1"]).ok();
    assert_eq!(resolved(&bucket, "ci/loaded:1").await, resolved(&bucket, "ci/app:1").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_through_the_api_survives_a_restart() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let (flags, door) = (bucket.flags(), stack.fresh_path("-export.sock"));
    let listen = format!("unix://{}", door.display());
    let args = [&flags.each_ref().map(String::as_str)[..], &["--export-listen", &listen, "--deny-tag-move"]].concat();
    let start = || Linkspan::start_with(stack, &args, &[], vec![door.clone()], &bucket.variables());
    let mut linkspan = start();
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (image("through the api\n"), image("another\n"));
    let engine = layout(folder.path()).await;
    export(&*engine, &one, &names(&["api:1"])).await.unwrap();
    export(&*engine, &other, &names(&["api:other"])).await.unwrap();
    let from = |tag: &str| format!("oci:{}:api:{tag}", text(folder.path()));
    let copy = |tag: &str| crate::common::linkspan(["copy", &from(tag), &format!("{listen}:api:1")]);
    copy("1").ok();
    assert_eq!(resolved(&bucket, "api:1").await, Some(one.root.digest.clone()));
    linkspan.kill();
    let _linkspan = start();
    copy("1").ok();
    let output = copy("other").fails();
    assert!(output.stderr.contains("docker.io/library/api:1"), "{output}");
    assert_eq!(resolved(&bucket, "api:1").await, Some(one.root.digest));
    crate::common::linkspan(["images", "--to", &listen]).ok();
}
