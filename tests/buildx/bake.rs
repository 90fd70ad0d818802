//! Several builds in one session.

use crate::{
    both_ways::{BothWays, metadata},
    common::{Context, Stack, text},
};

const FILE: &str = r#"
variable "SIDE" {}
group "default" { targets = ["one", "two", "three"] }
target "one" { tags = ["bake-one-${SIDE}:1"] }
target "two" {
  tags = ["bake-two-${SIDE}:1", "bake-two-${SIDE}:2"]
  args = { WHICH = "two" }
}
target "three" {
  tags = ["bake-three-${SIDE}:1"]
  args = { WHICH = "three" }
}
"#;

#[test]
fn three_targets_that_share_a_context() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let dockerfile = format!("FROM {}\nARG WHICH=one\nCOPY big /big\nRUN echo $WHICH > /which\n", stack.base_image());
    let context = Context::new(&dockerfile).file("docker-bake.hcl", FILE).noise("big", 2 << 20, 5);
    sides.compare(|side| {
        let json = stack.fresh_path(".json");
        let args = ["bake", "--progress", "plain", "--load", "--metadata-file", text(&json)];
        let output = side.builder.buildx(args).env("SIDE", side.name).dir(context.path()).ok();
        side.check_way(&output);
        let mut metadata = metadata(&json);
        for target in ["one", "two", "three"] {
            let tag = side.tag(&format!("bake-{target}"));
            assert_eq!(metadata[target]["containerimage.digest"], side.digest(&tag));
            let seen = side.run_image(&tag, &["cat", "/which"]);
            assert_eq!(
                seen,
                format!("{target}\n"),
                "{} again: {}",
                side.name,
                side.run_image(&tag, &["ls", "-l", "/which"])
            );
            metadata[target]["image.name"] =
                metadata[target]["image.name"].as_str().unwrap().replace(side.name, "").into();
        }
        metadata
    });
}

#[test]
fn one_target_fails_and_takes_the_others_with_it() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let file = "group \"default\" { targets = [\"good\", \"bad\"] }\n\
        target \"good\" { target = \"good\" }\ntarget \"bad\" { target = \"bad\" }\n";
    let base = stack.base_image();
    let dockerfile = format!("FROM {base} AS good\nRUN true\nFROM {base} AS bad\nRUN exit 7\n");
    let context = Context::new(&dockerfile).file("docker-bake.hcl", file);
    let code = sides.compare(|side| {
        let output = side.builder.buildx(["bake", "--progress", "plain", "--load"]).dir(context.path()).fails();
        assert!(output.stderr.contains("exit code: 7"), "{output}");
        output.status.code()
    });
    assert_eq!(code, Some(1));
}
