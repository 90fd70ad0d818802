//! BuildKit's own exporter and importer, over the caching API.

use linkspan::cache_v1::proto::{ListRequest, Version};

use crate::client::Server;
use crate::common::Run;

async fn versions(server: &Server) -> Vec<Version> {
    server.client().await.caches.list(ListRequest::default()).await.unwrap().into_inner().versions
}

#[test]
fn what_buildkit_would_need_is_short() {
    let text = include_str!("../go/cache/backend.go");
    let (_, code) = text.split_once("\n)\n").unwrap();
    let lines = code.lines().filter(|line| !line.is_empty()).count();
    assert!(lines < 60, "{lines} lines besides the imports");
}

#[tokio::test(flavor = "multi_thread")]
async fn buildkits_exporter_and_importer_need_no_change() {
    for (engine, server) in Server::each("api-go") {
        let address = server.linkspan.address();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go");
        let run = || Run::new("go").args(["-C", folder, "run", "./cache", &address, "from/go"]).ok().stdout;
        let output = run();
        let version = versions(&server).await.remove(0);
        let digest = version.root.clone().unwrap().digest;
        let imported = "imported \"the layer of a build step\"\n";
        assert_eq!(output, format!("exported {digest}, unchanged false\n{imported}"), "{engine}");
        assert_eq!((version.mode.as_str(), version.layers, version.builder.as_str()), ("max", 1, "cache in Go"));
        assert_eq!(run(), format!("exported {digest}, unchanged true\n{imported}"), "{engine}");
        assert_eq!(versions(&server).await.len(), 1);
    }
}
