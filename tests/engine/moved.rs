//! Names that point to another image by then: what is removed, and what is given back.

use linkspan::engine::EngineError;
use linkspan::engine::images::Record;
use linkspan::image::Digest;

use crate::common::Stack;
use crate::fixture::{Image, Layer, containerd, docker, export, names};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_image_has_by_now_is_not_removed() {
    let stack = Stack::shared();
    for (engine, namespace) in [(docker(stack).await, "moby"), (containerd(stack, "moved").await, "moved")] {
        let image = |content| Image::new(&[Layer::new().file("moved", format!("{namespace} {content}")).tar()]);
        let [one, other] = ["one", "other"].map(image);
        for image in [&one, &other] {
            export(&*engine, image, &names(&["moved:1"])).await.unwrap();
        }
        let name = "docker.io/library/moved:1".to_owned();
        let record = |image: &Image| Record { name: Some(name.clone()), target: image.root.clone() };
        let error = engine.remove(&record(&one), true).await.unwrap_err();
        assert!(
            matches!(&error, EngineError::NameMoved { current: Some(current), .. } if *current == other.root.digest),
            "{error}"
        );
        assert_eq!(stack.image_of(namespace, &name), Some(other.root.digest.to_string()));
        engine.remove(&record(&other), true).await.unwrap();
        assert_eq!(stack.image_of(namespace, &name), None);
        // What is gone is fine.
        engine.remove(&record(&one), true).await.unwrap();
    }
}

/// dockerd sets all names, and says afterwards that the image cannot be unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_docker_has_set_before_it_refused_are_given_back() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    let layer = |content: &str| Layer::new().file("refused", content).tar();
    let [old, kept, third] = ["old", "kept", "third"].map(|content| Image::new(&[layer(content)]));
    export(&*engine, &old, &names(&["refused:moves"])).await.unwrap();
    // A name that it loses leaves an image that somebody may want to have.
    for image in [&kept, &third, &kept] {
        export(&*engine, image, &names(&["refused:also"])).await.unwrap();
    }
    // More diff ids than layers: nothing that could be unpacked while it arrives.
    let bytes = layer("bad");
    let bad = Image::with_diff_ids(std::slice::from_ref(&bytes), &[Digest::sha256(&bytes), Digest::sha256(b"another")]);
    let given = names(&["refused:new", "refused:moves", "refused:also"]);
    let error = export(&*engine, &bad, &given).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::Commit { engine: "docker", reason } if reason.contains("Error unpacking")),
        "{error}"
    );
    let full = |tag: &str| format!("docker.io/library/refused:{tag}");
    let unnamed = |image: &Image| format!("moby-dangling@{}", image.root.digest);
    assert_eq!(stack.image(&full("new")), None);
    assert_eq!(stack.image(&full("moves")), Some(old.root.digest.to_string()));
    assert_eq!(stack.image(&full("also")), Some(kept.root.digest.to_string()));
    assert_eq!((stack.image(&unnamed(&bad)), stack.image(&unnamed(&old))), (None, None));
    assert_eq!(stack.image(&unnamed(&kept)), Some(kept.root.digest.to_string()), "it was there before");

    let error = export(&*engine, &bad, &[]).await.unwrap_err();
    assert!(matches!(error, EngineError::Commit { .. }), "{error}");
    assert_eq!(stack.image(&unnamed(&bad)), None);
}
