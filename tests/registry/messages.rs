//! What users are told of a registry door, and of registries that are not there.

use serde_json::Value;

use crate::common::{linkspan, text};
use crate::fixture::MANIFEST;
use crate::pushes::{image, push_blobs, put};
use crate::served::Served;

#[tokio::test(flavor = "multi_thread")]
async fn a_door_says_what_it_is_and_who_has_its_address() {
    let served = Served::layout(&["--registry-writable"]).await;
    let (log, address) = (served.linkspan.log(), format!("tcp://{}", served.address));
    assert!(log.contains(&format!("registry door listening on {address} (writable)")), "{log}");
    assert!(log.contains("no export door: the default doors are left out") && log.contains("--export-listen"), "{log}");
    let read_only = Served::layout(&[]).await;
    assert!(read_only.linkspan.log().contains(" (read-only)\n"), "{}", read_only.linkspan.log());

    let folder = tempfile::tempdir().unwrap();
    let layout = ["--engine", "layout", "--layout", text(folder.path())];
    let taken = linkspan(["serve", "--registry-listen", &address]).args(layout).fails();
    let port = served.address.rsplit_once(':').unwrap().1;
    assert!(taken.stderr.contains(&format!("ss -ltnp 'sport = :{port}'")), "{taken}");
    assert!(taken.stderr.contains("another address with --registry-listen"), "{taken}");

    // The doctor knows whose door it is, and the other commands say so.
    let report = linkspan(["doctor", "--json", "--registry-listen", &address]).args(layout).output();
    let report: Value = serde_json::from_str(&report.stdout).unwrap_or_else(|error| panic!("{error}: {report}"));
    let expected = format!("registry door open at {address}");
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["found"] == expected.as_str()), "{report:#}");
    let wrong = linkspan(["images", "--to", &address]).fails();
    assert!(wrong.stderr.contains(&format!("{address} is Linkspan's registry door")), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_there_is_no_question_of_passwords() {
    let served = Served::layout(&["--registry-writable"]).await;
    let image = image("copied\n");
    push_blobs(&served, "copied/app", &image);
    assert_eq!(put(&served, "copied/app", "1", MANIFEST, &image.blobs[&image.root.digest]).status, 201);
    let from = format!("docker://{}/copied/app:1", served.address);
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = format!("docker://{free}/copied/app:1");
    let folder = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}", text(folder.path()));
    for (from, to) in [(&from, &nowhere), (&nowhere, &layout)] {
        let refused = linkspan(["copy", from, to]).fails();
        assert!(
            refused.stderr.contains(&format!("cannot connect to the registry {free}: Connection refused")),
            "{refused}"
        );
        assert!(refused.stderr.contains("hint: nothing listens there"), "{refused}");
    }
}
