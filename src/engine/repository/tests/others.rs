//! The hours of blobs that other tools needed between two runs of the collector.

use std::time::Duration;

use super::collector::{is_there, wait};
use super::*;
use crate::engine::local::testing::{LayoutPaths, Seal, claim, index_written};
use crate::test_thread::spawn_until_it_waits;

fn minutes(engine: &RepositoryEngine, minutes: u64) {
    engine.stores.blobs.clock().advance(Duration::from_secs(60 * minutes));
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
    let lease = killed.lease(&origin(), Lifetime::Process).await.unwrap();
    transfer(&lease, &new, &names(&["again:1"])).await.unwrap();
    drop((lease, killed));
    engine.recover().await.unwrap();
    assert!(is_there(folder.path(), &old.root), "it had a name a moment ago");
    wait(&engine);
    engine.recover().await.unwrap();
    assert!(!is_there(folder.path(), &old.root));
}

#[test]
fn a_check_whether_a_process_lives_does_not_keep_it_from_claiming() {
    let folder = folder();
    let (paths, path) = (LayoutPaths::new(folder.path()), folder.path().join("process"));
    let file = fs::File::create_new(&path).unwrap();
    let reader = fs::File::open(&path).unwrap();
    reader.try_lock_shared().unwrap();
    std::thread::scope(|scope| {
        let claiming = spawn_until_it_waits(scope, || claim(&paths, &file));
        assert!(!claiming.is_finished(), "it waits for the reader");
        drop(reader);
        claiming.join().unwrap().unwrap();
    });
    assert!(fs::File::open(&path).unwrap().try_lock_shared().is_err());
}

/// An index that another tool wrote just after ours is not treated as ours.
#[tokio::test]
async fn notes_go_on_only_with_the_index_that_we_wrote() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let [old, new] = [b"old", b"new"].map(|own| Image::new(&[own]));
    export(&engine, &old, &names(&["demo:1"])).await.unwrap();
    export(&engine, &new, &names(&["demo:1"])).await.unwrap();
    let paths = engine.stores.blobs.paths();
    let noted = fs::read(paths.unreached()).unwrap();
    let before = Seal::at(&paths.index()).unwrap();
    let written = paths.put(&System, &paths.index(), &index(folder.path())).unwrap();
    let bytes = index(folder.path());
    fs::remove_file(paths.index()).unwrap();
    write(folder.path(), &bytes);
    index_written(paths, &before, &written, &[]);
    minutes(&engine, 61);
    engine.recover().await.unwrap();
    assert!(is_there(folder.path(), &old.root), "who knows what was needed meanwhile");
    // The same with our own index.
    fs::write(paths.unreached(), &noted).unwrap();
    let before = Seal::at(&paths.index()).unwrap();
    let written = paths.put(&System, &paths.index(), &bytes).unwrap();
    let noted = String::from_utf8(noted).unwrap();
    let (_, since) = noted.split_once('\n').unwrap();
    fs::write(paths.unreached(), format!("index {before}\n{since}")).unwrap();
    index_written(paths, &before, &written, &[]);
    engine.recover().await.unwrap();
    assert!(!is_there(folder.path(), &old.root));
}
