//! Where containerd's files are not accessible for certain, or it was chosen, containerd unpacks.

use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};

use crate::common::Stack;
use crate::fixture::{Image, Layer, containerd_selection, export, names};
use crate::log;
use linkspan::engine::select::{ApplierChoice, Selection, select};

/// As `ssh -L` forwards it, perhaps from another host: what is at containerd's paths here is none of its files then.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_forwarded_socket_containerd_unpacks() {
    log::listen();
    let stack = Stack::shared();
    let path = stack.fresh_path(".sock");
    let listener = UnixListener::bind(&path).unwrap();
    let upstream = stack.containerd_address().to_owned();
    let forwarding = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = UnixStream::connect(&upstream).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let selection = Selection { containerd_address: Some(path), ..containerd_selection(stack, "forwarded") };
    let engine = select(&selection).await.unwrap().engine;
    let image = Image::new(&[Layer::new().file("one", "1").tar(), Layer::new().file("two", "2").tar()]);
    export(&*engine, &image, &names(&["forwarded:1"])).await.unwrap();
    assert_eq!(stack.snapshots("forwarded").len(), 2);
    let reason = log::all_left().unwrap();
    assert!(reason.contains(&format!("belongs to the process {}", std::process::id())), "{reason}");
    forwarding.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_containerd_was_chosen_it_unpacks() {
    log::listen();
    let stack = Stack::shared();
    let selection = Selection { layer_applier: ApplierChoice::Containerd, ..containerd_selection(stack, "chosen") };
    let engine = select(&selection).await.unwrap().engine;
    let image = Image::new(&[Layer::new().file("one", "1").tar(), Layer::new().file("two", "2").tar()]);
    export(&*engine, &image, &names(&["chosen:1"])).await.unwrap();
    assert_eq!(stack.snapshots("chosen").len(), 2);
    let reasons = log::all_left().unwrap();
    assert!(reasons.lines().any(|reason| reason == "as configured"), "{reasons}");
}
