//! The conformance suite of the OCI distribution specification, at its `dev` level: what it may skip is listed here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::{Stack, text};
use crate::served::Served;

/// What every one of the suite's tests is called first.
const ROOT: &str = "OCI Conformance Test";

/// The suite's tests that are skipped, by their last part: how many, what the suite says, and why that is right.
const SKIPPED: [(&str, usize, &str); 2] = [
    // The engine's other images may have the blob, and the engine collects what nothing names.
    ("blob-delete", 119, "registry returned status 405"),
    // The same holds for manifests; tags can be removed.
    ("manifest-delete", 47, "registry returned status 405"),
];

/// The same by what a registry can do, and by kinds of content.
const NOT_PASSED: [(&str, &str); 5] = [
    ("Blob delete", "Skip"),
    ("Blob delete atomic", "Skip"),
    ("Manifest delete", "Skip"),
    ("Manifest delete atomic", "Skip"),
    // Off by default: a registry may refuse a manifest whose blobs were not pushed, and an engine cannot use it.
    ("Sparse Manifests", "Disabled"),
];

/// The suite's report: each of its tests that has none below it, with its status and what was said of it.
#[track_caller]
fn tests(report: &str) -> Vec<(&str, &str, Vec<&str>)> {
    let mut found: Vec<(usize, &str, &str, Vec<&str>)> = Vec::new();
    for line in report.lines().take_while(|line| *line != "Configuration:") {
        let (name, depth) = (line.trim(), line.len() - line.trim_start().len());
        match name.strip_prefix(ROOT).and_then(|name| name.rsplit_once(": ")) {
            Some((name, status)) => {
                // What has others below it sums them up.
                found.pop_if(|(above, ..)| *above < depth);
                found.push((depth, name, status, Vec::new()));
            }
            _ if name.is_empty() => {}
            None => found.last_mut().into_iter().for_each(|(.., said)| said.push(name.trim_start_matches("- "))),
        }
    }
    found.into_iter().map(|(_, name, status, said)| (name, status, said)).collect()
}

/// The lines of the report's tables that are not `Pass`.
fn not_passed(report: &str) -> Vec<(&str, &str)> {
    let tables = report.split_once("API conformance:").unwrap().1;
    let lines = tables.lines().filter_map(|line| line.trim().split_once(':'));
    let statuses = lines.map(|(name, status)| (name.trim_end_matches('.'), status.trim()));
    statuses.filter(|(_, status)| !status.is_empty() && *status != "Pass").collect()
}

#[track_caller]
fn conforms(served: &Served) {
    let (stack, results) = (Stack::shared(), tempfile::tempdir().unwrap());
    let program = stack.program("oci-conformance");
    let settings = [
        ("OCI_REGISTRY", served.address.as_str()),
        ("OCI_TLS", "disabled"),
        ("OCI_VERSION", "dev"),
        ("OCI_RESULTS_DIR", text(results.path())),
    ];
    let run = stack.run(text(&program)).dir(results.path()).timeout(Duration::from_secs(600));
    let output = settings.into_iter().fold(run, |run, (name, value)| run.env(name, value)).output();
    let tests = tests(&output.stdout);
    let failed: Vec<_> = tests.iter().filter(|(_, status, _)| !matches!(*status, "Pass" | "Skip")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let mut skipped: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for (name, _, said) in tests.iter().filter(|(_, status, _)| *status == "Skip") {
        let last = name.rsplit_once('/').map_or(*name, |(_, last)| last);
        *skipped.entry((last, said.join("; "))).or_default() += 1;
    }
    let expected = SKIPPED.map(|(last, count, said)| ((last, said.to_owned()), count));
    assert_eq!(skipped, BTreeMap::from(expected));
    assert_eq!(not_passed(&output.stdout), NOT_PASSED);
    let passed = tests.len() - SKIPPED.iter().map(|(_, count, _)| count).sum::<usize>();
    assert!(passed > 600 && output.status.success(), "{passed} passed: {output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_conforms() {
    conforms(&Served::layout(&["--registry-writable"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_conforms() {
    conforms(&Served::object(&["--registry-writable"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_conforms() {
    conforms(&Served::containerd("registry-conformance", &["--registry-writable"]).await);
}

/// What it has pushed disturbs nobody.
#[tokio::test(flavor = "multi_thread")]
async fn docker_conforms_and_lists_its_images() {
    let stack = Stack::shared();
    conforms(&Served::docker(&["--registry-writable"]).await);
    for list in [&["images", "--all"][..], &["system", "df"], &["image", "ls", "--tree"]] {
        stack.docker(list.iter().copied()).ok();
    }
}
