//! Build caches in a bucket.

use crate::common::{Context, Linkspan, Minio, Stack, cached_steps, until_called};

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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_of_a_cache_that_is_deleted_is_not_collected() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let door = stack.fresh_path(".sock");
    let builders = [stack.buildkit_host()];
    let linkspan = Linkspan::start_with(stack, &bucket.flags(), &builders, vec![door], &bucket.variables());
    let builder = stack.builder(&linkspan.address());
    for name in ["read", "other"] {
        let context = Context::new(&format!("FROM {}\nRUN echo {name} >/built\n", stack.base_image()));
        let to = format!("type=linkspan,ref={name}:1,mode=max");
        builder.build(context.path(), ["--cache-to", &to, "-o", "type=cacheonly"]).ok();
    }
    let caches = bucket.engine().await.unwrap().engine.caches().unwrap();
    let mut versions = Vec::new();
    for name in ["read:1", "other:1"] {
        versions.extend(caches.versions(Some(name)).await.unwrap());
    }
    let ids: Vec<_> = versions.iter().map(|version| version.id.clone()).collect();
    let lease = caches.lease(&ids[..1], true).await.unwrap().unwrap();
    caches.delete(&ids).await.unwrap();
    let is_there = async |at: usize| {
        bucket.linkspan(["gc", "--grace", "0", "--wait", "0"]).ok();
        caches.blobs().size(&versions[at].root.digest).await.unwrap().is_some()
    };
    until_called("the other one to be collected", async || is_there(1).await, |is_there| !is_there).await;
    assert!(is_there(0).await, "somebody reads it");
    lease.release().await.unwrap();
    until_called("this one to be collected", async || is_there(0).await, |is_there| !is_there).await;
}
