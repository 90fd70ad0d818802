//! What arrives in the engine: the same image, digest for digest, ready to run.

use crate::{
    both_ways::BothWays,
    common::{Context, Part, Stack, until},
};

#[test]
fn the_image_is_the_same_and_runs() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let dockerfile =
        format!("FROM {}\nCOPY a /a\nRUN cat /a > /b && echo more >> /b\nCMD [\"cat\", \"/b\"]\n", stack.base_image());
    let context = Context::new(&dockerfile).file("a", "some ");
    sides.compare(|side| {
        let digest = side.load(&context, "runs", &[]);
        assert_eq!(side.run_image(&side.tag("runs"), &[]), "some more\n");
        digest
    });
}

#[test]
fn everything_that_an_image_names_is_in_the_store() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    let sides = BothWays::of(&stack);
    let context = Context::new("FROM scratch\nCOPY a /a\nCOPY b /b\n").file("a", "1").noise("b", 3 << 20, 7);
    let side = sides.through();
    let digest = side.load(&context, "whole", &[]);
    let manifest = side.document(&digest);
    let mut named = vec![digest, manifest["config"]["digest"].as_str().unwrap().to_owned()];
    named.extend(
        manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()),
    );
    let blobs = stack.blobs("moby");
    assert_eq!(named.iter().filter(|digest| !blobs.contains(digest)).count(), 0, "{named:?} {blobs:?}");
    stack.until_idle("moby");
}

#[test]
fn an_image_survives_garbage_collection() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    let sides = BothWays::of(&stack);
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "kept");
    let side = sides.through();
    side.load(&context, "kept", &[]);
    // Deleting another image, synchronously, makes containerd collect at once.
    let other = side.load(&Context::new("FROM scratch\nCOPY a /a\n").file("a", "other"), "other", &[]);
    assert!(stack.blobs("moby").contains(&other));
    stack.docker(["image", "rm", &side.tag("other")]).ok();
    until("the other image's blobs to go", || stack.blobs("moby"), |blobs| !blobs.contains(&other));
    // It is whole: dockerd itself can write it out.
    stack.docker(["save", "-o", stack.fresh_path(".tar").to_str().unwrap(), &side.tag("kept")]).ok();
}

#[test]
fn two_platforms() {
    let sides = BothWays::of(Stack::shared());
    let context =
        Context::new("FROM scratch\nARG TARGETARCH\nCOPY a-$TARGETARCH /a\n").file("a-amd64", "1").file("a-arm64", "2");
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    let digest = sides.compare(|side| side.load(&context, "two", &[&platforms[..], &["--provenance=false"]].concat()));
    let index = sides.through().document(&digest);
    let architectures: Vec<_> =
        index["manifests"].as_array().unwrap().iter().map(|one| &one["platform"]["architecture"]).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    // By default such an index holds provenance, which contains the moment of the build.
    let manifests = sides.compare(|side| {
        let index = side.document(&side.load(&context, "two", &platforms));
        let mut manifests = index["manifests"].as_array().unwrap().clone();
        for manifest in &mut manifests {
            if manifest["annotations"]["vnd.docker.reference.type"].is_string() {
                manifest["digest"].take();
            }
        }
        manifests
    });
    assert_eq!(manifests.len(), 4);
}

#[test]
fn one_foreign_platform() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "foreign");
    sides.compare(|side| side.load(&context, "foreign", &["--platform", "linux/riscv64"]));
}

#[test]
fn an_image_of_many_layers() {
    let lines: String = (0..100).map(|n| format!("COPY f{n} /f{n}\n")).collect();
    let context = (0..100).fold(Context::new(&format!("FROM scratch\n{lines}")), |context, n| {
        context.file(&format!("f{n}"), format!("{n}"))
    });
    let sides = BothWays::of(Stack::shared());
    let digest = sides.compare(|side| side.load(&context, "layers", &[]));
    let manifest = sides.through().document(&digest);
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 100);
}

#[test]
fn compressions() {
    let context = Context::new("FROM scratch\nCOPY a /a\n").noise("a", 100_000, 3);
    let sides = BothWays::of(Stack::shared());
    for compression in ["gzip", "zstd", "uncompressed", "estargz"] {
        let output = format!("type=docker,compression={compression},force-compression=true,oci-mediatypes=true");
        let media_type = sides.compare(|side| {
            let tag = side.tag(compression);
            side.builder.build(context.path(), ["-t", &tag, "-o", &output]).ok();
            let manifest = side.document(&side.digest(&tag));
            (manifest["layers"][0]["mediaType"].clone(), manifest["layers"][0]["digest"].clone())
        });
        assert!(media_type.0.as_str().unwrap().starts_with("application/vnd.oci.image.layer.v1.tar"), "{media_type:?}");
    }
}
