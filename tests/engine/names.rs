//! Our names are dockerd's names: the table of the unit tests, held against the engine itself.

use std::sync::Arc;

use linkspan::engine::EngineKind;
use linkspan::engine::select::{Selection, select};
use linkspan::export::{ExportError, Exports, Request};
use linkspan::image::Digest;
use linkspan::progress::Events;

use crate::common::{Part, Stack};
use crate::fixture::{Blobs, Image, Layer, containerd, docker, export, names, origin};

/// The rows of the table: `accepted name canonical familiar` or `refused name reason`.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let table = include_str!("../data/references.txt").lines();
    table.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| line.split('\t').collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_accepts_and_refuses_the_names_that_we_do() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    let image = Image::new(&[Layer::new().file("names", "of one image").tar()]);
    export(&*engine, &image, &names(&["names:given"])).await.unwrap();
    let target = image.root.digest.to_string();
    let mut counts = (0, 0);
    for row in rows() {
        match row[..] {
            // A tag cannot be made from a name with a digest; such names are only looked up.
            ["accepted", name, ..] if name.contains('@') => {
                let stderr = stack.docker(["image", "inspect", "--", name]).fails().stderr;
                assert!(stderr.to_lowercase().contains("no such image"), "{name}: {stderr}");
                counts.0 += 1;
            }
            ["accepted", name, canonical, _] => {
                stack.docker(["tag", "--", "names:given", name]).ok();
                assert_eq!(stack.image(canonical), Some(target.clone()), "{name}");
                counts.0 += 1;
            }
            ["refused", name, _] => {
                let stderr = stack.docker(["tag", "--", "names:given", name]).fails().stderr;
                assert!(!stderr.to_lowercase().contains("no such image"), "{name}: {stderr}");
                counts.1 += 1;
            }
            _ => panic!("not a row: {row:?}"),
        }
    }
    assert!(counts.0 > 50 && counts.1 > 50, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_can_be_loaded_twice() {
    // Of its own: another test gives these names to its image.
    let stack = &Stack::start(&[Part::Containerd, Part::Dockerd]);
    let engine = docker(stack).await;
    let image = Image::new(&[Layer::new().file("names", "loaded twice").tar()]);
    let accepted: Vec<_> = rows().filter(|row| row[0] == "accepted" && !row[1].contains('@')).collect();
    let unusual = ["my_registry.local/x:1", "docker.io/localhost/x:1", "sha256:1", "[::1]:5000/a/b:1"];
    let given: Vec<_> = accepted.iter().map(|row| row[1]).chain(unusual).collect();
    let all = names(&given);
    export(&*engine, &image, &all).await.unwrap();
    for name in &all {
        assert_eq!(stack.image(&name.to_string()), Some(image.root.digest.to_string()), "{name}");
        let current = engine.already_complete(&image.root, std::slice::from_ref(name)).await.unwrap();
        // What dockerd refuses to tag is loaded once more.
        assert_eq!(current.is_some(), name.name() != "docker.io/library/sha256", "{name}");
    }
    export(&*engine, &image, &all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_calls_itself_is_no_name() {
    let stack = Stack::shared();
    let mut image = Image::new(&[Layer::new().file("names", "of its own").tar()]);
    for (key, value) in [
        ("io.containerd.image.name", "docker.io/library/names-production:latest"),
        ("org.opencontainers.image.ref.name", "names-production:latest"),
        ("io.containerd.manifest.subject", Digest::sha256(b"another").as_str()),
        ("kept", "yes"),
    ] {
        image.root.annotations.insert(key.to_owned(), value.to_owned());
    }
    let digest = image.root.digest.to_string();
    let layout = stack.fresh_path("-layout");
    let selection = Selection { kind: Some(EngineKind::Layout), layout: Some(layout.clone()), ..Selection::default() };
    let engines = [docker(stack).await, containerd(stack, "names-own").await, select(&selection).await.unwrap().engine];
    for engine in engines {
        let kind = engine.identity().kind;
        let images = engine.images().unwrap();
        export(&*engine, &image, &[]).await.unwrap();
        assert_eq!(images.resolve(&"names-production".parse().unwrap()).await.unwrap(), None, "{kind}");
        let found = images.identify(&image.root.digest).await.unwrap().unwrap();
        assert_eq!(
            found.annotations.into_iter().collect::<Vec<_>>(),
            [("kept".to_owned(), "yes".to_owned())],
            "{kind}"
        );
        export(&*engine, &image, &names(&["names-own:1"])).await.unwrap();
        assert_eq!(images.resolve(&"names-production".parse().unwrap()).await.unwrap(), None, "{kind}");
        assert_eq!(
            images.resolve(&names(&["names-own:1"])[0]).await.unwrap().unwrap().digest,
            image.root.digest,
            "{kind}"
        );
    }
    assert_eq!(stack.tagged("moby", "names-production:latest"), None);
    let listed =
        stack.docker(["image", "ls", "--all", "--no-trunc", "--format", "{{.Repository}} {{.ID}}"]).ok().stdout;
    assert!(listed.contains(&format!("names-own {digest}")), "{listed}");
    let index = std::fs::read_to_string(layout.join("index.json")).unwrap();
    assert!(index.contains("names-own:1") && !index.contains("names-production"), "{index}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_a_digest_is_that_images_only() {
    let stack = Stack::shared();
    let [one, other] = ["1", "2"].map(|content| Image::new(&[Layer::new().file("pinned", content).tar()]));
    let layout =
        Selection { kind: Some(EngineKind::Layout), layout: Some(stack.fresh_path("-layout")), ..Selection::default() };
    for engine in [docker(stack).await, containerd(stack, "names-pinned").await, select(&layout).await.unwrap().engine]
    {
        let kind = engine.identity().kind;
        let images = engine.images().unwrap();
        let exports = Exports::new(engine.clone());
        let run = async |image: &Image, name: &str| {
            let request = Request::new(image.root.clone(), names(&[name]), origin());
            exports.run(request, Arc::new(Blobs(image.clone())), Events::none()).await
        };
        let wrong = format!("pinned@{}", one.root.digest);
        for name in [wrong.clone(), format!("pinned:1@{}", one.root.digest)] {
            let error = run(&other, &name).await.unwrap_err();
            assert!(matches!(error, ExportError::NameDigest { .. }), "{kind}: {error}");
            assert_eq!(images.resolve(&name.parse().unwrap()).await.unwrap(), None, "{kind}");
        }
        // Whoever knows better than we do may have set it.
        export(&*engine, &other, &names(&[&wrong])).await.unwrap();
        assert_eq!(images.resolve(&wrong.parse().unwrap()).await.unwrap(), None, "{kind}");
        run(&one, "pinned:1").await.unwrap();
        assert_eq!(images.resolve(&wrong.parse().unwrap()).await.unwrap().unwrap().digest, one.root.digest, "{kind}");
        run(&one, &wrong).await.unwrap();
        assert_eq!(images.resolve(&wrong.parse().unwrap()).await.unwrap().unwrap().digest, one.root.digest, "{kind}");
        exports.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn different_images_under_one_new_name_at_once_all_succeed() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    let images: Vec<_> =
        (0..4).map(|number| Image::new(&[Layer::new().file("raced", format!("by {number}")).tar()])).collect();
    for image in &images {
        export(&*engine, image, &names(&["raced:prepared"])).await.unwrap();
    }
    // Blobs are there, so that the commits meet; a name that nobody has, so that each may find none and make it.
    for round in 0..25 {
        let name = names(&[&format!("raced:{round}")]);
        let all = images.iter().map(|image| export(&*engine, image, &name));
        for outcome in futures_util::future::join_all(all).await {
            outcome.unwrap();
        }
        let found = stack.image(&name[0].to_string()).unwrap();
        assert!(images.iter().any(|image| image.root.digest.as_str() == found), "{found}");
    }
}
