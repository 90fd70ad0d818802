//! Build caches in a bucket.

use crate::common::{Context, Linkspan, Minio, Stack, cached_steps};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_cache_comes_back_from_the_bucket() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let flags = bucket.flags();
    let door = stack.fresh_path(".sock");
    let linkspan = Linkspan::start_with(stack, &flags, &[stack.buildkit_host()], vec![door], &bucket.variables());
    let builder = stack.builder(&linkspan.address());
    let dockerfile = format!("FROM {}\nCOPY noise /noise\nRUN sha256sum /noise | tee /sum\n", stack.base_image());
    let context = Context::new(&dockerfile).noise("noise", 1 << 20, 77);
    let cache = "type=linkspan,ref=app:main,mode=max";
    builder.build(context.path(), ["--cache-to", cache, "-o", "type=linkspan,name=cached:1"]).ok();
    let listed = bucket.linkspan(["cache", "ls"]).ok().stdout;
    assert!(listed.contains("app:main"), "{listed}");
    builder.prune();
    let again = builder
        .build(context.path(), ["--cache-from", "type=linkspan,ref=app:main", "-o", "type=linkspan,name=cached:2"]);
    assert!(cached_steps(&again.ok()) > 0, "the cache was of use");
    bucket.linkspan(["cache", "rm", "app:main"]).ok();
    assert!(!bucket.linkspan(["cache", "ls"]).ok().stdout.contains("app:main"));
}
