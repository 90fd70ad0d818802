//! A registry that has the bucket as its storage serves what was exported, and what it was pushed is read from the bucket.

use crate::common::{Minio, Run, Stack, text};
use crate::fixture::{Image, Layer, export, image, names};

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_serves_what_was_exported_into_its_bucket() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let registry = bucket.registry(stack);
    let engine = bucket.engine().await.unwrap().engine;
    let one = image("served by a registry\n");
    let foreign = Image::foreign(&[Layer::new().file("a", "b").tar()]);
    let both = Image::index(&[one.clone(), foreign]);
    for (image, name) in [(&one, "app:1"), (&both, "ghcr.io/o/multi:1"), (&one, "ghcr.io/o/multi:2")] {
        export(&*engine, image, &names(&[name])).await.unwrap();
    }
    let crane = |args: &[&str]| stack.run("crane").args(args).ok().stdout.trim().to_owned();
    for (path, image) in [("app:1", &one), ("ghcr.io/o/multi:1", &both)] {
        let name = format!("{}/{path}", registry.address);
        assert_eq!(crane(&["digest", &name]), image.root.digest.as_str());
        let pulled = tempfile::tempdir().unwrap();
        crane(&["pull", "--format", "oci", &name, text(pulled.path())]);
    }
    assert_eq!(crane(&["ls", &format!("{}/ghcr.io/o/multi", registry.address)]), "1\n2");
    let catalog = crane(&["catalog", &registry.address]);
    assert!(catalog.contains("app") && catalog.contains("ghcr.io/o/multi"), "{catalog}");
    let copy = ["--insecure-policy", "copy", "--src-tls-verify=false"];
    let folder = tempfile::tempdir().unwrap();
    let from = format!("docker://{}/app:1", registry.address);
    Run::new("skopeo").args(copy).args([&from, &format!("oci:{}:1", text(folder.path()))]).ok();
    // And a docker pulls and runs it.
    let name = format!("{}/app:1", registry.address);
    stack.docker(["pull", &name]).ok();
    let output = stack.docker(["run", "--rm", &name, "cat", "/etc/greeting"]).ok().stdout;
    assert_eq!(output, "served by a registry\n");
    // A tag that moves is seen at once.
    let two = image("the next one\n");
    export(&*engine, &two, &names(&["app:1"])).await.unwrap();
    assert_eq!(crane(&["digest", &name]), two.root.digest.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_was_pushed_is_read_from_its_bucket() {
    let (stack, bucket) = (Stack::shared(), Minio::shared().bucket());
    let registry = bucket.registry(stack);
    let (pushed, folder) = (image("pushed to a registry\n"), tempfile::tempdir().unwrap());
    export(&*crate::names::layout(folder.path()).await, &pushed, &names(&["x:1"])).await.unwrap();
    for path in ["app:1", "user/app:2", "ghcr.io/o/app:3"] {
        stack.run("crane").args(["push", text(folder.path()), &format!("{}/{path}", registry.address)]).ok();
    }
    let listed = bucket.linkspan(["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().stdout;
    assert_eq!(
        listed.split_whitespace().collect::<std::collections::BTreeSet<_>>(),
        ["app:1", "ghcr.io/o/app:3", "user/app:2"].into()
    );
    let back = tempfile::tempdir().unwrap();
    let from = format!("{}:user/app:2", bucket.address());
    bucket.with(["copy", &from, &format!("oci:{}:back:1", text(back.path()))]).ok();
    let resolved = crate::names::layout(back.path()).await.resolve(&names(&["back:1"])[0]).await.unwrap();
    assert_eq!(resolved, Some(pushed.root.digest.clone()));
    // What the registry has is not sent again.
    let engine = bucket.engine().await.unwrap().engine;
    let plan = export(&*engine, &pushed, &names(&["again:1"])).await.unwrap();
    assert_eq!((plan.missing.len(), plan.stored.len()), (0, 0), "{plan:?}");
    let name = format!("{}/again:1", registry.address);
    assert_eq!(stack.run("crane").args(["digest", &name]).ok().stdout.trim(), pushed.root.digest.as_str());
    // A tag that is removed here is gone there.
    bucket.linkspan(["rm", "again:1"]).ok();
    stack.run("crane").args(["digest", &name]).fails();
    assert_eq!(stack.run("crane").args(["ls", &format!("{}/again", registry.address)]).output().stdout.trim(), "");
}
