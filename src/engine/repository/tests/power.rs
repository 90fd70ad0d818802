//! A power loss after every single operation of an export.

use super::recorder::{Loss, Recorder, copy};
use super::*;

const LOSSES: [Loss; 10] = [
    Loss::All,
    Loss::Content,
    Loss::Names,
    Loss::Nothing,
    Loss::Some(1),
    Loss::Some(2),
    Loss::Some(3),
    Loss::Some(4),
    Loss::Some(5),
    Loss::Some(6),
];

/// Every blob in the files of a layout matches its name.
fn every_blob_is_what_it_is_called(root: &Path, when: &str) {
    for file in blobs(root) {
        let bytes = fs::read(root.join("blobs/sha256").join(&file)).unwrap();
        assert_eq!(Digest::sha256(&bytes).hex(), file, "{when}");
    }
}

/// Exports `image` to a copy of the layout `before`, simulates each kind of power loss after each operation, and checks
/// that the name resolves to one of `allowed`. Returns the number of operations.
async fn survives(before: Option<&Path>, image: &Image, allowed: &[Option<&Digest>]) -> usize {
    let place = folder();
    let root = place.path().join("layout");
    before.into_iter().for_each(|before| copy(before, &root));
    let recorder = Recorder::default();
    let engine = RepositoryEngine::on(&root, Arc::new(recorder.clone()), "first".to_owned()).await.unwrap();
    export(&engine, image, &names(&["demo:1"])).await.unwrap();
    drop(engine);
    read_as_other_tool(&root);

    for count in 0..=recorder.len() {
        for loss in LOSSES {
            let when = format!("{loss:?} after {count} operations");
            let left = folder();
            let left = left.path().join("layout");
            before.into_iter().for_each(|before| copy(before, &left));
            recorder.lose_power(count, loss, before, &root, &left);
            every_blob_is_what_it_is_called(&left, &when);
            if left.join("oci-layout").exists() && left.join("index.json").exists() {
                let found = read_as_other_tool(&left);
                let demo = found.get("docker.io/library/demo:1");
                assert!(allowed.contains(&demo), "{when}: {demo:?}");
            } else {
                assert!(before.is_none(), "{when}: it is no layout any more");
            }

            let engine = RepositoryEngine::on(&left, Arc::new(System), "second".to_owned()).await;
            let engine = engine.unwrap_or_else(|error| panic!("{when}: {error}"));
            engine.recover().await.unwrap_or_else(|error| panic!("{when}: {error}"));
            export(&engine, image, &names(&["demo:1"])).await.unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(read_as_other_tool(&left)["docker.io/library/demo:1"], image.root.digest, "{when}");
        }
    }
    recorder.len()
}

#[tokio::test]
async fn a_first_export_is_there_or_not() {
    let image = Image::new(&[b"small", &[1; 100_000]]);
    let operations = survives(None, &image, &[None, Some(&image.root.digest)]).await;
    assert!(operations > 30, "{operations}");
}

#[tokio::test]
async fn a_name_that_moves_resolves_to_the_old_image_or_the_new_one() {
    let before = folder();
    let engine = engine(before.path()).await;
    let [old, new] = [b"old", b"new"].map(|own| Image::new(&[b"base", own]));
    export(&engine, &old, &names(&["demo:1"])).await.unwrap();
    export(&engine, &Image::new(&[b"base", b"other"]), &names(&["other:1"])).await.unwrap();
    drop(engine);
    survives(Some(before.path()), &new, &[Some(&old.root.digest), Some(&new.root.digest)]).await;
}

#[tokio::test]
async fn many_blobs_are_synced_at_once_and_as_safely() {
    let layers: Vec<_> = (0..40u8).map(|number| [number; 8]).collect();
    let image = Image::new(&layers.iter().map(|layer| layer.as_slice()).collect::<Vec<_>>());
    let place = folder();
    let root = place.path().join("layout");
    let recorder = Recorder::default();
    let engine = RepositoryEngine::on(&root, Arc::new(recorder.clone()), "first".to_owned()).await.unwrap();
    export(&engine, &image, &names(&["demo:1"])).await.unwrap();
    drop(engine);
    // 40 layers: three operations concern many blobs at once, the others one blob each.
    for count in (0..=recorder.len()).step_by(7).chain(recorder.len() - 20..=recorder.len()) {
        for loss in [Loss::All, Loss::Content, Loss::Some(7), Loss::Some(8)] {
            let left = folder();
            recorder.lose_power(count, loss, None, &root, left.path());
            every_blob_is_what_it_is_called(left.path(), &format!("{loss:?} after {count} operations"));
        }
    }
}

#[tokio::test]
async fn the_model_would_notice_a_missing_sync() {
    // The operations of an export, without its first sync.
    let place = folder();
    let root = place.path().join("layout");
    let recorder = Recorder::default();
    let (draft, blob) = (root.join("draft"), root.join("blob"));
    recorder.create_folder(&root).unwrap();
    recorder.append(&draft).unwrap().write(b"content").unwrap();
    recorder.rename(&draft, &blob).unwrap();
    recorder.sync_folder(&root).unwrap();
    for (loss, expected) in [(Loss::All, &b""[..]), (Loss::Content, &[0; 7]), (Loss::Nothing, b"content")] {
        let left = folder();
        recorder.lose_power(recorder.len(), loss, None, &root, left.path());
        assert_eq!(fs::read(left.path().join("blob")).unwrap(), expected, "{loss:?}");
    }
}
