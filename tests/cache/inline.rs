//! Inline caches of the engine's images.

use std::fs;

use crate::common::{Buildkitd, Context, Linkspan, Stack, text};
use crate::fixture::{caches, docker};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_an_inline_cache_offers_its_manifest_and_others_offer_nothing() {
    let stack = Stack::shared();
    let door = Linkspan::docker(stack);
    let builder = stack.builder(&door.address());
    let context = Context::new(&format!("FROM {}\nRUN echo inline > /inline\n", stack.base_image()));
    builder.build(context.path(), ["--load", "-t", "inline:yes", "--cache-to", "type=inline"]).ok();
    builder.build(context.path(), ["--load", "-t", "inline:no"]).ok();
    let caches = caches(&*docker(stack).await);
    let inline = async |name: &str| caches.inline(&name.parse().unwrap()).await.unwrap();
    let found = inline("inline:yes").await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].manifest.media_type.contains("manifest"), "{found:?}");
    assert_eq!(inline("inline:no").await, []);
    assert_eq!(inline("inline:absent").await, []);
}

#[test]
fn of_an_image_of_two_platforms_the_one_that_is_there_is_imported_and_the_other_one_is_left_out() {
    let stack = Stack::shared();
    let buildkitd = Buildkitd::start(stack, "buildkitd");
    let engine = stack.docker_flags();
    let linkspan = Linkspan::start(stack, &engine, &[&buildkitd.address()]);
    let builder = stack.builder(&linkspan.address());
    let dockerfile = format!(
        "FROM --platform=$BUILDPLATFORM {} AS make\nARG TARGETARCH\n\
         RUN echo $TARGETARCH $(cat /proc/sys/kernel/random/uuid) > /made\nFROM scratch\nCOPY --from=make /made /made\n",
        stack.base_image()
    );
    let context = Context::new(&dockerfile);
    let name = format!("{}/inline-platforms:1", stack.registry());
    let made = |args: &[&str], platforms: &str| {
        let out = stack.fresh_path("-made");
        let to = format!("type=local,dest={}", text(&out));
        let output = builder.build(context.path(), ["--platform", platforms, "-o", &to]).args(args).ok();
        // Of several platforms each has a folder of its own.
        let read = |arch: &str| fs::read_to_string(out.join(format!("linux_{arch}/made"))).ok();
        let one = fs::read_to_string(out.join("made")).ok();
        ([one.clone().or_else(|| read("amd64")), one.or_else(|| read("arm64"))], output)
    };
    let push = format!("type=image,name={name},push=true");
    let ([amd64, arm64], _) = made(&["--cache-to", "type=inline", "-o", &push], "linux/amd64,linux/arm64");
    // The engine pulls its own platform only, and with it the index.
    stack.docker(["pull", "--platform", "linux/amd64", &name]).ok();
    let from = ["--cache-from", &format!("type=linkspan,ref={name}")];
    for (platforms, has_amd64, has_arm64) in
        [("linux/amd64", true, false), ("linux/arm64", false, false), ("linux/amd64,linux/arm64", true, false)]
    {
        builder.prune();
        let (again, output) = made(&from, platforms);
        assert_eq!((again[0] == amd64, again[1] == arm64), (has_amd64, has_arm64), "{platforms}: {output}");
        assert!(!output.stderr.contains("ERROR") && !output.stderr.contains("WARN"), "{output}");
    }
}
