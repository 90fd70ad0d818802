//! Pushes, as `linkspan ps` lists them.

use serde_json::{Value, json};

use crate::common::linkspan;
use crate::fixture::MANIFEST;
use crate::http::{request, send};
use crate::pushes::{image, push_blobs, put};
use crate::served::Served;

/// What `linkspan ps` lists at the registry door itself.
#[track_caller]
fn ps(served: &Served) -> Vec<Value> {
    let address = format!("tcp://{}", served.address);
    let lines = linkspan(["ps", "--json", "--to", &address]).ok().lines();
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_listed_with_what_it_uploaded_until_its_image_has_its_name() {
    for served in [
        Served::layout(&["--registry-writable"]).await,
        Served::containerd("registry-listed", &["--registry-writable"]).await,
    ] {
        let image = image(&format!("listed by {}\n", served.kind()));
        let config = &image.config;
        // A client that only asks pushes nothing.
        assert_eq!(served.head(&format!("/v2/team/app/blobs/{}", config.digest)).status, 404);
        let begun = request(&served.address, "POST", "/v2/team/app/blobs/uploads/", &[("Content-Length", "0")]);
        assert_eq!(begun.status, 202, "{begun:?}");
        assert_eq!(request(&served.address, "DELETE", begun.header("location").unwrap(), &[]).status, 204);
        assert_eq!(ps(&served), [json!(null); 0], "an upload that was given up");

        let begun = request(&served.address, "POST", "/v2/team/app/blobs/uploads/", &[("Content-Length", "0")]);
        let location = begun.header("location").unwrap().to_owned();
        let part = send(&served.address, "PATCH", &location, &[], &[7; 1000]);
        assert_eq!(part.status, 202, "{part:?}");
        let [push] = &ps(&served)[..] else { panic!("{:?}", ps(&served)) };
        assert_eq!((&push["door"], &push["state"]), (&json!("registry"), &json!("open")), "{push}");
        assert_eq!(
            (&push["blobs"], &push["bytes"]),
            (&json!(0), &json!(1000)),
            "what came of an upload counts: {push}"
        );
        assert_eq!(push["principal"], json!("anonymous at 127.0.0.1"), "connections end before a push does");
        let address = format!("tcp://{}", served.address);
        let table = linkspan(["ps", "--to", &address]).ok().stdout;
        assert!(table.contains(" team/app\n") && table.contains("1kB"), "a repository has no tag: {table}");
        assert_eq!(request(&served.address, "DELETE", &location, &[]).status, 204);

        push_blobs(&served, "team/app", &image);
        let [push] = &ps(&served)[..] else { panic!("{:?}", ps(&served)) };
        let blobs: Vec<_> = image.layers.iter().chain([config]).collect();
        let bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
        assert_eq!((&push["blobs"], &push["bytes"]), (&json!(blobs.len()), &json!(bytes)), "{push}");
        assert_eq!(push["names"], json!(["docker.io/team/app"]), "{push}");
        // Of blobs that are found and not sent, nothing is listed; they keep the push for its client.
        assert_eq!(served.head(&format!("/v2/team/app/blobs/{}", config.digest)).status, 200);

        let root = &image.root.digest;
        let tagged = put(&served, "team/app", "1", MANIFEST, &image.blobs[root]);
        assert_eq!(tagged.status, 201, "{tagged:?}");
        assert_eq!(ps(&served), [json!(null); 0]);
        assert_eq!(served.head(&format!("/v2/team/app/manifests/{root}")).status, 200);
        assert_eq!(ps(&served), [json!(null); 0], "a HEAD only asks");

        let begun = request(&served.address, "POST", "/v2/team/app/blobs/uploads/", &[("Content-Length", "0")]);
        let location = begun.header("location").unwrap().to_owned();
        assert_eq!(send(&served.address, "PATCH", &location, &[], &[8; 500]).status, 202);
        let tagged = put(&served, "team/app", "2", MANIFEST, &image.blobs[root]);
        assert_eq!(tagged.status, 201, "{tagged:?}");
        let [push] = &ps(&served)[..] else { panic!("{:?}", ps(&served)) };
        assert_eq!((&push["state"], &push["bytes"]), (&json!("open"), &json!(500)), "an upload goes on: {push}");
        assert_eq!(request(&served.address, "DELETE", &location, &[]).status, 204);
        assert_eq!(ps(&served), [json!(null); 0]);
    }
}
