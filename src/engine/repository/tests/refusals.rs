//! Folders that are no layouts, or that cannot be written.

use super::*;

async fn refused(root: &Path, words: &str) {
    let error = RepositoryEngine::on(root, Arc::new(System), String::new()).await.unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, EngineError::Layout { .. }), "{message}");
    assert!(message.contains(words) && message.contains(&root.display().to_string()), "{message}");
}

fn layout(index: &str) -> TempDir {
    let folder = folder();
    fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(folder.path().join("index.json"), index).unwrap();
    folder
}

#[tokio::test]
async fn what_is_no_layout_is_refused_and_left_alone() {
    let home = folder();
    fs::write(home.path().join("letter"), "dear").unwrap();
    refused(home.path(), "no OCI image layout").await;
    refused(&home.path().join("letter"), "not a folder").await;
    assert_eq!(files(home.path()), ["letter"]);

    for (marker, words) in
        [(r#"{"imageLayoutVersion":"2.0.0"}"#, "`2.0.0`"), ("{}", "imageLayoutVersion"), ("nonsense", "oci-layout")]
    {
        let folder = layout(r#"{"manifests":[]}"#);
        fs::write(folder.path().join("oci-layout"), marker).unwrap();
        refused(folder.path(), words).await;
        assert_eq!(files(folder.path()), ["index.json", "oci-layout"]);
    }
}

#[tokio::test]
async fn an_index_that_cannot_be_read_is_never_replaced() {
    for index in [
        "",
        "nonsense",
        r#"{"manifests":[{"digest":"sha256:../../x","size":1}]}"#,
        r#"{"manifests":[],"manifests":[]}"#,
    ] {
        let folder = layout(index);
        refused(folder.path(), "index.json").await;

        // The same if the folder changes after the start.
        let path = folder.path().join("index.json");
        fs::write(&path, r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        let engine = engine(folder.path()).await;
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        fs::write(&path, index).unwrap();
        let error = transfer(&lease, &Image::new(&[b"x"]), &names(&["x"])).await.unwrap_err();
        assert!(error.to_string().contains("index.json"), "{error}");
        lease.release().await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), index);
    }
}

#[tokio::test]
async fn a_blob_of_the_wrong_size_is_replaced_and_a_link_followed() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    let image = Image::new(&[b"damaged", b"linked"]);
    export(&engine, &image, &names(&["x"])).await.unwrap();
    let path = |at: usize| engine.stores.blobs.paths().blob(&image.layers[at].digest);
    fs::write(path(0), "short").unwrap();
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(path(1), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, path(1)).unwrap();
    assert_eq!(engine.already_complete(&image.root, &names(&["x"])).await.unwrap(), None);
    let plan = export(&engine, &image, &names(&["x"])).await.unwrap();
    assert_eq!(plan.missing, image.layers[..1]);
    read_as_other_tool(folder.path());
    assert!(path(1).is_symlink());
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_named() {
    // No user, not even root, can create a folder there.
    let root = Path::new("/proc/self/layout");
    let engine = engine(root).await;
    assert_eq!(engine.recover().await.unwrap(), 0);
    let error = engine.lease(&origin(), Lifetime::Process).await.unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("layout /proc/self/layout: making the layout"), "{message}");
    assert_eq!(engine.images().unwrap().list(&Default::default()).await.unwrap().records, []);
}

#[tokio::test]
async fn ids_that_are_no_file_names_are_refused() {
    let folder = folder();
    let engine = engine(folder.path()).await;
    for export in ["", "../up", "A", &"x".repeat(65)] {
        let origin = Origin { export: export.to_owned(), ..origin() };
        let error = engine.lease(&origin, Lifetime::Process).await.unwrap_err();
        assert!(matches!(error, EngineError::Protocol { .. }), "{error}");
    }
    assert_eq!(files(folder.path()), [""; 0]);
}
