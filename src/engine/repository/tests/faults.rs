//! A disk that fails at each operation of an export in turn.

use super::recorder::{Recorder, copy};
use super::*;

/// Exports to a copy of `before` while `count` operations, from operation `at` on, fail. Returns whether any operation
/// failed.
async fn refused(before: &Path, at: usize, count: usize, image: &Image) -> bool {
    let place = folder();
    let root = place.path().join("layout");
    copy(before, &root);
    let known = read_as_other_tool(&root);
    let recorder = Recorder::failing(at, count);
    let engine = RepositoryEngine::on(&root, Arc::new(recorder.clone()), "boot".to_owned()).await.unwrap();
    let outcome = export(&engine, image, &names(&["demo:1"])).await;
    let when = format!("{count} failures from operation {at} on");
    let found = read_as_other_tool(&root);
    assert_eq!(found["docker.io/library/other:1"], known["docker.io/library/other:1"], "{when}");
    match &outcome {
        Err(error) => assert!(matches!(error, EngineError::LayoutFull { .. }), "{when}: {error}"),
        Ok(_) => assert_eq!(found["docker.io/library/demo:1"], image.root.digest, "{when}"),
    }
    // The disk has space again.
    if recorder.attempts() >= at + count {
        export(&engine, image, &names(&["demo:1"])).await.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!(read_as_other_tool(&root)["docker.io/library/demo:1"], image.root.digest, "{when}");
    }
    drop(engine);
    let next = super::engine(&root).await;
    next.recover().await.unwrap();
    export(&next, image, &names(&["demo:1"])).await.unwrap_or_else(|error| panic!("{when}: {error}"));
    recorder.attempts() > at
}

#[tokio::test]
async fn a_full_disk_is_named_and_costs_nothing_that_was_there() {
    let before = folder();
    let engine = engine(before.path()).await;
    for name in ["demo:1", "other:1"] {
        export(&engine, &Image::new(&[b"base", name.as_bytes()]), &names(&[name])).await.unwrap();
    }
    drop(engine);
    let image = Image::new(&[b"base", b"new", &[3; 100_000]]);
    for count in [1, 2, 1000] {
        let mut at = 0;
        while refused(before.path(), at, count, &image).await {
            at += 1;
        }
        assert!(at > 20, "{at} operations");
    }
}
