//! When an export was, as its response has it: now, or the time of the sources.

use std::fs;

use serde_json::Value;

use crate::{
    both_ways::{BothWays, Side},
    common::{Context, Stack, text},
};

/// Stands for a time that is the moment of the build.
const NOW: &str = "now";

/// `created` in the metadata file of a build with `args`.
#[track_caller]
fn created(side: &Side<'_>, context: &Context, args: &[&str], epoch: Option<&str>) -> String {
    let file = side.stack.fresh_path(".json");
    let run = side.builder.build(context.path(), args.iter().copied()).args(["--metadata-file", text(&file)]);
    let run = match epoch {
        Some(epoch) => run.env("SOURCE_DATE_EPOCH", epoch),
        None => run.without_env("SOURCE_DATE_EPOCH"),
    };
    run.ok();
    let metadata: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let created = &metadata["containerimage.descriptor"]["annotations"]["org.opencontainers.image.created"];
    let created = created.as_str().unwrap_or_else(|| panic!("no time in {metadata}"));
    // No test runs in a year that one of these times is in.
    if ["19", "2001", "2009", "2033"].iter().any(|year| created.starts_with(year)) {
        created.to_owned()
    } else {
        NOW.to_owned()
    }
}

#[test]
fn the_time_is_that_of_the_sources_where_one_is_given() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "times");
    let (attribute, empty) = ("type=docker,source-date-epoch=1234567890", "type=docker,source-date-epoch=");
    let argument = "SOURCE_DATE_EPOCH=-1";
    for (args, epoch, expected) in [
        (&["--load"][..], Some("1000000000"), "2001-09-09T01:46:40Z"),
        (&["--load", "--build-arg", argument], None, "1969-12-31T23:59:59Z"),
        (&["-o", attribute], None, "2009-02-13T23:31:30Z"),
        (&["-o", attribute], Some("1000000000"), "2009-02-13T23:31:30Z"),
        (&["-o", empty], Some("1000000000"), NOW),
        (&["--load", "--build-arg", "SOURCE_DATE_EPOCH="], None, NOW),
        (&["--load"], None, NOW),
        // Asks the frontend, which knows the time of a commit and not of a folder.
        (&["--load", "--build-arg", "SOURCE_DATE_EPOCH=context"], None, NOW),
        (&["-o", "type=docker,source.date.epoch=2000000000"], None, "2033-05-18T03:33:20Z"),
    ] {
        assert_eq!(sides.compare(|side| created(side, &context, args, epoch)), expected, "{args:?} {epoch:?}");
    }
}

#[test]
fn a_time_that_is_none_is_the_builders_error() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "times");
    let words = sides.compare(|side| {
        let output = side.builder.build(context.path(), ["-o", "type=docker,source-date-epoch=soon"]).fails();
        crate::both_ways::messages(&output)
    });
    assert!(words.join("\n").contains("invalid source-date-epoch"), "{words:?}");
}

#[test]
fn a_builder_that_runs_the_frontend_itself_reports_the_time_as_well() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "times");
    let folder = text(context.path());
    let (context_arg, dockerfile_arg) = (format!("context={folder}"), format!("dockerfile={folder}"));
    let args = ["build", "--frontend", "dockerfile.v0", "--local", &context_arg, "--local", &dockerfile_arg];
    let file = stack.fresh_path(".json");
    let output = "type=linkspan,name=by-buildctl:1,source.date.epoch=1000000000";
    stack
        .buildctl(["--addr", &sides.linkspan.address()])
        .args(args)
        .args(["--output", output, "--metadata-file", text(&file)])
        .ok();
    let metadata = fs::read_to_string(&file).unwrap();
    assert!(metadata.contains("2001-09-09T01:46:40Z"), "{metadata}");
}
