//! How much is asked for and sent, counted on the wire.

use std::io::Write as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::{Buildkitd, Context, Stack, read_some, text};
use crate::fixture::{Image, Layer, export, names};
use crate::served::{Served, layout};

/// A way to a server on which everything that clients say is noted.
struct Noted {
    address: String,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Noted {
    fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, said) = (listener.local_addr().unwrap().to_string(), Arc::<Mutex<Vec<u8>>>::default());
        let (server, notes) = (server.to_owned(), said.clone());
        // It ends with the process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let notes = notes.clone();
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(from, to, |bytes| notes.lock().unwrap().extend_from_slice(bytes)));
                thread::spawn(move || pass(server, client, |_| {}));
            }
        });
        Self { address, said }
    }

    /// How often each method was used since the last question, and how many of the requests name `text`.
    fn requests(&self, naming: &str) -> (Vec<(&'static str, usize)>, usize) {
        let said = std::mem::take(&mut *self.said.lock().unwrap());
        let said = String::from_utf8_lossy(&said);
        // A request may follow a body without a line end in between.
        let methods = ["HEAD", "GET", "POST", "PATCH", "PUT"];
        let counts = methods.map(|method| (method, said.matches(&format!("{method} /v2/")).count()));
        let used = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        let lines = said.lines().filter(|line| line.ends_with(" HTTP/1.1"));
        (used, lines.filter(|line| line.contains(naming)).count())
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, note: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = read_some(&mut from, &mut buffer) {
        note(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either may be gone already.
    let _ = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Write));
}

/// A push of what is there asks once for each blob and for the manifest, and sends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_100_layers_that_are_there_only_asks() {
    const LAYERS: usize = 100;
    let stack = Stack::shared();
    let served = Served::docker(&["--registry-writable"]).await;
    let noted = Noted::before(&served.address);
    let builder = stack.builder(stack.buildkit_host());
    let copies: String = (0..LAYERS).map(|layer| format!("COPY f{layer} /f{layer}\n")).collect();
    let context = Context::new(&format!("FROM scratch\n{copies}"));
    let context = (0..LAYERS).fold(context, |it, layer| it.file(&format!("f{layer}"), format!("layer {layer}\n")));
    let name = format!("{}/traffic/many:1", noted.address);
    let push = || builder.build(context.path(), ["--push", "--provenance", "false", "-t", &name]).ok();
    push();
    let (first, _) = noted.requests("sha256:");
    assert!(first.contains(&("PUT", LAYERS + 2)), "{first:?}");
    push();
    let (again, blobs) = noted.requests("sha256:");
    // Each layer, the config, and the manifest by its tag.
    assert_eq!(again, [("HEAD", LAYERS + 2)]);
    assert_eq!(blobs, LAYERS + 1);
}

/// A builder that never fetched a layer pushes it to an engine that has it: nobody fetches it then.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_has_is_not_fetched_for_a_push() {
    let stack = Stack::shared();
    let base = Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", "lazy\n").tar()]);
    let folder = tempfile::tempdir().unwrap();
    export(&*layout(folder.path()).await, &base, &names(&["base:1"])).await.unwrap();
    let upstream = format!("{}/traffic/base:1", stack.registry());
    stack.run("crane").args(["push", text(folder.path()), &upstream]).ok();
    let noted = Noted::before(stack.registry());
    let context = Context::new(&format!("FROM {}/traffic/base:1\nLABEL a=b\n", noted.address));
    let has = Served::containerd("registry-has", &["--registry-writable"]).await;
    export(&*has.engine, &base, &names(&["base:1"])).await.unwrap();
    let lacks = Served::layout(&["--registry-writable"]).await;
    for (served, is_there) in [(&has, true), (&lacks, false)] {
        let buildkitd = Buildkitd::start(stack, "buildkitd");
        let builder = stack.builder(&buildkitd.address());
        let name = format!("{}/traffic/lazy:1", served.address);
        builder.build(context.path(), ["--push", "--provenance", "false", "-t", &name]).ok();
        for layer in &base.layers {
            assert_eq!(served.head(&format!("/v2/traffic/lazy/blobs/{}", layer.digest)).status, 200);
        }
        let (_, fetched) = noted.requests(&format!("/blobs/{}", base.layers[0].digest));
        assert_eq!(fetched == 0, is_there, "{fetched} requests");
    }
}
