//! Large blobs of a builder on this host are read from its own files, and everything else over the connection.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::common::{Context, Linkspan, Part, Stack, until};

const READ: &str = "a blob is read from the builder's own files";
const REFUSED: &str = "the builder's files are not accessible";

/// Larger than the smallest blob that is looked for.
const LARGE: usize = 20 << 20;

#[track_caller]
fn serve(stack: &Stack, builder: &str) -> Linkspan {
    let engine = ["--engine", "docker", "--docker-host", stack.docker_host(), "--log-level", "debug"];
    Linkspan::start(stack, &engine, &[builder])
}

fn count(linkspan: &Linkspan, line: &str) -> usize {
    linkspan.log().matches(line).count()
}

/// The only layer of the only image.
#[track_caller]
fn layer(stack: &Stack, name: &str) -> String {
    let digest = stack.image(&format!("docker.io/library/{name}")).unwrap();
    let manifest = stack.ctr("moby", ["content", "get", &digest]).ok().stdout;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_large_layer_is_read_from_its_file_and_is_the_same() {
    let stack = Stack::shared();
    let linkspan = serve(stack, stack.buildkit_host());
    let context =
        Context::new("FROM scratch\nCOPY noise /noise\nCOPY a /a\n").noise("noise", LARGE, 501).file("a", "1");
    stack.builder(&linkspan.address()).build(context.path(), ["--load", "-t", "near:1"]).ok();
    assert_eq!(count(&linkspan, READ), 1, "the small layer is not looked for: {}", linkspan.log());
    stack.builder(stack.buildkit_host()).build(context.path(), ["--load", "-t", "near:2"]).ok();
    assert_eq!(stack.image("docker.io/library/near:1"), stack.image("docker.io/library/near:2"));
}

#[test]
fn a_cache_is_exported_from_the_files_too() {
    let stack = Stack::shared();
    let linkspan = serve(stack, stack.buildkit_host());
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", LARGE, 502);
    let to = ["--cache-to", "type=linkspan,ref=near,mode=max", "-o", "type=cacheonly"];
    stack.builder(&linkspan.address()).build(context.path(), to).ok();
    assert_eq!(count(&linkspan, READ), 1, "{}", linkspan.log());
}

#[test]
fn what_does_not_fit_is_read_over_the_connection() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    let between = serve(&stack, stack.buildkit_host());
    let context = Context::new("FROM scratch\nCOPY noise /noise\n").noise("noise", LARGE, 503);
    let builder = stack.builder(&between.address());
    let load = |builder: &crate::common::Builder<'_>| {
        builder.build(context.path(), ["--load", "-t", "far:1"]).ok();
        let found = (stack.image("docker.io/library/far:1"), layer(&stack, "far:1"));
        stack.docker(["image", "rm", "far:1"]).ok();
        until("the layer to go", || stack.blobs("moby"), |blobs| !blobs.contains(&found.1));
        found
    };
    let first = load(&builder);
    assert_eq!((count(&between, READ), count(&between, REFUSED)), (1, 0), "{}", between.log());

    // A process that only stands in front of the builder.
    let linkspan = serve(&stack, &between.address());
    assert_eq!(load(&stack.builder(&linkspan.address())), first);
    assert_eq!((count(&linkspan, READ), count(&linkspan, REFUSED)), (0, 1), "{}", linkspan.log());
    assert!(linkspan.log().contains("not buildkitd"), "{}", linkspan.log());

    // A link in the blob's place, which the builder itself follows; the reason is logged once.
    let file = blob(&stack, &first.1);
    let elsewhere = file.with_extension("moved");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    for _ in 0..2 {
        assert_eq!(load(&builder), first);
    }
    assert_eq!((count(&between, READ), count(&between, REFUSED)), (1, 1), "{}", between.log());

    // Other bytes, as many.
    fs::remove_file(&file).unwrap();
    fs::write(&file, vec![7; usize::try_from(fs::metadata(&elsewhere).unwrap().len()).unwrap()]).unwrap();
    let failed = builder.build(context.path(), ["--load", "-t", "far:1"]).fails();
    assert!(failed.stderr.contains("docker buildx prune"), "{failed}");
    assert_eq!(stack.image("docker.io/library/far:1"), None);
    fs::rename(&elsewhere, &file).unwrap();
    assert_eq!(load(&builder), first);
}

/// The file of a blob of the stack's builder.
fn blob(stack: &Stack, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    stack.state().join("buildkit/runc-overlayfs/content/blobs/sha256").join(hex)
}
