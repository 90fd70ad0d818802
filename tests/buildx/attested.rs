//! What is stated about an image, beside it: the same statements about the same names.

use serde_json::{Value, json};

use crate::{
    both_ways::{BothWays, forget_the_moment},
    common::{Context, Linkspan, Part, Run, Stack},
};

/// An image for any platform that needs no command to run.
fn copied(theme: &str) -> Context {
    Context::new("FROM scratch\nCOPY a /a\n").file("a", theme)
}

/// Every statement about the image of `root`, without what differs between any two builds.
#[track_caller]
pub(crate) fn statements(root: &str, document: impl Fn(&str) -> Value) -> Vec<Value> {
    let index = document(root);
    let mut found = Vec::new();
    for entry in index["manifests"].as_array().unwrap_or_else(|| panic!("no index: {index}")) {
        if entry["annotations"]["vnd.docker.reference.type"] == "attestation-manifest" {
            let manifest = document(entry["digest"].as_str().unwrap());
            for layer in manifest["layers"].as_array().unwrap() {
                let mut statement = document(layer["digest"].as_str().unwrap());
                assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], statement["predicateType"]);
                forget_the_moment(&mut statement);
                found.push(statement);
            }
        }
    }
    found
}

/// The names of what `statement` is about.
fn subjects(statement: &Value) -> Vec<&str> {
    statement["subject"].as_array().unwrap().iter().map(|subject| subject["name"].as_str().unwrap()).collect()
}

/// A generator of SBOMs: an image that writes one statement.
fn generator(stack: &Stack) -> String {
    let name = format!("{}/generator:1", stack.registry());
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
        "predicate": {"spdxVersion": "SPDX-2.3"},
    });
    let write = format!("echo '{statement}' > $BUILDKIT_SCAN_DESTINATION/some.spdx.json");
    let command = json!(["/bin/sh", "-c", write]);
    let context = Context::new(&format!("FROM {}\nCMD {command}\n", stack.base_image()));
    let builder = stack.builder(stack.buildkit_host());
    builder.build(context.path(), ["--provenance=false", "--push", "-t", &name]).ok();
    name
}

#[test]
fn statements_are_about_the_same_names() {
    const MIN: &str = "type=provenance,mode=min";
    const MAX: &str = "type=provenance,mode=max";
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let sbom = format!("type=sbom,generator={}", generator(stack));
    let run = Context::new(&format!("FROM {}\nRUN echo attested > /a\n", stack.base_image()));
    let copied = copied("attested");
    let one = "linux/amd64";
    let two = "linux/amd64,linux/arm64";
    for (context, names, platforms, attests) in [
        (&run, &["attested:1"][..], one, &[MAX][..]),
        (&run, &["attested:1"], one, &[MIN, &sbom]),
        (&run, &[], one, &[MIN]),
        (&run, &["attested:1", "localhost:5000/x/attested:2", "attested"], one, &[MIN]),
        (&copied, &["attested:1"], two, &[MIN, &sbom]),
        (&copied, &["attested:1", "user/attested:2"], two, &[MAX]),
        (&copied, &[], two, &[MIN]),
    ] {
        let found = sides.compare(|side| {
            let file = stack.fresh_path(".json");
            let mut args = vec!["--load", "--platform", platforms, "--metadata-file", file.to_str().unwrap()];
            args.extend(names.iter().flat_map(|name| ["-t", name]));
            args.extend(attests.iter().flat_map(|attest| ["--attest", attest]));
            side.check_way(&side.builder.build(context.path(), args).ok());
            let metadata = crate::both_ways::metadata(&file);
            statements(metadata["containerimage.digest"].as_str().unwrap(), |digest| side.document(digest))
        });
        assert_eq!(found.len(), attests.len() * platforms.split(',').count(), "{names:?} {platforms} {attests:?}");
        for statement in &found {
            assert_eq!(subjects(statement).len(), names.len(), "{statement}");
        }
    }
}

#[test]
fn statements_are_about_the_name_that_a_frontend_chose() {
    let stack = Stack::shared();
    let linkspan = Linkspan::containerd(stack, "attested");
    let builder = stack.builder(&linkspan.address());
    let document = |digest: &str| stack.document("attested", digest);
    let context = copied("explicit");
    let attest = ["--attest", "type=provenance,mode=min", "--platform", "linux/arm64"];
    builder.build(context.path(), ["-o", "type=linkspan,name=explicit:1"]).args(attest).ok();
    let root = stack.image_of("attested", "docker.io/library/explicit:1").unwrap();
    assert_eq!(subjects(&statements(&root, document)[0]), ["pkg:docker/explicit@1?platform=linux%2Farm64"]);
    // The wildcard with a statement is refused by the builder, whatever a frontend says: on both sides alike.
    let output: Run = builder.build(context.path(), ["-o", "type=linkspan,name=*,image.name=chosen:1"]).args(attest);
    let output = output.fails();
    assert!(output.stderr.contains("invalid reference format"), "{output}");
}

#[test]
fn statements_of_a_repeated_build_are_about_the_same_names() {
    // The builder has never pulled the base, so that the image is complete only after a repetition.
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd, Part::Registry]);
    let sides = BothWays::of(&stack);
    let side = sides.through();
    let context = Context::new(&format!("FROM {}\nCOPY --link a /a\n", stack.base_image())).file("a", "linked");
    let names = ["-t", "again:1", "-t", "again:2"];
    let output = side.builder.build(context.path(), ["--load", "--attest", "type=provenance"]).args(names).ok();
    assert!(output.stderr.contains("waiting for the builder to fetch layers"), "{output}");
    let found = statements(&side.digest("again:1"), |digest| side.document(digest));
    assert_eq!(
        found.iter().map(subjects).collect::<Vec<_>>(),
        [["pkg:docker/again@1?platform=linux%2Famd64", "pkg:docker/again@2?platform=linux%2Famd64"]]
    );
}
