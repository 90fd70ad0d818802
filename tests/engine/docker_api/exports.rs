//! What an export moves, and what dockerd makes of it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use linkspan::engine::images::Query;
use linkspan::engine::ingest::{Expected, OpenedIngest};
use linkspan::engine::select::select;
use linkspan::engine::{Engine, EngineError, EngineKind, Lifetime, Pin, Precondition};
use linkspan::image::Digest;
use linkspan::source::read_document;
use serde_json::Value;

use super::faults::records;
use super::{relayed, selection};
use crate::common::{Stack, text};
use crate::fixture::{self, Image, Layer, begin, docker, export, names, origin};

/// Content that compresses to nothing and is long enough to be told from an archive without it.
const LARGE: usize = 3 << 20;
/// More than an archive of an image's documents has, and less than one of the layers here.
const SMALL: u64 = 100 << 10;

fn large(seed: u8) -> Bytes {
    Layer::new().file(&format!("large-{seed}"), vec![seed; LARGE]).tar()
}

/// What dockerd says of an image, without what depends on when it was made.
fn inspected(stack: &Stack, name: &str) -> Value {
    let text = stack.docker(["image", "inspect", name]).ok().stdout;
    let mut image: Value = serde_json::from_str(&text).unwrap();
    let image = image[0].as_object_mut().unwrap();
    for changing in ["Metadata", "RepoTags", "RepoDigests"] {
        image.remove(changing);
    }
    Value::Object(image.clone())
}

/// The events of images since `begun`, without their times, of the image that is called `digest`.
fn events(stack: &Stack, begun: u64, digest: &Digest) -> Vec<String> {
    let (since, until) = (begun.to_string(), (now() + 1).to_string());
    let args = ["events", "--since", &since, "--until", &until, "--filter", "type=image", "--format", "{{json .}}"];
    let text = stack.docker(args).ok().stdout;
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut of_image: Vec<_> = events
        .filter(|event| event["Actor"]["ID"] == digest.as_str())
        .map(|event| event["Action"].as_str().unwrap().to_owned())
        .collect();
    of_image.dedup();
    of_image
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_docker_lacks_is_sent() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let [one, two, three] = [10, 11, 12].map(large);
    let first = Image::new(&[Layer::busybox().tar(), one.clone(), two.clone()]);
    let plan = export(&*engine, &first, &names(&["api-moves:1"])).await.unwrap();
    assert_eq!((plan.stored.len(), plan.present.len() + plan.missing.len()), (2, 3), "{plan:?}");
    let (loads, sent) = relay.take();
    let expected: u64 = plan.missing.iter().map(|blob| blob.size).sum();
    assert!(loads == 1 && (expected..expected + SMALL).contains(&sent), "{loads} {sent} {expected}");

    // Nothing but the names.
    let root = &first.root;
    assert_eq!(engine.already_complete(root, &names(&["api-moves:1"])).await.unwrap(), Some(5));
    assert_eq!(relay.take().0, 0);
    let plan = export(&*engine, &first, &names(&["api-moves:1", "api-moves:again"])).await.unwrap();
    assert_eq!((plan.present.len(), plan.stored.len(), plan.missing.len()), (5, 0, 0));
    let (loads, sent) = relay.take();
    assert!(loads == 1 && sent < SMALL, "{loads} {sent}");
    assert_eq!(stack.tagged("moby", "api-moves:again"), Some(root.digest.to_string()));

    // One layer is another one.
    let edited = Image::new(&[Layer::busybox().tar(), one, three.clone()]);
    let plan = export(&*engine, &edited, &names(&["api-moves:1"])).await.unwrap();
    assert_eq!((plan.present.len(), plan.stored.len(), plan.missing.len()), (2, 2, 1));
    let (loads, sent) = relay.take();
    let third = three.len() as u64;
    assert!(loads == 1 && (third..third + SMALL).contains(&sent), "{loads} {sent}");
    assert_eq!(stack.tagged("moby", "api-moves:1"), Some(edited.root.digest.to_string()));
    assert_eq!(engine.already_complete(root, &names(&["api-moves:1"])).await.unwrap(), None);
    assert_eq!(
        stack.run_image("api-moves:1", &["sh", "-c", "wc -c < /large-12"]).ok().stdout.trim(),
        LARGE.to_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_what_the_engine_docker_makes_of_it() {
    let stack = Stack::shared();
    let (_relay, api) = relayed(stack).await;
    let direct = docker(stack).await;
    let engines: [(&str, &dyn Engine); 2] = [("api-beside:docker", &*direct), ("api-beside:api", &*api)];
    let (mut seen, mut seen_events) = (Vec::new(), Vec::new());
    for (name, engine) in engines {
        // The same but for the greeting, so that neither finds the other's.
        let own = Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", name).tar()]);
        let others = Image::foreign(&[Layer::new().file("never", name).tar()]);
        let index = Image::index(&[own, others]);
        let begun = now();
        export(engine, &index, &names(&[name])).await.unwrap();
        assert_eq!(stack.tagged("moby", name), Some(index.root.digest.to_string()));
        assert_eq!(stack.run_image(name, &["cat", "/etc/greeting"]).ok().stdout, name);
        let mut image = inspected(stack, name);
        assert_eq!(image["Id"], index.root.digest.as_str());
        for differing in ["Id", "Descriptor", "RootFS", "Size"] {
            image.as_object_mut().unwrap().remove(differing);
        }
        let check = stack.ctr("moby", ["images", "check", &format!("name==docker.io/library/{name}")]).ok().stdout;
        seen.push((image, check.contains("complete (3/3)")));
        seen_events.push(events(stack, begun, &index.root.digest));
        assert_eq!(engine.already_complete(&index.root, &names(&[name])).await.unwrap(), Some(8));
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[1].1, "{seen:?}");
    // Names are set after the load, and not by it.
    assert_eq!(
        (&seen_events[0][..], &seen_events[1][..]),
        (&["load".to_owned()][..], &["load", "tag"].map(str::to_owned)[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_name_is_dangling_and_is_read_and_removed() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let image = Image::new(&[Layer::new().file("api-dangling", "1").tar()]);
    export(&*engine, &image, &[]).await.unwrap();
    let images = engine.images().unwrap();
    let all = images.list(&Query::default()).await.unwrap().records;
    let record = all.into_iter().find(|record| record.target.digest == image.root.digest).unwrap();
    assert_eq!((&record.name, &record.target), (&None, &image.root));
    engine.tag(&record.target, &names(&["api-dangling:named"])[0]).await.unwrap();
    assert_eq!(images.resolve(&names(&["api-dangling:named"])[0]).await.unwrap(), Some(image.root.clone()));
    for blob in [&image.root, &image.config, &image.layers[0]] {
        assert_eq!(read_document(&images, blob).await.unwrap(), image.blobs[&blob.digest]);
        assert_eq!(images.size(&blob.digest).await.unwrap(), Some(blob.size));
    }
    let found = images.identify(&image.config.digest).await.unwrap().unwrap();
    assert_eq!(found.size, image.config.size);
    let by_prefix = Query { prefix: "docker.io/library/api-dangling:".to_owned(), ..Query::default() };
    let record = images.list(&by_prefix).await.unwrap().records.remove(0);
    assert_eq!(record.target, image.root);
    let other = linkspan::engine::images::Record { target: image.config.clone(), ..record.clone() };
    let error = engine.remove(&other, false).await.unwrap_err();
    assert!(matches!(error, EngineError::NameMoved { .. }), "{error}");
    engine.remove(&record, false).await.unwrap();
    assert_eq!(images.resolve(&names(&["api-dangling:named"])[0]).await.unwrap(), None);
    assert_eq!(relay.take().0, 1);
}

/// What a client of the exporter API does, in this process and in one after it.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_come_before_their_image_wait_in_the_spool() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let [known, new] = [20, 21].map(large);
    export(&*engine, &Image::new(&[Layer::busybox().tar(), known.clone()]), &names(&["api-spool:0"])).await.unwrap();
    relay.take();
    let image = Image::new(&[Layer::busybox().tar(), known, new.clone()]);
    let (origin, lifetime) = (origin(), Lifetime::Durable { record: "its request" });
    let lease = engine.lease(&origin, lifetime).await.unwrap();
    let layers: Vec<_> = image.layers.iter().map(Pin::from).collect();
    let sizes = lease.pin(&layers).await.unwrap();
    assert_eq!(sizes, [Some(image.layers[0].size), Some(image.layers[1].size), None]);
    match lease.ingests().unwrap().open("layer", &Expected::default()).await.unwrap() {
        OpenedIngest::Writer(mut writer) => {
            writer.write(new.clone()).await.unwrap();
            let (digest, size) = writer.commit(Expected::default()).await.unwrap();
            assert_eq!((&digest, size), (&image.layers[2].digest, new.len() as u64));
        }
        OpenedIngest::Present => panic!("nobody has it"),
    }
    assert_eq!(lease.pinned().await.unwrap(), [image.layers[2].digest.clone()]);
    let images = engine.images().unwrap();
    assert_eq!(images.size(&image.layers[2].digest).await.unwrap(), Some(new.len() as u64));
    assert_eq!(images.reliable(&image.layers[2].digest).await.unwrap(), None, "it is not docker's");

    let durable = engine.persistent_leases().unwrap().durable().await.unwrap();
    assert!(durable.iter().any(|found| found.export == origin.export && found.record == "its request"), "{durable:?}");
    let resumed = engine.lease(&origin, lifetime).await.unwrap();
    assert_eq!(relay.take().0, 0);
    let transaction = begin(&resumed, image.graph()).await.unwrap();
    assert_eq!((transaction.plan().missing.len(), transaction.plan().present.len()), (0, 3));
    transaction.prepare().await.unwrap().commit(&names(&["api-spool:1"]), &[]).await.unwrap();
    let (loads, sent) = relay.take();
    assert!(loads == 1 && (new.len() as u64..new.len() as u64 + SMALL).contains(&sent), "{loads} {sent}");
    assert_eq!(stack.tagged("moby", "api-spool:1"), Some(image.root.digest.to_string()));
    resumed.release().await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(engine.persistent_leases().unwrap().durable().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_while_the_archive_is_sent_is_not_set() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let [first, second] = ["1", "2"].map(|seed| Image::new(&[Layer::new().file("api-moves-on", seed).tar()]));
    export(&*engine, &first, &names(&["api-moves-on:1"])).await.unwrap();
    export(&*engine, &second, &names(&["api-moves-on:2"])).await.unwrap();
    // From the spool, so that the commit sends it: more than any buffer takes while the load waits for the name to move.
    let layer = large(22);
    let image = Image::new(std::slice::from_ref(&layer));
    let lease = engine.lease(&origin(), Lifetime::Durable { record: "moves" }).await.unwrap();
    match lease.ingests().unwrap().open("layer", &Expected::default()).await.unwrap() {
        OpenedIngest::Writer(mut writer) => {
            writer.write(layer).await.unwrap();
            writer.commit(Expected::default()).await.unwrap();
        }
        OpenedIngest::Present => panic!("nobody has it"),
    }
    relay.on_load(|| drop(stack.docker(["tag", "api-moves-on:2", "api-moves-on:1"]).ok()));
    let transaction = begin(&lease, image.graph()).await.unwrap();
    assert_eq!(transaction.plan().missing, []);
    let commit = names(&["api-moves-on:1"]);
    let expected = Precondition { name: commit[0].clone(), expected: vec![Some(first.root.digest.clone())] };
    let error = transaction.prepare().await.unwrap().commit(&commit, &[expected]).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::NameMoved { current, .. } if current.as_ref() == Some(&second.root.digest)),
        "{error}"
    );
    assert_eq!(stack.tagged("moby", "api-moves-on:1"), Some(second.root.digest.to_string()));
    assert_eq!(records(stack, &image), [""; 0]);
    lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_are_those_of_a_plain_load() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let image = |seed: &str| Image::new(&[Layer::new().file("api-records", seed).tar()]);
    let (first, second) = (image("1"), image("2"));
    let full = |tag: &str| format!("docker.io/library/api-records:{tag}");
    let unnamed = |image: &Image| format!("moby-dangling@{}", image.root.digest);
    // By `docker load`, of what `docker save` wrote.
    export(&*engine, &first, &names(&["api-records:saved"])).await.unwrap();
    let archive = stack.fresh_path(".tar");
    stack.docker(["save", "-o", text(&archive), "api-records:saved"]).ok();
    stack.docker(["rmi", "api-records:saved"]).ok();
    assert_eq!(records(stack, &first), [""; 0]);
    export(&*engine, &second, &names(&["api-records:saved"])).await.unwrap();
    stack.docker(["load", "-i", text(&archive)]).ok();
    let plain = (records(stack, &first), records(stack, &second));
    assert_eq!(plain, (vec![full("saved")], vec![unnamed(&second)]));

    // By us: the name moves, and what had it stays without one.
    export(&*engine, &second, &names(&["api-records:saved"])).await.unwrap();
    assert_eq!((records(stack, &second), records(stack, &first)), (vec![full("saved")], vec![unnamed(&first)]));
    // Where it has another name, that is enough.
    export(&*engine, &second, &names(&["api-records:kept"])).await.unwrap();
    export(&*engine, &first, &names(&["api-records:saved"])).await.unwrap();
    assert_eq!((records(stack, &first), records(stack, &second)), (vec![full("saved")], vec![full("kept")]));
    // The same again.
    relay.take();
    for _ in 0..2 {
        export(&*engine, &first, &names(&["api-records:saved"])).await.unwrap();
        assert_eq!(records(stack, &first), [full("saved")]);
    }
    assert_eq!(relay.take().0, 2);
    // Several names, one of which dockerd does not tag.
    let by_digest = format!("api-records@{}", second.root.digest);
    export(&*engine, &second, &names(&["api-records:saved", "api-records:more", &by_digest])).await.unwrap();
    let mut all = records(stack, &second);
    all.sort();
    let mut expected = ["kept", "more", "saved"].map(full).to_vec();
    expected.push(format!("docker.io/library/{by_digest}"));
    expected.sort();
    assert_eq!(all, expected);
    assert_eq!(records(stack, &first), [unnamed(&first)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn attestations_are_there_although_a_build_record_may_have_them() {
    let stack = Stack::shared();
    let (_relay, engine) = relayed(stack).await;
    let own = Image::new(&[Layer::new().file("api-proof", "1").tar()]);
    let proof = Image::blob(br#"{"_type": "https://in-toto.io/Statement/v0.1"}"#);
    let mut whole = own.clone();
    whole.blobs.extend(proof.blobs.clone());
    // The store has it, as far as Info tells, in the namespace in which BuildKit keeps its records.
    stack.ctr("moby_history", ["namespaces", "create", "moby_history"]).output();
    let (digest, size) = (proof.root.digest.to_string(), proof.root.size.to_string());
    stack
        .ctr("moby_history", ["content", "ingest", "--expected-digest", &digest, "--expected-size", &size, "api-proof"])
        .stdin(proof.blobs[&proof.root.digest].to_vec())
        .ok();
    let pinned =
        engine.lease(&origin(), Lifetime::Process).await.unwrap().pin(&[Pin::from(&proof.root)]).await.unwrap();
    assert_eq!(pinned, [Some(proof.root.size)], "dockerd's content store falls back to the records");
    let image = with_layer(&own, &proof);
    export(&*engine, &image, &names(&["api-proof:1"])).await.unwrap();
    let found = stack.ctr("moby", ["content", "ls", "-q"]).ok().stdout;
    assert!(found.contains(&digest), "dockerd does not find it in the records when it loads");
}

/// `image` with a second manifest, of which `blob` is the layer.
fn with_layer(image: &Image, blob: &Image) -> Image {
    let statement = serde_json::json!({
        "mediaType": "application/vnd.in-toto+json", "digest": blob.root.digest, "size": blob.root.size,
    });
    let config = serde_json::json!({
        "architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": [blob.root.digest]},
    });
    Image::index(&[image.clone(), Image::of_parts(&config, &[statement], &blob.blobs)])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_classic_store_is_exported_to_in_its_own_way() {
    let stack = Stack::classic();
    let selected = select(&selection(stack, stack.docker_classic_host())).await.unwrap();
    assert_eq!(selected.engine.identity().kind, EngineKind::DockerClassic);
    assert_eq!(selected.reason, "as configured; layers that it lacks are sent to it in an archive");
    let image = fixture::image("classic\n");
    export(&*selected.engine, &image, &names(&["api-classic:1"])).await.unwrap();
    let id = stack.docker_classic(["image", "inspect", "--format", "{{.Id}}", "api-classic:1"]).ok().stdout;
    assert_eq!(id.trim(), image.config.digest.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_would_give_another_digest_is_refused() {
    let stack = Stack::shared();
    let (relay, engine) = relayed(stack).await;
    let blob = Image::blob(b"a root of some other type");
    let error = begin(&engine.lease(&origin(), Lifetime::Process).await.unwrap(), blob.graph()).await.unwrap_err();
    assert!(matches!(&error, EngineError::NotOffered { engine: "docker-api", .. }), "{error}");
    assert!(error.hint().unwrap().contains("--engine docker"), "{error}");
    let unused = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let error = unused.ingests().unwrap_err();
    assert!(matches!(&error, EngineError::NotOffered { engine: "docker-api", .. }), "{error}");
    assert!(engine.load_store().await.unwrap().is_none());
    assert_eq!(relay.take().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_export_leaves_when_it_is_dropped_is_nothing() {
    let stack = Stack::shared();
    let (_relay, engine) = relayed(stack).await;
    let image = Image::new(&[large(30)]);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    fixture::send(&*transaction, &image.layers[0], &image.blobs[&image.layers[0].digest]).await.unwrap();
    transaction.cancel().await;
    let error = transaction.prepare().await.unwrap_err();
    assert!(matches!(error, EngineError::Protocol { .. }), "{error}");
    lease.release().await.unwrap();
    assert_eq!(stack.tagged("moby", "api-dropped:1"), None);
    export(&*engine, &image, &names(&["api-dropped:1"])).await.unwrap();
}
