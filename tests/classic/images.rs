//! What arrives: the image that `--load` would have made.

use crate::{
    common::{Context, Stack},
    proxied::{Proxied, application},
};

/// What the engine says of `image`, with its history.
fn all_of(proxied: &Proxied<'_>, image: &str) -> (serde_json::Value, String) {
    let history = proxied.docker(["history", "--no-trunc", "--human=false", image]).ok().stdout;
    (proxied.inspect(image), history)
}

#[test]
fn it_is_the_image_of_a_plain_load() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    for (seed, attributes) in [
        "",
        ",oci-mediatypes=false",
        ",compression=zstd,force-compression=true",
        ",compression=uncompressed,force-compression=true",
    ]
    .into_iter()
    .enumerate()
    {
        let context = application(stack, 100 + seed as u64, "same\n");
        let output = format!("type=linkspan,name=same:ours{attributes}");
        proxied.client.build(context.path(), ["-o", &output]).ok();
        let ours = all_of(&proxied, "same:ours");
        assert_eq!(proxied.run_image("same:ours", &[]), "same\n");
        proxied.docker(["rmi", "same:ours"]).ok();
        proxied.lacks("same:ours");

        let host = stack.docker_classic_host();
        proxied
            .direct
            .build(context.path(), ["--builder", "remote", "--load", "-t", "same:tar"])
            .env("DOCKER_HOST", host)
            .ok();
        assert_eq!(ours, all_of(&proxied, "same:tar"), "{attributes}");
    }
    proxied.nothing_is_left();
}

#[test]
fn names_are_many_or_none() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let context = application(stack, 110, "names\n");
    proxied.export(&context, "names:1,registry.example/team/names:2,names").ok();
    let id = proxied.id("names:1");
    for name in ["registry.example/team/names:2", "names:latest"] {
        assert_eq!(proxied.id(name), id);
    }
    // The old image keeps existing without the name.
    proxied.export(&application(stack, 110, "moved\n"), "names:1").ok();
    assert_ne!(proxied.id("names:1"), id);
    assert_eq!(proxied.id("names:latest"), id);

    let nameless = application(stack, 111, "nameless\n");
    proxied.client.build(nameless.path(), ["-o", "type=linkspan"]).ok();
    let dangling = proxied.docker(["images", "--filter", "dangling=true", "--no-trunc", "--quiet"]).ok().lines();
    let outputs: Vec<_> = dangling.iter().map(|id| proxied.run_image(id, &[])).collect();
    assert!(outputs.contains(&"nameless\n".to_owned()), "{outputs:?}");
}

#[test]
fn a_name_that_must_not_move_stays() {
    let stack = Stack::classic();
    let images = (application(stack, 130, "first\n"), application(stack, 130, "second\n"));
    let denied = "names must not move here";
    let proxied = Proxied::with(stack, &["--deny-tag-move"]);
    proxied.export(&images.0, "still:1").ok();
    let id = proxied.id("still:1");
    proxied.export(&images.0, "still:1,still:2").ok();
    let output = proxied.export(&images.1, "still:3,still:1").fails();
    assert!(output.stderr.contains(denied) && output.stderr.contains(&id), "{output}");
    proxied.lacks("still:3");
    proxied.export(&images.1, "still:4").ok();
    // Now it is known what the root points to.
    proxied.export(&images.1, "still:4").ok();
    let output = proxied.export(&images.1, "still:1").fails();
    assert!(output.stderr.contains(denied), "{output}");
    drop(proxied);
    // What an earlier process has exported is the same image for the next one.
    let proxied = Proxied::with(stack, &["--deny-tag-move"]);
    proxied.export(&images.0, "still:1").ok();
    proxied.export(&images.1, "still:1").fails();
    assert_eq!(proxied.id("still:1"), id);
    proxied.nothing_is_left();
}

#[test]
fn of_several_platforms_the_hosts_arrives() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let context =
        Context::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n").file("amd64", "a").file("s390x", "s");
    let context = context.file("arm64", "m");
    let platforms = ["--platform", "linux/s390x,linux/amd64,linux/arm64"];
    proxied.export(&context, "several:1").args(platforms).args(["--provenance", "mode=max"]).ok();
    let own = Context::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n");
    let own = own.file("amd64", "a").file("s390x", "s").file("arm64", "m");
    proxied.export(&own, "several:own").args(["--provenance", "false"]).ok();
    assert_eq!(proxied.id("several:1"), proxied.id("several:own"));

    // One for another machine is what was asked for; of two, neither is.
    proxied.export(&context, "several:foreign").args(["--platform", "linux/s390x"]).ok();
    assert_eq!(proxied.inspect("several:foreign")["Architecture"], "s390x");
    let output = proxied.export(&context, "several:none").args(["--platform", "linux/s390x,linux/riscv64"]).fails();
    let riscv = output.stderr.contains("riscv64: not found") || output.stderr.contains("\"/riscv64\": not found");
    assert!(riscv, "the context has no such file: {output}");
    let context = context.file("riscv64", "r");
    let output = proxied.export(&context, "several:none").args(["--platform", "linux/s390x,linux/riscv64"]).fails();
    assert!(output.stderr.contains("only for linux/s390x, linux/riscv64"), "{output}");
    proxied.lacks("several:none");
}

#[test]
fn attestations_do_not_hinder() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let context = application(stack, 120, "attested\n");
    proxied.export(&context, "attested:1").args(["--provenance", "mode=max"]).ok();
    assert_eq!(proxied.run_image("attested:1", &[]), "attested\n");
    proxied.relay.take();
    proxied.export(&context, "attested:1").args(["--provenance", "mode=max"]).ok();
    assert_eq!(proxied.relay.take().0, 0);
}
