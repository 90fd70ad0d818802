//! What an export costs: synced metadata writes.

use std::fs;

use crate::common::{Part, Stack};
use linkspan::engine::Lifetime;

use crate::fixture::{Image, Layer, begin, containerd, export, names, origin};

/// How many write transactions containerd's metadata database has seen: the transaction id in the newer of bolt's two
/// meta pages (bbolt `internal/common/meta.go`: header of 16 bytes, then magic, version, page size and flags of 4 each,
/// root bucket of 16, free list and high-water mark of 8 each, and the id).
pub(crate) fn transactions(stack: &Stack) -> u64 {
    let database = stack.state().join("containerd/root/io.containerd.metadata.v1.bolt/meta.db");
    let bytes = fs::read(database).unwrap();
    let page = u32::from_le_bytes(bytes[24..28].try_into().unwrap()) as usize;
    let id = |at: usize| u64::from_le_bytes(bytes[at + 64..at + 72].try_into().unwrap());
    id(0).max(id(page))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_hundred_layers_costs_five_writes_once_it_is_there() {
    // Its own, for others' writes would count.
    let stack = Stack::start(&[Part::Containerd]);
    let engine = containerd(&stack, "count").await;
    let layers: Vec<_> = (0..100).map(|n| Layer::new().file(&format!("file-{n}"), format!("{n}")).tar()).collect();
    let image = Image::new(&layers);
    export(&*engine, &image, &names(&["count:1"])).await.unwrap();

    // The garbage collector runs once after the lease went, in a write of its own; whether that falls into what is
    // counted does not matter, it is within the five.
    let before = transactions(&stack);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let plan = transaction.plan();
    assert_eq!((plan.present.len(), plan.missing.len()), (102, 0));
    let prepared = transaction.prepare().await.unwrap();
    prepared.commit(&names(&["count:1"]), &[]).await.unwrap();
    lease.release().await.unwrap();
    let writes = transactions(&stack) - before;
    assert!((1..=5).contains(&writes), "{writes} write transactions");

    let before = transactions(&stack);
    assert_eq!(engine.already_complete(&image.root, &names(&["count:1"])).await.unwrap(), Some(102));
    assert!(transactions(&stack) - before <= 1, "only the garbage collector may have written");
}
