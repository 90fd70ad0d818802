//! Several processes on one layout, and processes that are killed.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use linkspan::engine::{Lifetime, Opened};

use crate::fixture::{Image, Layer, begin, export, names, origin, send};
use crate::{layout, listed};

const LAYOUT: &str = "LINKSPAN_TEST_LAYOUT";
const PART: &str = "LINKSPAN_TEST_PART";
/// How many images each of the processes exports.
const IMAGES: usize = 10;

/// Runs one of the ignored tests below in a process of its own.
fn child(test: &str, root: &Path, part: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", &format!("processes::{test}")]).env(LAYOUT, root).env(PART, part);
    command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}

fn large() -> Image {
    Image::new(&[Layer::new().file("large", vec![7; 5 << 20]).tar(), Layer::new().file("small", "1").tar()])
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(work);
}

#[test]
#[ignore = "a part of names_of_all_processes_are_kept"]
fn export_some() {
    run(async {
        let (engine, part) = (layout(variable(LAYOUT).as_ref()).await, variable(PART));
        for number in 0..IMAGES {
            let own = format!("{part}-{number}");
            let image = Image::new(&[Layer::new().file("same", "same").tar(), Layer::new().file("own", &own).tar()]);
            // The one name moves all the time, so that much is collected meanwhile.
            export(&*engine, &image, &names(&[&format!("own:{own}"), "moving:1"])).await.unwrap();
        }
    });
}

#[test]
#[ignore = "a part of a_killed_export_is_resumed"]
fn be_killed() {
    run(async {
        let engine = layout(variable(LAYOUT).as_ref()).await;
        let image = large();
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let transaction = begin(&lease, image.graph()).await.unwrap();
        send(&*transaction, &image.layers[1], &image.blobs[&image.layers[1].digest]).await.unwrap();
        let bytes = &image.blobs[&image.layers[0].digest];
        if variable(PART) == "transfer" {
            let Opened::Writer(mut writer) = transaction.writer(&image.layers[0]).await.unwrap() else {
                panic!("missing")
            };
            for at in 0..4 {
                writer.write(bytes.slice(at << 20..(at + 1) << 20)).await.unwrap();
            }
        } else {
            send(&*transaction, &image.layers[0], bytes).await.unwrap();
        }
        if variable(PART) == "settled" {
            transaction.prepare().await.unwrap();
        }
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_all_processes_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..4).map(|number| child("export_some", folder.path(), &number.to_string())).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let engine = layout(folder.path()).await;
    assert_eq!(listed(&*engine).await.len(), 4 * IMAGES + 1);
    for (name, digest) in listed(&*engine).await {
        let reference = name.parse().unwrap();
        let root = engine.images().unwrap().resolve(&reference).await.unwrap().unwrap();
        assert_eq!(root.digest.to_string(), digest);
        assert_eq!(engine.already_complete(&root, &[reference]).await.unwrap(), Some(4), "{name} is complete");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_export_is_resumed() {
    for part in ["transfer", "sent", "settled"] {
        let folder = tempfile::tempdir().unwrap();
        let engine = layout(folder.path()).await;
        let ours = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let ended = child("be_killed", folder.path(), part).wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "{part}: {ended}");
        assert_eq!(listed(&*engine).await, [], "{part}: nothing is visible");
        assert_eq!(engine.recover().await.unwrap(), 1, "{part}: the lease of the one that lives stays");

        let image = large();
        let transaction = begin(&ours, image.graph()).await.unwrap();
        match (part, transaction.writer(&image.layers[0]).await.unwrap()) {
            ("transfer", Opened::Writer(writer)) => assert!(writer.offset() >= 2 << 20, "{}", writer.offset()),
            ("sent" | "settled", Opened::Present) => {}
            (part, opened) => panic!("{part}: {opened:?}"),
        }
        assert_eq!(transaction.plan().missing.is_empty(), part == "settled");
        ours.release().await.unwrap();
        export(&*engine, &image, &names(&["killed:1"])).await.unwrap();
        assert_eq!(engine.already_complete(&image.root, &names(&["killed:1"])).await.unwrap(), Some(4));
        assert_eq!(engine.recover().await.unwrap(), 0);
    }
}
