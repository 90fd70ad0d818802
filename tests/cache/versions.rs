//! Builders of older versions: what they write into a cache comes back.

use std::io::{Write as _, stderr};

use crate::builds::{ONCE, build};
use crate::common::{Buildkitd, Context, Linkspan, Stack, cached_steps};

/// The oldest one that writes and reads caches through Linkspan. `scripts/stack install` brings it.
const OLDEST: &str = "0.11.6";

/// `scripts/stack install --old` brings them: one that writes a manifest first, and one whose layers come four at a time.
const BETWEEN: [&str; 2] = ["0.21.1", "0.26.3"];

#[test]
fn a_cache_of_the_oldest_builder_comes_back() {
    there_and_back(OLDEST);
}

#[test]
fn so_do_those_of_other_old_builders_that_are_installed() {
    for version in BETWEEN {
        if Stack::shared().find_program(&format!("buildkitd-{version}")).is_some() {
            there_and_back(version);
        } else {
            // Not by `eprintln!`, whose words nobody sees of a test that passes.
            let words =
                format!("buildkitd-{version} is not installed, and not tested; hint: scripts/stack install --old\n");
            stderr().write_all(words.as_bytes()).unwrap();
        }
    }
}

#[track_caller]
fn there_and_back(version: &str) {
    let stack = Stack::shared();
    let buildkitd = Buildkitd::start(stack, &format!("buildkitd-{version}"));
    let linkspan = Linkspan::start(stack, &stack.docker_flags(), &[&buildkitd.address()]);
    // BuildKit 0.11 commits a record's provenance outside the lease it made for that, so that its collector may take it first
    // (solver/llbsolver/history.go, Writer.Commit).
    let builder = stack.builder(&linkspan.address()).without_provenance();
    let inspected = builder.buildx(["inspect"]).ok();
    assert!(inspected.stdout.contains(&format!("v{version}\n")), "{inspected}");

    // The first stage is in caches of mode max only.
    let base = stack.base_image();
    let dockerfile = format!(
        "FROM {base} AS first\nCOPY noise /noise\n{ONCE}FROM {base}\nCOPY last /last\nCOPY --from=first /uuid /uuid\n"
    );
    let context = Context::new(&dockerfile).noise("noise", 2 << 20, 21).file("last", version);
    let reference = format!("ref=old/{version}");
    let (to, from) = (format!("type=linkspan,mode=max,{reference}"), format!("type=linkspan,{reference}"));
    let tag = |name: &str| format!("old-{version}-{name}:1");
    let uuid = |name: &str| stack.run_image(&tag(name), &["cat", "/uuid"]).ok().stdout;
    let (output, results) = build(&builder, &context, &["--cache-to", &to, "--load", "-t", &tag("first")]);
    assert!(results[0]["sent"].as_u64().unwrap() > 0, "{results}\n{output}");
    assert!(!output.stderr.contains("sending tarball"), "no direct export: {output}");

    let (output, again) = build(&builder, &context, &["--cache-to", &to, "--load", "-t", &tag("again")]);
    let sent = (again[0]["sent"].as_u64(), again[0]["sent_bytes"].as_u64(), again[0]["unchanged"].as_bool());
    assert_eq!(sent, (Some(0), Some(0), Some(true)), "{again}\n{output}");
    assert_eq!(again[0]["digest"], results[0]["digest"]);

    let prune = || {
        builder.prune();
        assert_eq!(builder.buildx(["du", "--format", "{{.ID}}"]).ok().stdout, "");
    };
    prune();
    let (output, _) = build(&builder, &context, &["--cache-from", &from, "--load", "-t", &tag("back")]);
    assert_eq!((uuid("back"), cached_steps(&output)), (uuid("first"), 4), "{output}");

    // What the last stage takes from the first one.
    prune();
    let context = context.file("last", "changed");
    let (output, _) = build(&builder, &context, &["--cache-from", &from, "--load", "-t", &tag("changed")]);
    assert_eq!((uuid("changed"), cached_steps(&output)), (uuid("first"), 2), "{output}");
}
