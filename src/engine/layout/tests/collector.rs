//! What is collected, and what is not.

use std::time::{Duration, SystemTime};

use super::*;

fn make_old(path: &Path) {
    let file = fs::File::options().read(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(2 * 24 * 3600)).unwrap();
}

fn make_blobs_old(root: &Path) {
    blobs(root).iter().for_each(|blob| make_old(&root.join("blobs/sha256").join(blob)));
}

fn is_there(root: &Path, blob: &Descriptor) -> bool {
    blobs(root).contains(&blob.digest.hex().to_owned())
}

#[tokio::test]
async fn what_lost_its_name_is_removed_and_what_others_need_stays() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let [old, new, other] = [b"old" as &[u8], b"new", b"other"].map(|own| Image::new(&[b"base", own]));
    let several = Image::index(&[&old, &other]);
    export(&engine, &old, &names(&["demo:1"])).await.unwrap();
    export(&engine, &several, &names(&["several:1"])).await.unwrap();
    export(&engine, &new, &names(&["demo:1"])).await.unwrap();
    assert!(is_there(folder.path(), &old.layers[1]), "the index still has it");
    export(&engine, &new, &names(&["several:1"])).await.unwrap();
    assert_eq!(blobs(folder.path()).len(), 4);
    assert_eq!(read_as_a_stranger(folder.path()).len(), 2);
    assert!(is_there(folder.path(), &old.layers[0]) && !is_there(folder.path(), &old.layers[1]));
}

#[tokio::test]
async fn what_another_tool_may_just_be_writing_stays_for_an_hour() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"kept"]);
    export(&engine, &image, &names(&["kept:1"])).await.unwrap();
    let foreign = Digest::sha256(b"foreign");
    fs::write(engine.shared.place.blob(&foreign), "foreign").unwrap();
    fs::write(folder.path().join("blobs/sha256/notes.txt"), "mine").unwrap();
    engine.recover().await.unwrap();
    assert_eq!(blobs(folder.path()).len(), 5);
    fs::remove_file(folder.path().join("blobs/sha256/notes.txt")).unwrap();
    make_blobs_old(folder.path());
    engine.recover().await.unwrap();
    assert_eq!(blobs(folder.path()).len(), 3);
    assert_eq!(read_as_a_stranger(folder.path()).len(), 1);
}

#[tokio::test]
async fn a_document_that_is_not_understood_stops_the_collector() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"layer"]);
    export(&engine, &image, &names(&["broken:1"])).await.unwrap();
    fs::write(engine.shared.place.blob(&Digest::sha256(b"x")), "x").unwrap();
    let good = fs::read(engine.shared.place.blob(&image.root.digest)).unwrap();
    fs::write(engine.shared.place.blob(&image.root.digest), vec![b' '; good.len()]).unwrap();
    make_blobs_old(folder.path());
    let error = engine.recover().await.unwrap_err();
    assert!(error.to_string().contains("nothing is collected"), "{error}");
    assert_eq!(blobs(folder.path()).len(), 4);

    fs::write(engine.shared.place.blob(&image.root.digest), good).unwrap();
    let unknown = json!({"mediaType": "application/vnd.example.unknown", "digest": Digest::sha256(b"x"), "size": 1});
    let mut index: Value = serde_json::from_slice(&fs::read(engine.shared.place.index()).unwrap()).unwrap();
    index["manifests"].as_array_mut().unwrap().push(unknown);
    fs::write(engine.shared.place.index(), index.to_string()).unwrap();
    let error = engine.recover().await.unwrap_err();
    assert!(error.to_string().contains("application/vnd.example.unknown"), "{error}");
}

#[tokio::test]
async fn what_an_export_relies_on_stays_for_as_long_as_its_process_lives() {
    let folder = folder();
    let (one, other) = (engine(folder.path()).await, engine(folder.path()).await);
    let image = Image::new(&[b"layer", b"relied upon"]);
    export(&other, &image, &names(&["moving:1"])).await.unwrap();
    let ingest = one.open(&origin(), Events::none()).await.unwrap();
    let plan = ingest.plan(&image.graph()).await.unwrap();
    assert_eq!(plan.present.len(), 4);
    // The only name moves away, and the blobs look abandoned in every way.
    make_blobs_old(folder.path());
    export(&other, &Image::new(&[b"new"]), &names(&["moving:1"])).await.unwrap();
    assert_eq!(other.recover().await.unwrap(), 0);
    ingest.settle().await.unwrap();
    ingest.commit(&names(&["stays:1"])).await.unwrap();
    ingest.release().await.unwrap();
    assert_eq!(read_as_a_stranger(folder.path()).len(), 2);
}

#[tokio::test]
async fn a_durable_export_stays_until_its_time_is_over() {
    let folder = folder();
    let (origin, image) = (origin(), Image::new(&[b"durable"]));
    let first = engine(folder.path()).await;
    let ingest = first.open_durable(&origin, "kept \"with\" it\n", Events::none()).await.unwrap();
    ingest.plan(&image.graph()).await.unwrap();
    send(&*ingest, &image.layers[0], &image.blobs[&image.layers[0].digest]).await.unwrap();
    ingest.settle().await.unwrap();
    make_blobs_old(folder.path());
    drop((ingest, first));

    let second = engine(folder.path()).await;
    assert_eq!(second.recover().await.unwrap(), 0);
    let durables = second.durables().await.unwrap();
    assert_eq!(
        (durables[0].export.as_str(), durables[0].record.as_str()),
        (origin.export.as_str(), "kept \"with\" it\n")
    );
    let ingest = second.open_durable(&origin, "another", Events::none()).await.unwrap();
    let uploads = ingest.uploads().unwrap();
    assert_eq!(uploads.pinned().await.unwrap().len(), 3);
    uploads.unpin(&image.layers[0].digest).await.unwrap();
    assert_eq!(uploads.pinned().await.unwrap().len(), 2);
    assert_eq!(second.recover().await.unwrap(), 0);
    assert_eq!(blobs(folder.path()).len(), 2, "what was given up is old enough to go");

    let lease = second.shared.place.lease(&origin.export);
    let text = fs::read_to_string(&lease).unwrap();
    let (before, after) = text.split_once("\"opened\":").unwrap();
    let rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
    fs::write(&lease, format!("{before}\"opened\":1000{rest}")).unwrap();
    assert_eq!(second.recover().await.unwrap(), 1);
    assert_eq!(blobs(folder.path()), [""; 0]);
}

#[tokio::test]
async fn what_a_process_left_behind_is_released() {
    let folder = folder();
    let crashed = engine(folder.path()).await;
    let image = Image::new(&[b"left behind"]);
    let ingest = crashed.open(&origin(), Events::none()).await.unwrap();
    ingest.plan(&image.graph()).await.unwrap();
    let own = folder.path().join(".linkspan");
    let process = files(&own.join("processes"));
    assert_eq!((files(&own.join("leases")).len(), files(&own.join("ingest")).len()), (1, 2));
    let next = engine(folder.path()).await;
    assert_eq!(next.recover().await.unwrap(), 0, "it lives");
    drop((ingest, crashed));
    assert_eq!(next.recover().await.unwrap(), 1);
    for (folder, expected) in [("leases", 0), ("ingest", 0), ("processes", 0)] {
        assert_eq!(files(&own.join(folder)).len(), expected, "{folder} after {process:?}");
    }
}
