//! `scripts/kubernetes`: what the chart renders, and its pods on a real containerd, with docker for a kubelet.

use std::fs;

use crate::common::{BUILDER_IMAGE, Part, Run, Stack};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A program in Python that is beside the others of the chart's tests.
fn python(program: &str) -> Run {
    Stack::shared().run("linkspan-python").arg(format!("{ROOT}/tests/python/kubernetes/{program}"))
}

#[test]
fn the_kept_manifests_are_what_the_chart_renders() {
    python("static.py").arg("kept").ok();
}

#[test]
fn every_object_is_valid_in_every_version_that_the_chart_allows() {
    let output = python("static.py").arg("schemas").ok();
    assert!(output.stdout.contains(" objects valid, 1.30 to 1."), "{output}");
}

#[test]
fn values_that_cannot_work_are_refused_by_name() {
    python("static.py").arg("refusals").ok();
}

#[test]
fn containers_have_the_rights_that_are_documented_and_names_lead_somewhere() {
    python("static.py").arg("mistakes").ok();
}

/// By the checks that an API server makes: what is new here needs a namespace that allows it.
#[test]
fn pods_are_refused_by_pod_security_for_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    python("static.py").arg("pods").arg(folder.path()).ok();
    let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let program = format!("{ROOT}/tests/go/podsecurity");
    let output = Run::new("go").args(["-C", &program, "run", "."]).args(&files).ok().stdout;
    let known = fs::read_to_string(format!("{ROOT}/tests/data/kubernetes/podsecurity.txt")).unwrap();
    assert_eq!(output, known);
}

#[test]
fn pods_build_serve_and_take_images_and_outlive_a_restart_of_containerd() {
    let (kubelet, node) = (Stack::shared(), Stack::start(&[Part::Containerd]));
    kubelet.make_builder_image();
    let work = node.fresh_path("-kubernetes");
    fs::create_dir(&work).unwrap();
    let output = python("live.py")
        .arg(&work)
        .env("LINKSPAN", env!("CARGO_BIN_EXE_linkspan"))
        .env("NODE_STATE", node.state())
        .env("BUSYBOX", kubelet.program("busybox"))
        .env("BUILDER_IMAGE", BUILDER_IMAGE)
        .ok();
    for scenario in ["context", "absent", "builder", "rootless", "node", "bucket", "pushes"] {
        assert!(output.stdout.contains(&format!("{scenario}: passed")), "{output}");
    }
}
