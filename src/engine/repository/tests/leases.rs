//! Which blobs leases keep, and for how long.

use super::collector::wait;
use super::*;

#[tokio::test]
async fn what_an_export_relies_on_stays_for_as_long_as_its_process_lives() {
    let folder = folder();
    let (one, other) = (engine(folder.path()).await, engine(folder.path()).await);
    let image = Image::new(&[b"layer", b"relied upon"]);
    export(&other, &image, &names(&["moving:1"])).await.unwrap();
    let lease = one.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let plan = transaction.plan();
    assert_eq!(plan.present.len(), 4);
    // The only name moves to another image, and the blobs look abandoned in every way.
    export(&other, &Image::new(&[b"new"]), &names(&["moving:1"])).await.unwrap();
    for _ in 0..2 {
        assert_eq!(other.recover().await.unwrap(), 0);
        wait(&other);
    }
    let prepared = transaction.prepare().await.unwrap();
    prepared.commit(&names(&["stays:1"]), &[]).await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(read_as_other_tool(folder.path()).len(), 2);
}

#[tokio::test]
async fn what_is_read_stays_for_as_long_as_that_takes() {
    let folder = folder();
    let (one, other) = (engine(folder.path()).await, engine(folder.path()).await);
    let image = Image::new(&[b"layer", b"read slowly"]);
    export(&other, &image, &names(&["moving:1"])).await.unwrap();
    let before = blobs(folder.path());
    let held = one.read_lease(&origin(), &image.graph()).await.unwrap().unwrap();
    export(&other, &Image::new(&[b"new"]), &names(&["moving:1"])).await.unwrap();
    for _ in 0..3 {
        other.recover().await.unwrap();
        wait(&other);
    }
    assert!(before.iter().all(|blob| blobs(folder.path()).contains(blob)));
    held.release().await.unwrap();
    for _ in 0..2 {
        other.recover().await.unwrap();
        wait(&other);
    }
    assert!(!before.iter().any(|blob| blobs(folder.path()).contains(blob)));
    // A layout in which we never wrote is only read.
    fs::remove_dir_all(folder.path().join(".linkspan")).unwrap();
    assert!(engine(folder.path()).await.read_lease(&origin(), &image.graph()).await.unwrap().is_none());
    assert_eq!(files(folder.path()), ["blobs", "index.json", "oci-layout"]);
}

#[tokio::test]
async fn a_durable_export_stays_until_its_time_is_over() {
    let folder = folder();
    let (origin, image) = (origin(), Image::new(&[b"durable"]));
    let first = engine(folder.path()).await;
    let lease = first.lease(&origin, Lifetime::Durable { record: "kept \"with\" it\n" }).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    send(&*transaction, &image.layers[0], &image.blobs[&image.layers[0].digest]).await.unwrap();
    transaction.prepare().await.unwrap();
    drop((transaction, lease, first));

    let second = engine(folder.path()).await;
    assert_eq!(second.recover().await.unwrap(), 0);
    let durables = second.durable().await.unwrap();
    assert_eq!(
        (durables[0].export.as_str(), durables[0].record.as_str()),
        (origin.export.as_str(), "kept \"with\" it\n")
    );
    let lease = second.lease(&origin, Lifetime::Durable { record: "another" }).await.unwrap();
    assert_eq!(lease.pinned().await.unwrap().len(), 3);
    lease.unpin(&image.layers[0].digest).await.unwrap();
    assert_eq!(lease.pinned().await.unwrap().len(), 2);
    for _ in 0..2 {
        assert_eq!(second.recover().await.unwrap(), 0);
        wait(&second);
    }
    assert_eq!(blobs(folder.path()).len(), 2, "what was given up is old enough to go");

    let lease = second.stores.blobs.paths().lease(&origin.export);
    let text = fs::read_to_string(&lease).unwrap();
    let (before, after) = text.split_once("\"opened\":").unwrap();
    let rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
    fs::write(&lease, format!("{before}\"opened\":1000{rest}")).unwrap();
    assert_eq!(second.recover().await.unwrap(), 1);
    wait(&second);
    second.recover().await.unwrap();
    assert_eq!(blobs(folder.path()), [""; 0]);
}

#[tokio::test]
async fn what_a_process_left_behind_is_released() {
    let folder = folder();
    let crashed = engine(folder.path()).await;
    let image = Image::new(&[b"left behind"]);
    let lease = crashed.lease(&origin(), Lifetime::Process).await.unwrap();
    let transaction = begin(&lease, image.graph()).await.unwrap();
    let own = folder.path().join(".linkspan");
    let process = files(&own.join("processes"));
    assert_eq!((files(&own.join("leases")).len(), files(&own.join("ingest")).len()), (1, 2));
    let next = engine(folder.path()).await;
    assert_eq!(next.recover().await.unwrap(), 0, "it lives");
    drop((transaction, lease, crashed));
    assert_eq!(next.recover().await.unwrap(), 1);
    for (folder, expected) in [("leases", 0), ("ingest", 0), ("processes", 0)] {
        assert_eq!(files(&own.join(folder)).len(), expected, "{folder} after {process:?}");
    }
}

#[tokio::test]
async fn a_process_that_was_killed_between_making_a_lease_and_writing_its_name_leaves_nothing() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    export(&engine, &Image::new(&[b"other"]), &names(&["other:1"])).await.unwrap();
    let leases = folder.path().join(".linkspan/leases");
    fs::write(leases.join("unnamed"), "").unwrap();
    assert_eq!(engine.abandoned().await.unwrap().leases, [""; 0], "its process may be at it");
    assert_eq!(engine.recover().await.unwrap(), 1);
    assert_eq!(files(&leases), [""; 0]);
}

#[tokio::test]
async fn a_lease_that_was_released_has_no_descriptor_while_it_is_remembered() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let origin = origin();
    let lease = engine.lease(&origin, Lifetime::Process).await.unwrap();
    let path = engine.stores.blobs.paths().lease(&origin.export);
    let open = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with(&*path.to_string_lossy())).count()
    };
    assert_eq!(open(), 1);
    lease.release().await.unwrap();
    assert_eq!(open(), 0);
    lease.release().await.unwrap();
}
