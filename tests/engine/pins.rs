//! Pins: what they keep, and what they cost.

use bytes::Bytes;
use linkspan::engine::{Lease, Lifetime, Pin};
use linkspan::image::Digest;

use crate::common::{Part, Stack};
use crate::fixture::{Image, Layer, containerd, docker, export, names, origin};
use crate::writes::transactions;

/// Pins `digests`, and returns those that are not there.
async fn gone(lease: &dyn Lease, digests: &[Digest]) -> Vec<Digest> {
    let pins: Vec<_> = digests.iter().map(Pin::from).collect();
    let sizes = lease.pin(&pins).await.unwrap();
    let gone = digests.iter().zip(sizes).filter(|(_, size)| size.is_none());
    gone.map(|(digest, _)| digest.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_stays_until_the_release_and_costs_three_writes() {
    // Its own, for others' writes would count.
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let engine = docker(&stack).await;
    let layers: Vec<Bytes> = (0..100).map(|n| Layer::new().file(&format!("file-{n}"), format!("{n}")).tar()).collect();
    export(&*engine, &Image::new(&layers), &names(&["docker.io/library/held:1"])).await.unwrap();
    let digests: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
    let absent = Digest::sha256(b"nobody has this");
    // A garbage collection may still be due.
    stack.collect_garbage("moby");

    let origin = origin();
    let before = transactions(&stack);
    let store = engine.load_store().await.unwrap().unwrap();
    assert!(store.find(&absent).await.unwrap().is_none());
    for (digest, layer) in digests.iter().zip(&layers) {
        let blob = store.find(digest).await.unwrap().unwrap();
        assert_eq!(blob.size(), layer.len() as u64);
        assert_eq!(blob.read_at(1, vec![0; layer.len() - 1]).await.unwrap(), layer[1..]);
    }
    assert_eq!(transactions(&stack), before, "looking writes nothing");

    // The lease; the document, opened and committed.
    let lease = engine.lease(&origin, Lifetime::Process).await.unwrap();
    assert_eq!(gone(&*lease, &digests[1..]).await, []);
    let writes = transactions(&stack) - before;
    assert!(writes <= 3, "{writes} write transactions for a hundred blobs");
    assert_eq!(gone(&*lease, &digests[..2]).await, []);
    assert_eq!(transactions(&stack) - before - writes, 1, "a write for any number more");
    assert_eq!(gone(&*lease, &digests).await, []);
    assert_eq!(transactions(&stack) - before - writes, 1, "none for what is pinned");
    assert_eq!(gone(&*lease, &[absent.clone(), digests[0].clone()]).await, [absent]);

    let open = store.find(&digests[0]).await.unwrap().unwrap();
    stack.docker(["rmi", "-f", "held:1"]).ok();
    let collect = || {
        stack.collect_garbage("moby");
        let blobs = stack.blobs("moby");
        digests.iter().filter(|digest| blobs.iter().any(|blob| blob == digest.as_str())).count()
    };
    assert_eq!(collect(), 100);
    lease.release().await.unwrap();
    assert_eq!(collect(), 0);
    assert_eq!(stack.leases("moby"), Vec::<String>::new());
    let pinned = lease.pin(&[Pin::from(&digests[0])]).await;
    assert!(pinned.is_err(), "a lease that was released pins nothing: {pinned:?}");
    lease.release().await.unwrap();
    let size = layers[0].len();
    assert_eq!(open.read_at(0, vec![0; size]).await.unwrap(), layers[0], "an open file outlives its blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_stays_until_it_was() {
    let stack = Stack::shared();
    let (name, namespaces) = ("docker.io/library/read:1", ["read-held", "moby"]);
    for (namespace, engine) in namespaces.iter().zip([containerd(stack, "read-held").await, docker(stack).await]) {
        let image = Image::new(&[Layer::new().file(namespace, "read slowly").tar()]);
        export(&*engine, &image, &names(&[name])).await.unwrap();
        let held = engine.read_lease(&origin(), &image.graph()).await.unwrap().unwrap();
        stack.ctr(namespace, ["images", "rm", "--sync", name]).ok();
        let left = || {
            stack.collect_garbage(namespace);
            let blobs = stack.blobs(namespace);
            image.blobs.keys().filter(|digest| blobs.iter().any(|blob| blob == digest.as_str())).count()
        };
        assert_eq!(left(), image.blobs.len(), "{namespace}");
        held.release().await.unwrap();
        assert_eq!(left(), 0, "{namespace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_one_document_pins() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let engine = docker(&stack).await;
    let layers: Vec<Bytes> = (0..1100).map(|n| Layer::new().file("file", format!("{n}")).tar()).collect();
    export(&*engine, &Image::new(&layers), &names(&["docker.io/library/held:2"])).await.unwrap();
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let held: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
    let absent: Vec<_> = (0..100u32).map(|n| Digest::sha256(&n.to_le_bytes())).collect();
    let all: Vec<_> = held.iter().chain(&absent).cloned().collect();
    assert_eq!(gone(&*lease, &all).await, absent);
    assert_eq!(gone(&*lease, &held).await, []);
    lease.release().await.unwrap();
    assert_eq!(stack.leases("moby"), Vec::<String>::new());
}
