//! Which files are accepted as blobs, and which are not.

use super::*;
use crate::engine::ingest::{Expected, OpenedIngest};

/// Replaces a blob's content by other bytes of the same length.
fn damage(engine: &RepositoryEngine, blob: &Descriptor) {
    fs::write(engine.stores.blobs.paths().blob(&blob.digest), vec![0; blob.size as usize]).unwrap();
}

#[tokio::test]
async fn blobs_with_wrong_bytes_are_replaced_by_the_next_export() {
    let folder = folder();
    let image = Image::new(&[b"one", &[7; 300_000]]);
    export(&engine(folder.path()).await, &image, &names(&["x"])).await.unwrap();
    for digest in image.blobs.keys() {
        let engine = engine(folder.path()).await;
        let blob = Descriptor::new("", digest.clone(), image.blobs[digest].len() as u64);
        damage(&engine, &blob);
        assert_eq!(engine.already_complete(&image.root, &names(&["x"])).await.unwrap(), None, "{digest}");
        let plan = export(&engine, &image, &names(&["x"])).await.unwrap();
        assert_eq!(plan.missing.len() + plan.stored.len(), 1, "{digest}");
        read_as_other_tool(folder.path());
        assert_eq!(engine.already_complete(&image.root, &names(&["x"])).await.unwrap(), Some(4), "{digest}");
    }
}

#[tokio::test]
async fn an_image_is_not_there_while_a_blob_of_it_waits_for_its_name() {
    let folder = folder();
    let image = Image::new(&[b"one", &[7; 300_000]]);
    export(&engine(folder.path()).await, &image, &names(&["x"])).await.unwrap();
    for blob in &image.layers {
        let engine = engine(folder.path()).await;
        damage(&engine, blob);
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let transaction = begin(&lease, image.graph()).await.unwrap();
        assert_eq!(transaction.plan().missing, std::slice::from_ref(blob));
        send(&*transaction, blob, &image.blobs[&blob.digest]).await.unwrap();
        assert_eq!(engine.already_complete(&image.root, &names(&["x"])).await.unwrap(), None);
        let prepared = transaction.prepare().await.unwrap();
        assert_eq!(engine.already_complete(&image.root, &names(&["x"])).await.unwrap(), Some(4));
        prepared.commit(&names(&["x"]), &[]).await.unwrap();
        lease.release().await.unwrap();
        read_as_other_tool(folder.path());
    }
}

#[tokio::test]
async fn blobs_that_are_damaged_or_short_can_be_sent_again() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"layer"]);
    export(&engine, &image, &names(&["x"])).await.unwrap();
    let layer = &image.layers[0];
    for bytes in [&b""[..], b"lay", b"lazer", b"layers"] {
        fs::write(engine.stores.blobs.paths().blob(&layer.digest), bytes).unwrap();
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let ingests = lease.ingests().unwrap();
        assert_eq!(lease.pin(&[Pin::from(&layer.digest)]).await.unwrap(), [None], "{bytes:?}");
        assert_eq!(lease.pin(&[Pin::from(layer)]).await.unwrap(), [None], "{bytes:?}");
        for size in [None, Some(5)] {
            let expected = Expected { digest: Some(layer.digest.clone()), size };
            let begun = ingests.open("again", &expected).await.unwrap();
            let OpenedIngest::Writer(upload) = begun else { panic!("{bytes:?} is not there") };
            upload.suspend().await.unwrap();
        }
        let expected = Expected { digest: Some(layer.digest.clone()), size: Some(5) };
        let OpenedIngest::Writer(mut upload) = ingests.open("again", &expected).await.unwrap() else { panic!() };
        upload.write(Bytes::from_static(b"layer")).await.unwrap();
        assert_eq!(upload.commit(Expected::default()).await.unwrap(), (layer.digest.clone(), 5));
        assert_eq!(lease.pin(&[Pin::from(&layer.digest)]).await.unwrap(), [Some(5)]);
        engine.stores.blobs.flush().await.unwrap();
        lease.release().await.unwrap();
        read_as_other_tool(folder.path());
    }
}

#[tokio::test]
async fn a_folder_in_the_place_of_a_blob_gives_way_unless_it_holds_something() {
    let folder = folder();
    let image = Image::new(&[b"one"]);
    export(&engine(folder.path()).await, &image, &names(&["x"])).await.unwrap();
    for digest in image.blobs.keys() {
        let engine = engine(folder.path()).await;
        let path = engine.stores.blobs.paths().blob(digest);
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("somebodys")).unwrap();
        let error = export(&engine, &image, &names(&["x"])).await.unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains("remove it"), "{error}");
        fs::remove_dir(path.join("somebodys")).unwrap();
        export(&engine, &image, &names(&["x"])).await.unwrap();
        read_as_other_tool(folder.path());
    }
}

#[tokio::test]
async fn a_pipe_in_the_place_of_the_notes_is_not_waited_for() {
    let folder = folder();
    let image = Image::new(&[b"one"]);
    let engine = engine(folder.path()).await;
    engine.stores.names.create().unwrap();
    let notes = engine.stores.blobs.paths().verified();
    let _ = fs::remove_file(&notes);
    rustix::fs::mknodat(rustix::fs::CWD, &notes, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    export(&engine, &image, &names(&["x"])).await.unwrap();
    read_as_other_tool(folder.path());
}

#[tokio::test]
async fn what_was_read_once_or_written_by_us_is_not_read_again() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"ours"]);
    export(&engine, &image, &names(&["x"])).await.unwrap();
    let notes = fs::read_to_string(engine.stores.blobs.paths().verified()).unwrap();
    assert_eq!(notes.lines().count(), 3, "{notes}");
    let foreign = Digest::sha256(b"foreign");
    fs::write(engine.stores.blobs.paths().blob(&foreign), "foreign").unwrap();
    assert_eq!(engine.stores.blobs.present(&foreign, None), Some(7));
    let notes = fs::read_to_string(engine.stores.blobs.paths().verified()).unwrap();
    assert_eq!(notes.lines().count(), 4, "{notes}");
    // The next process uses the records, as long as the file is the same.
    let next = super::engine(folder.path()).await;
    for blob in image.blobs.keys().chain([&foreign]) {
        assert!(next.stores.blobs.present(blob, None).is_some());
    }
    assert_eq!(fs::read_to_string(engine.stores.blobs.paths().verified()).unwrap(), notes);
    // A copy is another file.
    let path = engine.stores.blobs.paths().blob(&foreign);
    fs::copy(&path, folder.path().join("copy")).unwrap();
    fs::rename(folder.path().join("copy"), &path).unwrap();
    assert!(super::engine(folder.path()).await.stores.blobs.present(&foreign, None).is_some());
    assert_eq!(fs::read_to_string(engine.stores.blobs.paths().verified()).unwrap().lines().count(), 5);
}

#[tokio::test]
async fn notes_of_blobs_that_are_gone_are_left_out() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    export(&engine, &Image::new(&[b"ours"]), &names(&["x"])).await.unwrap();
    let notes = fs::read_to_string(engine.stores.blobs.paths().verified()).unwrap();
    let stale = notes.lines().next().unwrap().to_owned() + "1\n";
    fs::write(engine.stores.blobs.paths().verified(), stale.repeat(2000) + "torn\n" + &notes).unwrap();
    engine.recover().await.unwrap();
    let mut kept: Vec<_> =
        fs::read_to_string(engine.stores.blobs.paths().verified()).unwrap().lines().map(str::to_owned).collect();
    let mut expected: Vec<_> = notes.lines().map(str::to_owned).collect();
    kept.sort();
    expected.sort();
    assert_eq!(kept, expected);
}

#[tokio::test]
async fn a_lease_does_not_grow_by_lookups() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"there"]);
    export(&engine, &image, &names(&["x"])).await.unwrap();
    let origin = origin();
    let lease = engine.lease(&origin, Lifetime::Durable { record: "record" }).await.unwrap();
    let (ingests, file) = (lease.ingests().unwrap(), engine.stores.blobs.paths().lease(&origin.export));
    let before = fs::metadata(&file).unwrap().len();
    for number in 0..100u8 {
        let digest = Digest::sha256(&[number; 3]);
        assert_eq!(lease.pin(&[Pin::from(&digest)]).await.unwrap(), [None]);
        let expected = Expected { digest: Some(digest), size: None };
        let OpenedIngest::Writer(upload) = ingests.open("same", &expected).await.unwrap() else { panic!() };
        upload.suspend().await.unwrap();
    }
    assert_eq!(fs::metadata(&file).unwrap().len(), before);
    let held = image.layers[0].digest.clone();
    for _ in 0..3000 {
        assert_eq!(lease.pin(&[Pin::from(&held)]).await.unwrap(), [Some(5)]);
        lease.unpin(&held).await.unwrap();
    }
    lease.pin(&[Pin::from(&held)]).await.unwrap();
    let length = fs::metadata(&file).unwrap().len();
    assert!(length < before + 200_000, "{length}");
    // The lease has the same content, and can be appended to.
    lease.pin(&[Pin::from(&image.root.digest)]).await.unwrap();
    drop((lease, engine));
    let next = super::engine(folder.path()).await;
    let lease = next.lease(&origin, Lifetime::Durable { record: "" }).await.unwrap();
    let mut expected = vec![held, image.root.digest];
    expected.sort();
    assert_eq!(lease.pinned().await.unwrap(), expected);
    assert_eq!(next.durable().await.unwrap()[0].record, "record");
}

#[tokio::test]
async fn a_part_is_read_only_if_it_may_be_all() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let blob = Descriptor::new("", Digest::sha256(&[4; 300_000]), 300_000);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    let part = engine.stores.blobs.paths().partial("this-boot", &blob.digest);
    fs::write(&part, vec![4; 200_000]).unwrap();
    assert_eq!(lease.pin(&[Pin::from(&blob)]).await.unwrap(), [None]);
    assert_eq!(lease.pin(&[Pin::from(&blob.digest)]).await.unwrap(), [None]);
    // A part of this length was read once.
    fs::write(&part, vec![9; 200_000]).unwrap();
    assert_eq!(lease.pin(&[Pin::from(&blob.digest)]).await.unwrap(), [None]);
    fs::write(&part, vec![4; 300_000]).unwrap();
    assert_eq!(lease.pin(&[Pin::from(&blob)]).await.unwrap(), [Some(300_000)]);
    lease.release().await.unwrap();
}
