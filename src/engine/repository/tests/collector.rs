//! Which blobs are collected, and which are kept.

use std::time::{Duration, SystemTime};

use super::*;

fn make_old(path: &Path) {
    let file = fs::File::options().read(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(2 * 24 * 3600)).unwrap();
}

pub(super) fn is_there(root: &Path, blob: &Descriptor) -> bool {
    blobs(root).contains(&blob.digest.hex().to_owned())
}

/// Advances the clock by a minute more than an hour.
pub(super) fn wait(engine: &RepositoryEngine) {
    engine.stores.blobs.clock().advance(Duration::from_secs(3660));
}

fn index(root: &Path) -> Value {
    serde_json::from_slice(&fs::read(root.join("index.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn what_lost_its_name_is_removed_after_an_hour_and_what_others_need_stays() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let [old, new, other] = [b"old" as &[u8], b"new", b"other"].map(|own| Image::new(&[b"base", own]));
    let several = Image::index(&[&old, &other]);
    export(&engine, &old, &names(&["demo:1"])).await.unwrap();
    export(&engine, &several, &names(&["several:1"])).await.unwrap();
    // However old the blobs are, the hour starts when the name is lost.
    wait(&engine);
    export(&engine, &new, &names(&["demo:1"])).await.unwrap();
    assert!(is_there(folder.path(), &old.layers[1]), "the index still has it");
    export(&engine, &new, &names(&["several:1"])).await.unwrap();
    engine.recover().await.unwrap();
    assert_eq!(blobs(folder.path()).len(), 11, "somebody may have read the index before that");
    // The hour continues in the next process.
    let engine = super::engine(folder.path()).await;
    engine.stores.blobs.clock().advance(Duration::from_secs(3600));
    wait(&engine);
    engine.recover().await.unwrap();
    assert_eq!(blobs(folder.path()).len(), 4);
    assert_eq!(read_as_other_tool(folder.path()).len(), 2);
    assert!(is_there(folder.path(), &old.layers[0]) && !is_there(folder.path(), &old.layers[1]));
}

#[tokio::test]
async fn a_root_that_is_one_blob_has_a_name_and_stays_as_long_as_that() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let (blob, old) = (Image::blob(b"{\"neither\": \"index nor manifest\"}"), Image::new(&[b"old"]));
    let plan = export(&engine, &blob, &names(&["blob:1"])).await.unwrap();
    assert_eq!((plan.missing, plan.stored, plan.present), (vec![blob.root.clone()], vec![], vec![]));
    export(&engine, &old, &names(&["demo:1"])).await.unwrap();
    export(&engine, &Image::new(&[b"new"]), &names(&["demo:1"])).await.unwrap();
    for _ in 0..2 {
        wait(&engine);
        engine.recover().await.unwrap();
    }
    assert!(is_there(folder.path(), &blob.root) && !is_there(folder.path(), &old.layers[0]));
    let images = engine.images().unwrap();
    let root = images.resolve(&names(&["blob:1"])[0]).await.unwrap().unwrap();
    assert_eq!((root.digest, root.media_type), (blob.root.digest.clone(), blob.root.media_type.clone()));
    assert_eq!(engine.already_complete(&blob.root, &names(&["blob:1"])).await.unwrap(), None);
    let plan = export(&engine, &blob, &names(&["blob:2"])).await.unwrap();
    assert_eq!(plan.present, std::slice::from_ref(&blob.root));
    for name in ["blob:1", "blob:2"] {
        let name = Some(names(&[name])[0].to_string());
        engine.remove(&Record { name, target: blob.root.clone() }, false).await.unwrap();
    }
    for _ in 0..2 {
        wait(&engine);
        engine.recover().await.unwrap();
    }
    assert!(!is_there(folder.path(), &blob.root));
}

#[tokio::test]
async fn an_index_that_was_read_before_a_name_moved_may_be_written_after_it() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let [old, new] = [b"old", b"new"].map(|own| Image::new(&[b"base", own]));
    export(&engine, &old, &names(&["demo:1"])).await.unwrap();
    let read = fs::read(folder.path().join("index.json")).unwrap();
    wait(&engine);
    export(&engine, &new, &names(&["demo:1"])).await.unwrap();
    fs::write(folder.path().join("index.json"), read).unwrap();
    assert_eq!(read_as_other_tool(folder.path())["docker.io/library/demo:1"], old.root.digest);
    // Blobs that became unreachable by that have their hour, too, from when it is noticed.
    wait(&engine);
    engine.recover().await.unwrap();
    assert!(is_there(folder.path(), &new.root));
    wait(&engine);
    engine.recover().await.unwrap();
    assert!(!is_there(folder.path(), &new.root));
    assert_eq!(read_as_other_tool(folder.path())["docker.io/library/demo:1"], old.root.digest);
}

#[tokio::test]
async fn a_name_that_is_lost_again_gives_another_hour() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let [one, other] = [b"one", b"two"].map(|own| Image::new(&[own]));
    export(&engine, &one, &names(&["demo:1"])).await.unwrap();
    export(&engine, &other, &names(&["demo:1"])).await.unwrap();
    engine.stores.blobs.clock().advance(Duration::from_secs(1800));
    // No collection runs when an unused name is set.
    export(&engine, &one, &names(&["again:1"])).await.unwrap();
    engine.stores.blobs.clock().advance(Duration::from_secs(1860));
    export(&engine, &other, &names(&["again:1"])).await.unwrap();
    engine.recover().await.unwrap();
    assert!(is_there(folder.path(), &one.root), "it had a name a moment ago");
    wait(&engine);
    engine.recover().await.unwrap();
    assert!(!is_there(folder.path(), &one.root));
}

#[tokio::test]
async fn what_an_export_brought_that_failed_is_removed_after_an_hour() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"in vain"]);
    let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
    arrive(&lease, &image).await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(blobs(folder.path()).len(), 3);
    wait(&engine);
    export(&engine, &Image::new(&[b"another"]), &names(&["another:1"])).await.unwrap();
    engine.recover().await.unwrap();
    assert_eq!(blobs(folder.path()).len(), 3, "{:?}", blobs(folder.path()));
    assert!(!is_there(folder.path(), &image.root));
}

#[tokio::test]
async fn what_another_tool_may_just_be_writing_stays_for_an_hour() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"kept"]);
    export(&engine, &image, &names(&["kept:1"])).await.unwrap();
    let foreign = Digest::sha256(b"foreign");
    fs::write(engine.stores.blobs.paths().blob(&foreign), "foreign").unwrap();
    fs::write(folder.path().join("blobs/sha256/notes.txt"), "mine").unwrap();
    engine.recover().await.unwrap();
    assert_eq!(blobs(folder.path()).len(), 5);
    wait(&engine);
    engine.recover().await.unwrap();
    assert_eq!(blobs(folder.path()).len(), 4, "what is no blob is not ours to judge");
    fs::remove_file(folder.path().join("blobs/sha256/notes.txt")).unwrap();
    assert_eq!(read_as_other_tool(folder.path()).len(), 1);
}

#[tokio::test]
async fn a_copy_that_keeps_times_is_as_young_as_it_is_here() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    export(&engine, &Image::new(&[b"kept"]), &names(&["kept:1"])).await.unwrap();
    let foreign = Digest::sha256(b"foreign");
    let path = engine.stores.blobs.paths().blob(&foreign);
    fs::write(&path, "foreign").unwrap();
    // As `cp -a`, `rsync -a` and `tar -x` leave it, in a layout that was copied with our own files.
    make_old(&path);
    fs::write(engine.stores.blobs.paths().unreached(), format!("1000 {foreign}\n")).unwrap();
    engine.recover().await.unwrap();
    assert!(path.exists());
    wait(&engine);
    engine.recover().await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn notes_that_make_no_sense_cost_an_hour() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let foreign = Digest::sha256(b"foreign");
    export(&engine, &Image::new(&[b"kept"]), &names(&["kept:1"])).await.unwrap();
    fs::write(engine.stores.blobs.paths().blob(&foreign), "foreign").unwrap();
    for notes in [format!("-1 {foreign}\nx\n\n1 sha256:1"), format!("99999999999999 {foreign}"), "\u{0}".to_owned()] {
        fs::write(engine.stores.blobs.paths().unreached(), notes).unwrap();
        engine.recover().await.unwrap();
        assert!(engine.stores.blobs.paths().blob(&foreign).exists());
    }
    wait(&engine);
    engine.recover().await.unwrap();
    assert!(!engine.stores.blobs.paths().blob(&foreign).exists());
}

/// Damages a layout with an image in one way. Returns whether blobs may still be collected.
type Damage = Box<dyn Fn(&RepositoryEngine, &Image) -> bool>;

#[tokio::test]
async fn a_start_collects_what_is_certain_and_never_fails() {
    let entry = |engine: &RepositoryEngine, entry: Value| {
        let mut index = index(engine.stores.blobs.paths().root());
        index["manifests"].as_array_mut().unwrap().push(entry);
        fs::write(engine.stores.blobs.paths().index(), index.to_string()).unwrap();
        false
    };
    let digest = |engine: &RepositoryEngine, content: &str, media_type: &str| {
        let digest = Digest::sha256(content.as_bytes());
        fs::write(engine.stores.blobs.paths().blob(&digest), content).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    };
    let damages: [(&str, Damage); 12] = [
        ("nothing", Box::new(|_, _| true)),
        (
            "an unknown type",
            Box::new(move |engine, _| entry(engine, digest(engine, "x", "application/vnd.example.unknown"))),
        ),
        (
            "an unknown digest",
            Box::new(move |engine, _| entry(engine, json!({"mediaType": "a/b", "digest": "blake3:00", "size": 1}))),
        ),
        ("a large manifest", Box::new(move |engine, _| entry(engine, digest(engine, &" ".repeat(33 << 20), MANIFEST)))),
        (
            "a damaged manifest",
            Box::new(|engine, image| {
                fs::write(engine.stores.blobs.paths().blob(&image.root.digest), vec![b' '; image.root.size as usize])
                    .unwrap();
                false
            }),
        ),
        (
            "a short manifest",
            Box::new(|engine, image| {
                fs::write(engine.stores.blobs.paths().blob(&image.root.digest), "").unwrap();
                false
            }),
        ),
        (
            "a folder in place of a manifest",
            Box::new(|engine, image| {
                let path = engine.stores.blobs.paths().blob(&image.root.digest);
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
                false
            }),
        ),
        (
            "a pipe in place of a manifest",
            Box::new(|engine, image| {
                let path = engine.stores.blobs.paths().blob(&image.root.digest);
                fs::remove_file(&path).unwrap();
                rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
                    .unwrap();
                false
            }),
        ),
        (
            "a long lease",
            Box::new(|engine, _| {
                let line = format!("{}\n", Digest::sha256(b"x"));
                let text =
                    format!("{}\n{}", engine.stores.blobs.process().unwrap(), line.repeat((33 << 20) / line.len()));
                fs::write(engine.stores.blobs.paths().lease("long"), text).unwrap();
                false
            }),
        ),
        (
            "a long lease of a process that is gone",
            Box::new(|engine, _| {
                fs::write(engine.stores.blobs.paths().lease("long"), "gone\n".repeat(8 << 20)).unwrap();
                true
            }),
        ),
        (
            "what is no lease",
            Box::new(|engine, _| {
                use std::os::unix::ffi::OsStrExt as _;
                let leases = engine.stores.blobs.paths().leases();
                fs::create_dir(leases.join("folder")).unwrap();
                fs::write(leases.join(std::ffi::OsStr::from_bytes(b"\xff")), "gone\n").unwrap();
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    leases.join("pipe"),
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::RUSR,
                    0,
                )
                .unwrap();
                true
            }),
        ),
        (
            "what is no file of ours",
            Box::new(|engine, _| {
                let paths = engine.stores.blobs.paths();
                for folder in
                    [paths.ingest().join("sha256-x"), paths.processes().join("y"), paths.own().join("index.json.z")]
                {
                    fs::create_dir_all(folder.join("deeper")).unwrap();
                }
                fs::write(paths.lease("dead"), "../../index.json\n").unwrap();
                fs::create_dir_all(paths.uploads_of("dead").join("folder")).unwrap();
                true
            }),
        ),
    ];
    for (what, damage) in damages {
        let folder = folder();
        let engine = engine(folder.path()).await;
        let image = Image::new(&[b"layer"]);
        export(&engine, &image, &names(&["there:1"])).await.unwrap();
        let garbage = Digest::sha256(b"garbage");
        fs::write(engine.stores.blobs.paths().blob(&garbage), "garbage").unwrap();
        fs::write(engine.stores.blobs.paths().lease("left"), format!("gone\n{garbage}\n")).unwrap();
        let is_certain = damage(&engine, &image);
        for _ in 0..2 {
            engine.recover().await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(
                !engine.stores.blobs.paths().lease("left").exists(),
                "{what}: what a dead process left is released"
            );
            wait(&engine);
        }
        assert_eq!(engine.stores.blobs.paths().blob(&garbage).exists(), !is_certain, "{what}");
        assert!(is_there(folder.path(), &image.layers[0]), "{what}");
        // And the layout can be used.
        let next = RepositoryEngine::on(folder.path(), Arc::new(System), "this-boot".to_owned()).await;
        let next = next.unwrap_or_else(|error| panic!("{what}: {error}"));
        let listed = next.images().unwrap().list(&Default::default()).await.unwrap().records;
        let is_it =
            |record: &crate::engine::images::Record| record.name.as_deref() == Some("docker.io/library/there:1");
        assert!(listed.iter().any(is_it), "{what}: {listed:?}");
        export(&next, &Image::new(&[b"another"]), &names(&["another:1"]))
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}
