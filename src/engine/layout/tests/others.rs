//! Hours of blobs that other tools needed between two looks of the collector.

use std::time::Duration;

use super::collector::{is_there, wait};
use super::*;

fn minutes(engine: &LayoutEngine, minutes: u64) {
    engine.shared.clock.advance(Duration::from_secs(60 * minutes));
}

fn index(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("index.json")).unwrap()
}

/// Writes the index as skopeo does: without a lock, and in place.
fn write(folder: &Path, bytes: &[u8]) {
    fs::write(folder.join("index.json"), bytes).unwrap();
}

#[tokio::test]
async fn what_others_needed_meanwhile_has_its_hour_from_when_that_is_noticed() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let [old, new] = [b"old", b"new"].map(|own| Image::new(&[b"base", own]));
    export(&engine, &old, &names(&["demo:1"])).await.unwrap();
    let with_old = index(folder.path());
    export(&engine, &new, &names(&["demo:1"])).await.unwrap();
    let without = index(folder.path());
    assert!(is_there(folder.path(), &old.root), "noted, and not due");
    minutes(&engine, 30);
    write(folder.path(), &with_old);
    minutes(&engine, 29);
    // The same bytes as at first.
    write(folder.path(), &without);
    minutes(&engine, 2);
    engine.recover().await.unwrap();
    assert!(is_there(folder.path(), &old.root), "it had a name two minutes ago");
    wait(&engine);
    engine.recover().await.unwrap();
    assert!(!is_there(folder.path(), &old.root));
}

#[tokio::test]
async fn our_own_changes_of_the_index_put_no_hour_off() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let images = [b"0", b"1", b"2", b"3"].map(|own| Image::new(&[own]));
    export(&engine, &images[0], &names(&["demo:1"])).await.unwrap();
    export(&engine, &images[1], &names(&["demo:1"])).await.unwrap();
    minutes(&engine, 30);
    export(&engine, &images[2], &names(&["another:1"])).await.unwrap();
    engine.tag(&images[2].root, &names(&["again:1"])[0]).await.unwrap();
    export(&engine, &images[3], &names(&["another:1", "again:1"])).await.unwrap();
    minutes(&engine, 31);
    engine.recover().await.unwrap();
    assert!(!is_there(folder.path(), &images[0].root), "an hour has gone by");
    assert!(is_there(folder.path(), &images[2].root), "it lost its names later");
    minutes(&engine, 30);
    engine.recover().await.unwrap();
    assert!(!is_there(folder.path(), &images[2].root));
}

#[tokio::test]
async fn what_lost_its_name_to_a_process_that_was_killed_has_its_hour() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let [old, new] = [b"old", b"new"].map(|own| Image::new(&[own]));
    export(&engine, &old, &names(&["demo:1"])).await.unwrap();
    export(&engine, &new, &names(&["demo:1"])).await.unwrap();
    minutes(&engine, 30);
    export(&engine, &old, &names(&["again:1"])).await.unwrap();
    minutes(&engine, 31);
    let killed = super::engine(folder.path()).await;
    let ingest = killed.open(&origin(), Events::none()).await.unwrap();
    transfer(&*ingest, &new, &names(&["again:1"])).await.unwrap();
    drop((ingest, killed));
    engine.recover().await.unwrap();
    assert!(is_there(folder.path(), &old.root), "it had a name a moment ago");
    wait(&engine);
    engine.recover().await.unwrap();
    assert!(!is_there(folder.path(), &old.root));
}

#[tokio::test]
async fn whoever_asks_whether_a_process_lives_does_not_hinder_it() {
    let folder = folder();
    let first = engine(folder.path()).await;
    export(&first, &Image::new(&[b"x"]), &names(&["x"])).await.unwrap();
    let (place, is_done) = (first.shared.place.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let done = is_done.clone();
    let asking = std::thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            for process in files(&place.processes()) {
                lease::lives(&place, &process);
            }
        }
    });
    for _ in 0..300 {
        super::engine(folder.path()).await.shared.process().unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    asking.join().unwrap();
}
