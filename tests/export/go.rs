//! Programs in Go that know nothing of Linkspan but the definition of its API and containerd's own client.

use crate::common::Run;
use crate::rig::Rig;

/// In the module of the programs.
fn go(args: &[&str]) -> Run {
    Run::new("go").arg("-C").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go")).args(args)
}

#[test]
fn containerds_own_content_tests_pass_on_containerd() {
    let rig = Rig::containerd("go-content");
    content_tests(&rig);
    assert_eq!(rig.stack.leases("go-content"), [""; 0], "each test gave up its export");
}

#[test]
fn containerds_own_content_tests_pass_on_a_layout() {
    content_tests(&Rig::layout().0);
}

fn content_tests(rig: &Rig) {
    // Of its own accord `go test` takes a result from its cache when only the server has changed.
    let output = go(&["test", "-count=1", "-v", "-run", "TestContent", "."])
        .env("LINKSPAN_EXPORT_ADDRESS", rig.linkspan.address())
        .ok();
    for name in ["Writer", "UpdateStatus", "CommitExists", "ResumeCopySeeker", "Labels", "CommitErrorState"] {
        assert!(output.stdout.contains(&format!("--- PASS: TestContent/{name} ")), "{output}");
    }
    assert!(!output.stdout.contains("--- SKIP"), "{output}");
}

#[test]
fn a_program_in_go_exports_an_image() {
    let rig = Rig::containerd("go-export");
    let address = rig.linkspan.address();
    let said = go(&["run", "./export", &address, "from-go"]).ok().stdout;
    let digest = rig.stack.image_of("go-export", "docker.io/library/from-go:latest").unwrap();
    assert_eq!(said, format!("docker.io/library/from-go:latest {digest}, 3 blobs sent\n"));
    let said = go(&["run", "./export", &address, "from-go"]).ok().stdout;
    assert_eq!(said, format!("docker.io/library/from-go:latest {digest}, 0 blobs sent\n"));
    rig.stack.ctr("go-export", ["images", "check"]).ok();
}
