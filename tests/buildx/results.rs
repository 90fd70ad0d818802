//! The results of a build: tags, digests, files with results, standard output.

use crate::{
    both_ways::{BothWays, metadata},
    common::{Context, Stack, file_of},
};

const DOCKERFILE: &str = "FROM scratch\nCOPY a /a\nLABEL theme=results\n";

#[test]
fn no_tag() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new(DOCKERFILE).file("a", "no tag");
    let digest = sides.compare(|side| {
        let file = stack.fresh_path(".json");
        let output = side.builder.build(context.path(), ["--load", "--metadata-file", file.to_str().unwrap()]).ok();
        side.check_way(&output);
        metadata(&file)["containerimage.digest"].as_str().unwrap().to_owned()
    });
    // Docker knows an image without a name by its digest alone.
    stack.docker(["image", "inspect", &digest]).ok();
}

#[test]
fn one_tag_and_its_files() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new(DOCKERFILE).file("a", "one tag");
    sides.compare(|side| {
        let (json, iid) = (stack.fresh_path(".json"), stack.fresh_path(".iid"));
        let files = ["--metadata-file", json.to_str().unwrap(), "--iidfile", iid.to_str().unwrap()];
        let digest = side.load(&context, "one-tag", &files);
        let mut metadata = metadata(&json);
        assert_eq!(metadata["containerimage.digest"], digest);
        assert_eq!(file_of(&iid), digest);
        // The name is as Docker writes it, whatever the user typed.
        assert_eq!(metadata["image.name"], format!("docker.io/library/{}", side.tag("one-tag")));
        metadata["image.name"].take();
        metadata
    });
}

#[test]
fn several_tags() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new(DOCKERFILE).file("a", "several tags");
    let names = sides.compare(|side| {
        let json = stack.fresh_path(".json");
        let tags = ["several", "user/several:2", "localhost:5000/x/several:3", "docker.io/library/several:4"];
        let args = tags.iter().flat_map(|tag| ["-t", tag]).chain(["--load", "--metadata-file", json.to_str().unwrap()]);
        side.check_way(&side.builder.build(context.path(), args).ok());
        let metadata = metadata(&json);
        let images = stack.images("moby");
        let names = metadata["image.name"].as_str().unwrap().to_owned();
        for name in names.split(',') {
            assert!(
                images.iter().any(|(found, digest)| found == name && metadata["containerimage.digest"] == *digest),
                "{name}: {images:?}"
            );
            stack.docker(["image", "rm", name]).ok();
        }
        names
    });
    assert_eq!(
        names,
        "docker.io/library/several:latest,docker.io/user/several:2,localhost:5000/x/several:3,docker.io/library/several:4"
    );
}

#[test]
fn quiet() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new(DOCKERFILE).file("a", "quiet");
    let digest = sides.compare(|side| {
        let tag = side.tag("quiet");
        let output = side.builder.buildx(["build", "-q", "--load", "-t", &tag]).arg(context.path()).ok();
        assert_eq!(output.stdout.trim_end(), side.digest(&tag));
        (output.stdout, output.stderr)
    });
    assert_eq!(digest.1, "");
}

#[test]
fn a_tag_moves_to_the_new_image() {
    let sides = BothWays::of(Stack::shared());
    sides.compare(|side| {
        let digests =
            ["before", "after"].map(|content| side.load(&Context::new(DOCKERFILE).file("a", content), "moves", &[]));
        assert_ne!(digests[0], digests[1]);
        digests
    });
}

#[test]
fn labels_annotations_and_the_time_of_the_source() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new(DOCKERFILE).file("a", "annotated");
    sides.compare(|side| {
        let json = side.stack.fresh_path(".json");
        let args = ["--annotation", "manifest:note=x", "--label", "l=1", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
        let digest =
            side.load(&context, "annotated", &[&args[..], &["--metadata-file", json.to_str().unwrap()]].concat());
        assert_eq!(side.document(&digest)["annotations"]["note"], "x");
        (digest, metadata(&json)["containerimage.descriptor"].clone())
    });
}

#[test]
fn an_annotation_is_no_name() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new(DOCKERFILE).file("a", "annotated");
    // The root is a manifest without attestations, and an index with them.
    for (kind, attestation) in
        [("manifest-descriptor", "--provenance=false"), ("index-descriptor", "--provenance=true")]
    {
        let file = stack.fresh_path(".json");
        let name = format!("docker.io/library/annotated-{kind}:latest");
        let annotations = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .map(|key| format!("--annotation={kind}:{key}={name}"));
        let args = ["--load", attestation, "--metadata-file", file.to_str().unwrap()];
        let args = args.into_iter().chain(annotations.iter().map(String::as_str));
        let output = sides.through().builder.build(context.path(), args).ok();
        sides.through().check_way(&output);
        assert_eq!(stack.image(&name), None, "{kind}");
        // The response is the builder's.
        let metadata = metadata(&file);
        assert_eq!(metadata["containerimage.descriptor"]["annotations"]["io.containerd.image.name"], name);
        stack.docker(["image", "inspect", metadata["containerimage.digest"].as_str().unwrap()]).ok();
    }
}
