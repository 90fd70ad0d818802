//! Resolve, Inspect, List, Fetch and Push: what `docker buildx imagetools` does, without a registry of the client's.

use futures_util::stream;
use linkspan::export_v1::proto::precondition::Condition;
use linkspan::export_v1::proto::push_request::Message;
use linkspan::export_v1::proto::references_client::ReferencesClient;
use linkspan::export_v1::proto::{
    Descriptor, FetchRequest, InspectRequest, InspectResponse, ListReferencesRequest, Platform, Precondition,
    PushBegin, PushPart, PushRequest, PushResponse, Reference, ResolveDepth, ResolveRequest, ResolveResponse,
};
use linkspan::image::Digest;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::client::{descriptor, fields, reason, small_image};
use crate::common::{Context, Stack, until};
use crate::fixture::{INDEX, Image, Layer};
use crate::server::Server;

struct References(ReferencesClient<Channel>);

impl References {
    async fn of(server: &Server) -> Self {
        Self(ReferencesClient::new(server.client().await.channel).max_decoding_message_size(16 << 20))
    }

    async fn resolve(&self, reference: &str, depth: ResolveDepth, platform: &str) -> Result<ResolveResponse, Status> {
        let (os, architecture) = platform.split_once('/').unwrap_or_default();
        let platform = Platform { os: os.to_owned(), architecture: architecture.to_owned(), ..Platform::default() };
        let request = ResolveRequest {
            reference: reference.to_owned(),
            depth: depth.into(),
            platform: (!os.is_empty()).then_some(platform),
            inline: true,
        };
        Ok(self.0.clone().resolve(request).await?.into_inner())
    }

    async fn inspect(&self, reference: &str) -> Result<InspectResponse, Status> {
        Ok(self.0.clone().inspect(InspectRequest { reference: reference.to_owned() }).await?.into_inner())
    }

    async fn fetch(&self, digest: &str, offset: i64, length: i64) -> Result<(i64, Vec<u8>), Status> {
        let request = FetchRequest { digest: digest.to_owned(), offset, length };
        let mut parts = self.0.clone().fetch(request).await?.into_inner();
        let (mut size, mut bytes) = (None, Vec::new());
        while let Some(part) = parts.message().await? {
            assert_eq!(part.offset, offset + bytes.len() as i64);
            size.get_or_insert(part.size);
            bytes.extend(part.data);
        }
        Ok((size.unwrap(), bytes))
    }

    async fn push(
        &self,
        name: &str,
        root: Descriptor,
        condition: Option<Condition>,
        blobs: &[(Descriptor, &[u8])],
    ) -> Result<PushResponse, Status> {
        let begin = PushBegin {
            name: name.to_owned(),
            root: Some(root),
            precondition: condition.map(|condition| Precondition { condition: Some(condition) }),
            ..PushBegin::default()
        };
        let mut messages = vec![PushRequest { message: Some(Message::Begin(begin)) }];
        for (blob, bytes) in blobs {
            // In two parts, of which only the first names the blob.
            let (one, other) = bytes.split_at(bytes.len() / 2);
            for (descriptor, data) in [(Some(blob.clone()), one), (None, other)] {
                let part = PushPart { descriptor, data: data.to_vec().into() };
                messages.push(PushRequest { message: Some(Message::Part(part)) });
            }
        }
        Ok(self.0.clone().push(stream::iter(messages)).await?.into_inner())
    }
}

fn index_of(entries: &[Value]) -> (Descriptor, Vec<u8>) {
    let bytes = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})).unwrap();
    let (digest, size) = (Digest::sha256(&bytes).to_string(), bytes.len() as i64);
    (Descriptor { media_type: INDEX.to_owned(), digest, size, ..Descriptor::default() }, bytes)
}

/// An index of three platforms with attestations, built and pushed by buildx, in the namespace `namespace`.
fn build(stack: &'static Stack, namespace: &str) -> String {
    let name = format!("{}/{namespace}:1", stack.registry());
    let context = Context::new("FROM scratch\nCOPY greeting /\n").file("greeting", namespace);
    let builder = stack.builder(stack.buildkit_host());
    let output = format!("type=image,name={name},push=true,oci-mediatypes=true,annotation-index.made=here");
    let platforms = "linux/amd64,linux/arm64,linux/s390x";
    builder.build(context.path(), ["--platform", platforms, "--provenance", "mode=max", "-o", &output]).ok();
    stack.ctr(namespace, ["images", "pull", "--plain-http", "--all-platforms", &name]).ok();
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_inspected_and_made_as_by_imagetools() {
    let server = Server::containerd("imagetools");
    let (stack, references) = (server.stack, References::of(&server).await);
    let name = build(stack, "imagetools");
    let builder = stack.builder(stack.buildkit_host());
    let raw = |name: &str| builder.buildx(["imagetools", "inspect", "--raw", name]).ok().stdout;

    // imagetools inspect --raw
    let resolved = references.resolve(&name, ResolveDepth::Root, "").await.unwrap();
    assert_eq!(resolved.name, name);
    assert_eq!(String::from_utf8(resolved.chain[0].document.clone()).unwrap(), raw(&name));
    let architectures: Vec<_> = resolved.platforms.iter().map(|it| it.architecture.as_str()).collect();
    assert_eq!(architectures, ["amd64", "arm64", "s390x"]);

    // imagetools inspect
    let inspected = references.inspect(&name).await.unwrap();
    let index: Value = serde_json::from_str(&raw(&name)).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!((entries.len(), inspected.images.len()), (6, 3));
    assert_eq!(inspected.annotations["made"], "here");
    for (image, entry) in inspected.images.iter().zip(entries) {
        let manifest = image.manifest.clone().unwrap();
        assert_eq!(manifest.digest, entry["digest"]);
        assert!(image.complete, "{image:?}");
        let text = raw(&format!("{name}@{}", manifest.digest));
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(image.config.as_ref().unwrap().digest, json["config"]["digest"]);
        let (_, config) = references.fetch(&image.config.as_ref().unwrap().digest, 0, 0).await.unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(image.layers.len(), json["layers"].as_array().unwrap().len());
        for (at, layer) in image.layers.iter().enumerate() {
            let blob = layer.blob.as_ref().unwrap();
            assert_eq!((blob.digest.as_str(), blob.size), {
                let layer = &json["layers"][at];
                (layer["digest"].as_str().unwrap(), layer["size"].as_i64().unwrap())
            });
            assert_eq!(layer.diff_id, config["rootfs"]["diff_ids"][at]);
        }
        let [attestation] = &image.attestations[..] else { panic!("{image:?}") };
        assert!(attestation.predicate_type.starts_with("https://slsa.dev/provenance/"), "{attestation:?}");
        let about = entries.iter().find(|entry| entry["annotations"]["vnd.docker.reference.digest"] == manifest.digest);
        assert_eq!(attestation.manifest.as_ref().unwrap().digest, about.unwrap()["digest"]);
    }

    // imagetools create, of two platforms of the three
    let made = format!("{}/imagetools:buildx", stack.registry());
    let sources: Vec<_> =
        entries[..2].iter().map(|entry| format!("{name}@{}", entry["digest"].as_str().unwrap())).collect();
    builder.buildx(["imagetools", "create", "-t", &made]).args(&sources).ok();
    let theirs: Value = serde_json::from_str(&raw(&made)).unwrap();
    let (root, bytes) = index_of(&entries[..2]);
    let digests = |index: &Value| -> Vec<Value> {
        index["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].clone()).collect()
    };
    let ours = format!("{}/imagetools:ours", stack.registry());
    let absent = Some(Condition::Absent(true));
    let pushed = references.push(&ours, root.clone(), absent, &[(root.clone(), &bytes)]).await.unwrap();
    assert_eq!((pushed.name.as_str(), pushed.stored_blobs, pushed.previous), (ours.as_str(), 1, None));
    assert_eq!(pushed.present_blobs, 5, "two manifests, two configs, and the layer that they share");
    let resolved = references.resolve(&ours, ResolveDepth::Root, "").await.unwrap();
    let read: Value = serde_json::from_slice(&resolved.chain[0].document).unwrap();
    assert_eq!(digests(&read), digests(&theirs));
    // What was made is whole without the image that it was made of.
    until("the lease to go", || stack.leases("imagetools"), Vec::is_empty);
    stack.ctr("imagetools", ["images", "rm", "--sync", &name]).ok();
    assert!(references.inspect(&ours).await.unwrap().images.iter().all(|image| image.complete));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_is_resolved_down_to_a_config() {
    for (engine, server) in Server::each("resolve") {
        let references = References::of(&server).await;
        let index = Image::index(&[
            Image::new(&[Layer::new().file("x", "here").tar()]),
            Image::foreign(&[Layer::new().file("x", "there").tar()]),
        ]);
        push_all(&references, "resolve:1", &index, None).await.unwrap();
        let digests = |response: &ResolveResponse| -> Vec<String> {
            response.chain.iter().map(|blob| blob.descriptor.clone().unwrap().digest).collect()
        };
        let own = references.resolve("resolve:1", ResolveDepth::Config, "").await.unwrap();
        assert_eq!(digests(&own).first(), Some(&index.root.digest.to_string()));
        assert_eq!(digests(&own).last(), Some(&index.config.digest.to_string()));
        let config: Value = serde_json::from_slice(&own.chain[2].document).unwrap();
        assert_eq!(config["os"], "linux");
        let other = references.resolve("resolve:1", ResolveDepth::Manifest, "linux/s390x").await.unwrap();
        assert_eq!((other.chain.len(), other.platforms.len()), (2, 2));
        assert_ne!(digests(&other)[1], digests(&own)[1]);
        let by_digest = references.resolve(index.root.digest.as_str(), ResolveDepth::Root, "").await.unwrap();
        assert_eq!((by_digest.name.as_str(), digests(&by_digest)), ("", vec![index.root.digest.to_string()]));
        for (reference, platform, code) in [
            ("resolve:1", "linux/riscv64", Code::NotFound),
            ("nothing:1", "", Code::NotFound),
            (Digest::sha256(b"nothing").as_str(), "", Code::NotFound),
            ("UPPER", "", Code::InvalidArgument),
        ] {
            let status = references.resolve(reference, ResolveDepth::Manifest, platform).await.unwrap_err();
            assert_eq!(status.code(), code, "{engine}: {reference}: {status}");
        }
    }
}

/// Pushes an image with every blob of it.
async fn push_all(
    references: &References,
    name: &str,
    image: &Image,
    condition: Option<Condition>,
) -> Result<PushResponse, Status> {
    let graph = image.graph();
    let blobs: Vec<_> = graph.descriptors().map(|blob| (descriptor(blob), &image.blobs[&blob.digest][..])).collect();
    references.push(name, descriptor(&image.root), condition, &blobs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_do_not_overwrite_each_other() {
    for (engine, server) in Server::each("precondition") {
        let references = References::of(&server).await;
        let (first, left, right) = (small_image("first"), small_image("left"), small_image("right"));
        push_all(&references, "shared", &first, Some(Condition::Absent(true))).await.unwrap();
        let seen = Some(Condition::Digest(first.root.digest.to_string()));
        let (one, other) = tokio::join!(
            push_all(&references, "shared", &left, seen.clone()),
            push_all(&references, "shared", &right, seen.clone())
        );
        let (won, lost, image) = match (one, other) {
            (Ok(won), Err(lost)) => (won, lost, left),
            (Err(lost), Ok(won)) => (won, lost, right),
            both => panic!("{both:?}"),
        };
        assert_eq!(won.previous.unwrap().digest, first.root.digest.to_string());
        assert_eq!((lost.code(), reason(&lost).as_str()), (Code::Aborted, "PRECONDITION_FAILED"));
        let current = lost.get_error_details().error_info().unwrap().metadata["current"].clone();
        assert_eq!(current, image.root.digest.to_string());
        let status = push_all(&references, "shared", &first, Some(Condition::Absent(true))).await.unwrap_err();
        assert_eq!(reason(&status), "PRECONDITION_FAILED");
        let resolved = references.resolve("shared", ResolveDepth::Root, "").await.unwrap();
        assert_eq!(resolved.chain[0].descriptor.as_ref().unwrap().digest, image.root.digest.to_string(), "{engine}");
        server.until_released();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_processes_that_make_a_name_one_does() {
    // dockerd sets names by itself, and whatever they point to.
    for (engine, server) in Server::each("several").into_iter().filter(|(engine, _)| *engine != "docker") {
        let other = server.beside();
        let doors = [References::of(&server).await, References::of(&other).await];
        for round in 0..5 {
            let name = format!("contended:{round}");
            let images: Vec<_> = (0..6).map(|n| small_image(&format!("{round} {n}"))).collect();
            let pushes = images
                .iter()
                .enumerate()
                .map(|(n, image)| push_all(&doors[n % 2], &name, image, Some(Condition::Absent(true))));
            let outcomes = futures_util::future::join_all(pushes).await;
            let won: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
            assert_eq!(won.len(), 1, "{engine}: {outcomes:?}");
            let lost: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
            assert!(lost.iter().all(|status| reason(status) == "PRECONDITION_FAILED"), "{engine}: {lost:?}");
            let now = doors[0].resolve(&name, ResolveDepth::Root, "").await.unwrap();
            let digest = |root: &Option<Descriptor>| root.as_ref().unwrap().digest.clone();
            assert_eq!(digest(&now.chain[0].descriptor), digest(&won[0].root), "{engine}");
        }
        server.until_released();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_without_all_blobs_sets_no_name() {
    for (engine, server) in Server::each("push-bad") {
        let references = References::of(&server).await;
        let image = small_image("incomplete");
        let (root, layer) = (descriptor(&image.root), descriptor(&image.layers[0]));
        let bytes = &image.blobs[&image.root.digest][..];
        let status = references.push("bad", root.clone(), None, &[(root.clone(), bytes)]).await.unwrap_err();
        assert_eq!(reason(&status), "BLOBS_MISSING");
        let content = &image.blobs[&image.layers[0].digest];
        let mut changed = content.to_vec();
        changed[0] ^= 1;
        let status = references.push("bad", root.clone(), None, &[(layer.clone(), &changed)]).await.unwrap_err();
        assert_eq!(reason(&status), "BLOB_CORRUPT");
        let status = references.push("bad", root.clone(), None, &[(layer.clone(), &content[1..])]).await.unwrap_err();
        assert_eq!(fields(&status), ["part.data"]);
        let status = references.push("UPPER", layer, Some(Condition::Digest("x".to_owned())), &[]).await.unwrap_err();
        assert_eq!(fields(&status), ["begin.name", "begin.precondition.digest", "begin.root.media_type"]);
        let absent = references.resolve("bad", ResolveDepth::Root, "").await.unwrap_err();
        assert_eq!(absent.code(), Code::NotFound, "{engine}");
        server.until_released();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_listed_by_pages_and_blobs_fetched_by_ranges() {
    for (engine, server) in Server::each("list") {
        let references = References::of(&server).await;
        let image = small_image("listed");
        for name in ["list/a:1", "list/a:2", "list/b:1", "reg.example:5000/list/a:1"] {
            push_all(&references, name, &image, None).await.unwrap();
        }
        let nameless = small_image("nameless");
        push_all(&references, "", &nameless, None).await.unwrap();
        let (mut token, mut found) = (String::new(), Vec::new());
        loop {
            let request = ListReferencesRequest {
                prefix: "docker.io/list/".to_owned(),
                page_size: 2,
                page_token: token,
                unnamed: false,
            };
            let page = references.0.clone().list(request).await.unwrap().into_inner();
            assert!((1..=2).contains(&page.references.len()));
            found.extend(page.references.into_iter().map(|reference| reference.name));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, ["a:1", "a:2", "b:1"].map(|name| format!("docker.io/list/{name}")));
        let all = references.0.clone().list(ListReferencesRequest::default()).await.unwrap().into_inner();
        let unnamed = ListReferencesRequest { unnamed: true, ..ListReferencesRequest::default() };
        let found = references.0.clone().list(unnamed).await.unwrap().into_inner().references;
        let is_nameless = |found: &&Reference| found.root.as_ref().unwrap().digest == nameless.root.digest.to_string();
        assert_eq!(found.iter().filter(is_nameless).map(|found| &*found.name).collect::<Vec<_>>(), [""], "{engine}");
        assert!(all.references.len() == 4 || engine == "docker", "{engine}: {:?}", all.references);

        let (digest, bytes) = (image.layers[0].digest.as_str(), &image.blobs[&image.layers[0].digest][..]);
        let size = bytes.len() as i64;
        for (offset, length, expected) in [
            (0, 0, bytes),
            (5, 0, &bytes[5..]),
            (5, 7, &bytes[5..12]),
            (size, 0, &[]),
            (size - 1, 99, &bytes[bytes.len() - 1..]),
        ] {
            let (total, got) = references.fetch(digest, offset, length).await.unwrap();
            assert!(total == size && got == expected, "{offset} {length}");
        }
        let status = references.fetch(digest, size + 1, 0).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["offset".to_owned()]));
        let status = references.fetch(Digest::sha256(b"nothing").as_str(), 0, 0).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "REFERENCE_NOT_FOUND"));
    }
}
