//! Programs in Go that know nothing of Linkspan but the definition of its API and containerd's own client.

use crate::common::Run;
use crate::server::Server;

/// In the module of the programs.
fn go(args: &[&str]) -> Run {
    Run::new("go").arg("-C").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go")).args(args)
}

#[test]
fn containerds_own_content_tests_pass_on_containerd() {
    let server = Server::containerd("go-content");
    content_tests(&server);
    assert_eq!(server.stack.leases("go-content"), [""; 0], "each test gave up its export");
}

#[test]
fn containerds_own_content_tests_pass_on_a_layout() {
    content_tests(&Server::layout().0);
}

fn content_tests(server: &Server) {
    // Of its own accord `go test` takes a result from its cache when only the server has changed.
    let output = go(&["test", "-count=1", "-v", "-run", "TestContent", "."])
        .env("LINKSPAN_EXPORT_ADDRESS", server.linkspan.address())
        .ok();
    for name in ["Writer", "UpdateStatus", "CommitExists", "ResumeCopySeeker", "Labels", "CommitErrorState"] {
        assert!(output.stdout.contains(&format!("--- PASS: TestContent/{name} ")), "{output}");
    }
    assert!(!output.stdout.contains("--- SKIP"), "{output}");
}

#[test]
fn the_client_in_go_renews_aborts_and_commits() {
    let server = Server::containerd("go-client");
    let output = Run::new("go")
        .args(["-C", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go/client"), "test", "-count=1", "-v", "."])
        .env("LINKSPAN_EXPORT_ADDRESS", server.linkspan.address())
        .ok();
    for name in ["AnExportIsRenewed", "CloseAborts", "CloseLeavesWhatIsCommitted", "WhyACommitFailed", "AHoldOfNothing"]
    {
        assert!(output.stdout.contains(&format!("--- PASS: Test{name} ")), "{output}");
    }
    assert!(!output.stdout.contains("--- SKIP"), "{output}");
    let full_name = "docker.io/library/client-test:1";
    let images = server.stack.images("go-client");
    assert!(images.len() == 2 && images.iter().any(|(name, _)| name == full_name), "{images:?}");
    server.until_released();
}

#[test]
fn where_there_is_no_server_the_tests_are_skipped_and_say_what_they_need() {
    for folder in ["", "/client"] {
        let folder = format!("{}/tests/go{folder}", env!("CARGO_MANIFEST_DIR"));
        let run = Run::new("go").args(["-C", &folder, "test", "-count=1", "-v", "."]);
        let output = run.without_env("LINKSPAN_EXPORT_ADDRESS").ok();
        assert!(output.stdout.contains("--- SKIP") && output.stdout.contains("it names a server"), "{output}");
    }
}

#[test]
fn a_program_in_go_exports_an_image() {
    let server = Server::containerd("go-export");
    let address = server.linkspan.address();
    let output = go(&["run", "./export", &address, "from-go"]).ok().stdout;
    let digest = server.stack.image_of("go-export", "docker.io/library/from-go:latest").unwrap();
    assert_eq!(output, format!("docker.io/library/from-go:latest {digest}, 3 blobs sent\n"));
    let output = go(&["run", "./export", &address, "from-go"]).ok().stdout;
    assert_eq!(output, format!("docker.io/library/from-go:latest {digest}, 0 blobs sent\n"));
    server.stack.ctr("go-export", ["images", "check"]).ok();
}
