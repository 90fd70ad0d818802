//! Interrupted transfers, and blobs that are not synced yet.

use super::*;

/// Writes the first `length` bytes of the first layer, and drops the writer.
async fn write_part(transaction: &dyn ImageTransaction, image: &Image, length: usize) {
    let layer = &image.layers[0];
    let Opened::Writer(mut writer) = transaction.writer(layer).await.unwrap() else { panic!("it is not there yet") };
    assert_eq!(writer.offset(), 0);
    let mut rest = image.blobs[&layer.digest].slice(..length);
    while !rest.is_empty() {
        writer.write(rest.split_to(rest.len().min(50_000))).await.unwrap();
    }
}

/// Waits until the part of the first layer has no writer any more, and returns its length.
async fn part(engine: &RepositoryEngine, image: &Image) -> u64 {
    let path = engine.stores.blobs.paths().partial("this-boot", &image.layers[0].digest);
    loop {
        let file = fs::File::open(&path).unwrap();
        if file.try_lock().is_ok() {
            return file.metadata().unwrap().len();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_interrupted_transfer_is_resumed() {
    let folder = folder();
    let image = Image::new(&[&(0..500_000u32).map(|n| (n >> 4) as u8).collect::<Vec<_>>()]);
    let first = engine(folder.path()).await;
    let lease = first.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    write_part(&*transaction, &image, 300_000).await;
    let length = part(&first, &image).await;
    assert!(length >= 200_000, "{length}");
    lease.release().await.unwrap();
    drop(first);

    let second = engine(folder.path()).await;
    let lease = second.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let Opened::Writer(writer) = transaction.writer(&image.layers[0]).await.unwrap() else {
        panic!("it is not there yet")
    };
    assert_eq!(writer.offset(), length);
    drop(writer);
    part(&second, &image).await;
    drop(transaction);
    transfer(&lease, &image, &names(&["resumed:1"])).await.unwrap();
    lease.release().await.unwrap();
    read_as_other_tool(folder.path());
}

#[tokio::test]
async fn what_was_written_before_the_machine_restarted_is_not_trusted() {
    let folder = folder();
    let image = Image::new(&[&[5; 300_000]]);
    let before = engine(folder.path()).await;
    let lease = before.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    write_part(&*transaction, &image, 200_000).await;
    part(&before, &image).await;
    let after = RepositoryEngine::on(folder.path(), Arc::new(System), "next-boot".to_owned()).await.unwrap();
    let lease = after.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let Opened::Writer(writer) = transaction.writer(&image.layers[0]).await.unwrap() else {
        panic!("it is not there yet")
    };
    assert_eq!(writer.offset(), 0);
}

#[tokio::test]
async fn a_blob_is_written_by_two_at_once_without_harm() {
    let folder = folder();
    let image = Image::new(&[&[6; 300_000]]);
    let (one, other) = (engine(folder.path()).await, engine(folder.path()).await);
    let lease = one.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let layer = &image.layers[0];
    let Opened::Writer(mut writer) = transaction.writer(layer).await.unwrap() else { panic!("it is not there yet") };
    writer.write(image.blobs[&layer.digest].slice(..200_000)).await.unwrap();
    export(&other, &image, &names(&["fast:1"])).await.unwrap();
    writer.write(image.blobs[&layer.digest].slice(200_000..)).await.unwrap();
    writer.commit().await.unwrap();
    let prepared = transaction.prepare().await.unwrap();
    prepared.commit(&names(&["slow:1"]), &[]).await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(read_as_other_tool(folder.path()).len(), 2);
    assert_eq!(files(&folder.path().join(".linkspan/ingest")), [""; 0]);
}

#[tokio::test]
async fn what_another_export_completed_need_not_be_synced_to_be_there() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"small", &[8; 300_000]]);
    let first = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let second = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&first, image.graph()).await.unwrap();
    for layer in &image.layers {
        send(&*transaction, layer, &image.blobs[&layer.digest]).await.unwrap();
    }
    assert_eq!(blobs(folder.path()), [""; 0], "nothing is called a blob that is not synced");
    let transaction = begin(&second, image.graph()).await.unwrap();
    assert_eq!(transaction.plan().missing, []);
    // The first lease is released; blobs that the second pins stay.
    first.release().await.unwrap();
    transaction.prepare().await.unwrap().commit(&names(&["second:1"]), &[]).await.unwrap();
    second.release().await.unwrap();
    assert_eq!(read_as_other_tool(folder.path()).len(), 1);
}

#[tokio::test]
async fn what_was_not_synced_when_its_process_was_killed_is_found_again() {
    let folder = folder();
    let image = Image::new(&[b"small", &[8; 300_000], b"other"]);
    let (origin, killed) = (origin(), engine(folder.path()).await);
    let lease = killed.lease(&origin, Lifetime::Durable { record: "record" }).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    for layer in &image.layers {
        send(&*transaction, layer, &image.blobs[&layer.digest]).await.unwrap();
    }
    assert_eq!(blobs(folder.path()), [""; 0], "nothing is synced yet");
    // One blob is truncated.
    let waiting = folder.path().join(".linkspan/ingest");
    let other = files(&waiting).into_iter().find(|name| name.contains(image.layers[2].digest.hex())).unwrap();
    fs::write(waiting.join(other), b"oth").unwrap();
    drop((transaction, lease, killed));

    // Another export to the same layout keeps the files, and so does the collector.
    let next = engine(folder.path()).await;
    export(&next, &Image::new(&[b"of somebody else"]), &names(&["else:1"])).await.unwrap();
    assert_eq!(next.recover().await.unwrap(), 0);
    let lease = next.lease(&origin, Lifetime::Durable { record: "" }).await.unwrap();
    let mut found = lease.pinned().await.unwrap();
    let mut expected: Vec<_> = image.blobs.keys().filter(|blob| **blob != image.layers[2].digest).cloned().collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let plan = transfer(&lease, &image, &names(&["again:1"])).await.unwrap();
    assert_eq!(plan.missing, image.layers[2..]);
    lease.release().await.unwrap();
    assert_eq!(read_as_other_tool(folder.path()).len(), 2);
    assert_eq!(files(&waiting), [""; 0]);
}

#[tokio::test]
async fn what_no_lease_pins_any_more_is_not_kept() {
    let folder = folder();
    let image = Image::new(&[b"small"]);
    let (origin, killed) = (origin(), engine(folder.path()).await);
    let lease = killed.lease(&origin, Lifetime::Durable { record: "record" }).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    send(&*transaction, &image.layers[0], &image.blobs[&image.layers[0].digest]).await.unwrap();
    lease.unpin(&image.layers[0].digest).await.unwrap();
    drop((transaction, lease, killed));
    let next = engine(folder.path()).await;
    assert_eq!(files(&folder.path().join(".linkspan/ingest")).len(), 3);
    next.recover().await.unwrap();
    let left = files(&folder.path().join(".linkspan/ingest"));
    assert_eq!(left.len(), 2, "the documents are pinned: {left:?}");
    assert!(!left.iter().any(|name| name.contains(image.layers[0].digest.hex())), "{left:?}");
}

#[tokio::test]
async fn what_was_given_up_is_forgotten_but_for_large_parts() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"small", &[8; 300_000]]);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    for layer in &image.layers {
        send(&*transaction, layer, &image.blobs[&layer.digest]).await.unwrap();
    }
    lease.release().await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(blobs(folder.path()), [""; 0]);
    let left = files(&folder.path().join(".linkspan/ingest"));
    assert_eq!(left, [format!("sha256-{}.this-boot", image.layers[1].digest.hex())]);
    // All blobs are present: the next export only has to find them.
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    assert!(matches!(transaction.writer(&image.layers[1]).await.unwrap(), Opened::Present));
}
