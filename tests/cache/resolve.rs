//! Resolve by platforms, and the inline caches of images.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::stream;
use linkspan::cache_v1::proto::lookup::What;
use linkspan::cache_v1::proto::*;
use linkspan::export_v1::proto::Platform;
use linkspan::image::{Descriptor, Digest};
use serde_json::{Value, json};

use crate::client::{Client, Server, target};
use crate::common::{text, until};
use crate::fixture::{INDEX, MANIFEST, held};

fn platform(os: &str, architecture: &str, variant: &str) -> Platform {
    let text = ToOwned::to_owned;
    Platform { os: text(os), architecture: text(architecture), variant: text(variant), ..Platform::default() }
}

async fn resolve(client: &Client, reference: &str, platforms: &[Platform]) -> ResolveResponse {
    let request =
        ResolveRequest { refs: vec![reference.to_owned()], platforms: platforms.to_vec(), ..ResolveRequest::default() };
    client.caches.clone().resolve(request).await.unwrap().into_inner()
}

fn titles(response: &ResolveResponse) -> Vec<&str> {
    response.parts.iter().map(|part| part.version.as_ref().unwrap().title.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_may_be_of_the_platforms_is_offered() {
    for (engine, server) in Server::each("api-platforms") {
        let client = server.client().await;
        for of in ["linux/amd64", "linux/arm64", "", "linux/s390x,linux/arm64"] {
            client.export(vec![target("a", "app", of)], &["common", of]).await;
        }
        assert_eq!(resolve(&client, "app", &[]).await.parts.len(), 3, "{engine}: one was replaced");
        let arm = resolve(&client, "app", &[platform("linux", "arm64", "v8")]).await;
        assert_eq!(titles(&arm), ["linux/s390x,linux/arm64", ""], "{engine}");
        let both = [platform("linux", "amd64", ""), platform("linux", "s390x", "")];
        assert_eq!(resolve(&client, "app", &both).await.parts.len(), 3, "{engine}");
        client.export(vec![target("a", "other", "linux/amd64")], &["common"]).await;
        let none = resolve(&client, "other", &[platform("linux", "riscv64", "")]).await;
        assert_eq!((none.parts, none.unknown_refs, none.hold_id), (vec![], vec!["other".to_owned()], String::new()));
        let request = ResolveRequest {
            refs: vec!["app".to_owned()],
            platforms: vec![Platform::default()],
            ..ResolveRequest::default()
        };
        let refused = client.caches.clone().resolve(request).await.unwrap_err();
        assert!(refused.message().contains("platforms[0]"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_can_be_read_although_another_process_deletes_its_version() {
    let namespace = "api-held";
    let server = Server::containerd(namespace);
    let client = server.client().await;
    client.export(vec![target("a", "app", "")], &["held layer"]).await;
    let leases = || {
        let listed = server.stack.ctr(namespace, ["leases", "ls", "-q"]).ok().stdout;
        listed.lines().filter(|lease| !lease.contains("cache")).count()
    };
    until("the lease of the export to go", leases, |leases| *leases == 0);
    let hold = resolve(&client, "app", &[]).await.hold_id;
    let layer = Descriptor::new("layer", Digest::sha256(b"held layer"), 10);
    // A lease that is there is not yet one that keeps anything.
    let leased = || server.stack.leased(namespace, |lease| !lease.contains("cache"));
    until("the hold's lease to keep the layer", leased, |leased| leased.contains(layer.digest.as_str()));
    server.command(&["cache", "rm", "app"]).ok();
    server.stack.collect_garbage(namespace);
    assert_eq!(client.read(&hold, &layer).await.unwrap(), "held layer");

    client.caches.clone().release(ReleaseRequest { hold_id: hold }).await.unwrap();
    until("its lease to go", leases, |leases| *leases == 0);
    server.stack.collect_garbage(namespace);
    assert_eq!(held(server.stack, namespace, &[layer.digest.to_string()]), [false]);
}

/// A layout with an image of two platforms, of which one has an inline cache with the step `base`.
pub(crate) fn write_image(folder: &std::path::Path) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let store = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        Descriptor::new(media_type, digest, bytes.len() as u64)
    };
    let manifests = [("amd64", 1024), ("arm64", 10_240)].map(|(architecture, zeros)| {
        // The end of a tar archive, which is an empty layer.
        let layer = store("application/vnd.oci.image.layer.v1.tar", &vec![0; zeros]);
        let mut config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        });
        if architecture == "arm64" {
            let base = Digest::sha256(b"base@0");
            let records = json!([{"digest": base, "layers": [{"layer": 0}]}]).to_string();
            config["moby.buildkit.cache.v0"] = BASE64.encode(records).into();
        }
        let config = store("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let manifest = store(MANIFEST, manifest.to_string().as_bytes());
        let mut entry = serde_json::to_value(&manifest).unwrap();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let mut root = serde_json::to_value(store(INDEX, index.to_string().as_bytes())).unwrap();
    root["annotations"] = json!({"io.containerd.image.name": "docker.io/library/inline:api"});
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(folder.join("index.json"), json!({"schemaVersion": 2, "manifests": [root]}).to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_an_inline_cache_is_a_part_that_is_only_read() {
    for (engine, server) in Server::each("api-inline") {
        let mut client = server.client().await;
        assert_eq!(resolve(&client, "inline:api", &[]).await.unknown_refs, ["inline:api"]);
        let folder = server.stack.fresh_path("-inline");
        write_image(&folder);
        server.command(&["load", "-i", text(&folder)]).ok();
        let found = resolve(&client, "inline:api", &[]).await;
        let [part] = &found.parts[..] else { panic!("{engine}: {found:?}") };
        let version = part.version.clone().unwrap();
        assert_eq!((version.id.as_str(), version.part.as_str(), version.title.as_str()), ("", "image", "linux/arm64"));
        assert_eq!((version.root.as_ref(), version.layers), (part.root.as_ref(), 1), "{engine}");
        let amd = resolve(&client, "inline:api", &[platform("linux", "amd64", "")]).await;
        assert_eq!(amd.unknown_refs, ["inline:api"], "{engine}");
        let arm = resolve(&client, "inline:api", &[platform("linux", "arm64", "")]).await;
        assert_eq!(arm.parts, found.parts, "{engine}");
        client.caches.release(ReleaseRequest { hold_id: arm.hold_id }).await.unwrap();

        // It is no cache of its own, and is neither listed nor deleted.
        assert_eq!(client.caches.list(ListRequest::default()).await.unwrap().into_inner().versions, []);
        let delete = DeleteRequest { r#ref: "inline:api".to_owned(), ..DeleteRequest::default() };
        assert_eq!(crate::client::reason(&client.caches.delete(delete).await.unwrap_err()), "CACHE_UNKNOWN");

        // The hold keeps it although the image goes.
        server.command(&["rm", "inline:api"]).ok();
        if engine == "containerd" {
            server.stack.collect_garbage("api-inline");
        }
        let hold_id = found.hold_id.clone();
        let root = described(part.root.as_ref().unwrap());
        let manifest: Value = serde_json::from_slice(&client.read(&hold_id, &root).await.unwrap()).unwrap();
        let config = described(part.config.as_ref().unwrap());
        assert_eq!(manifest["config"]["digest"], config.digest.as_str());
        client.read(&hold_id, &config).await.unwrap();

        let what = Some(What::Root(RootKey { digest: "base".to_owned(), output: 0 }));
        let request = QueryRequest { hold_id: hold_id.clone(), lookups: vec![Lookup { tag: 1, what }], ahead: 0 };
        let mut responses = client.caches.query(stream::iter([request])).await.unwrap().into_inner();
        let key = responses.message().await.unwrap().unwrap().found[0].keys[0].clone();
        assert!(key.has_results, "{engine}");
        let request = RecordsRequest { hold_id: hold_id.clone(), keys: vec![key.key] };
        let records = client.caches.records(request).await.unwrap().into_inner().records;
        let result = &records[0].results[0];
        assert_eq!((result.layers, result.bytes, result.present), (1, 10_240, true), "{engine}");
        let request = LoadRequest { hold_id: hold_id.clone(), result_id: result.id.clone() };
        let chain = client.caches.load(request).await.unwrap().into_inner().chain;
        assert_eq!(chain[0].annotations["containerd.io/uncompressed"], chain[0].digest, "{engine}");
        assert_eq!(client.read(&hold_id, &described(&chain[0])).await.unwrap().len(), 10_240);
        client.caches.release(ReleaseRequest { hold_id }).await.unwrap();
        if engine == "containerd" {
            until("the lease of the hold to go", || server.stack.leases("api-inline"), Vec::is_empty);
        }

        // A cache of the same name comes first.
        client.export(vec![target("a", "inline:api", "")], &["one"]).await;
        assert_eq!(titles(&resolve(&client, "inline:api", &[]).await), [""], "{engine}");
    }
}

fn described(message: &linkspan::export_v1::proto::Descriptor) -> Descriptor {
    Descriptor::new(message.media_type.clone(), message.digest.parse().unwrap(), message.size as u64)
}
