//! A container of Azure's blob storage as an engine, in the emulator that `scripts/stack install --old` brings; where it is not
//! installed that is said.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::commands::layout;
use crate::common::{Run, Stack, file_of, linkspan, text, until};
use crate::fixture::{Image, image, names};

/// An emulator, killed when dropped, and the container in it.
struct Emulator {
    child: Child,
    address: String,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Emulator {
    fn start(stack: &Stack) -> Option<Self> {
        let Some(program) = stack.find_program("azurite-blob") else {
            let note = "azurite-blob is not installed, and az:// not tried; hint: scripts/stack install --old\n";
            // Past the capture of the test's output.
            std::io::stderr().write_all(note.as_bytes()).unwrap();
            return None;
        };
        let (folder, log) = (stack.fresh_path("-azurite"), stack.fresh_path("-azurite.log"));
        fs::create_dir_all(&folder).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let file = File::create(&log).unwrap();
        let (name, value) = stack.mark();
        let mut command = Command::new(program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port, "--location", text(&folder)]);
        command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"]).env(name, value);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut emulator = Self { child: command.spawn().unwrap(), address: format!("127.0.0.1:{port}") };
        let look = || (emulator.child.try_wait().unwrap(), file_of(&log).contains("successfully listens"));
        let (ended, _) = until("azurite to listen", look, |(ended, listens)| ended.is_some() || *listens);
        assert!(ended.is_none(), "azurite ended with {ended:?}:\n{}", file_of(&log));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/azure_container.py");
        stack.run("linkspan-python").args([text(&script), &emulator.address, "images"]).ok();
        Some(emulator)
    }

    /// `linkspan ARGS` with the variables by which it finds the emulator.
    fn with(&self, args: &[&str]) -> Run {
        let run = linkspan(args.iter().copied()).env("AZURE_STORAGE_USE_EMULATOR", "true");
        run.env("AZURITE_BLOB_STORAGE_URL", format!("http://{}", self.address))
    }

    fn on(&self, container: &str, args: &[&str]) -> Run {
        self.with(args).args(["--engine", "object", "--object", &format!("az://{container}/some/prefix")])
    }
}

/// As long as several parts of a multipart upload.
fn large() -> Image {
    image(&"what is in a container\n".repeat(600_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_azure_is_an_engine_as_a_bucket_is() {
    let Some(emulator) = Emulator::start(Stack::shared()) else { return };
    let image = large();
    let folder = layout(&image, "demo:1").await;
    let from = format!("oci:{}:demo:1", text(folder.path()));
    let copy = |to: &str| emulator.with(&["copy", &from, &format!("az://images/some/prefix:{to}"), "--json"]).ok();
    let [first, again] = [copy("demo:1"), copy("demo:1")];
    assert_ne!(first.stdout, again.stdout, "the second one had nothing to send");
    copy("stays:1");
    let listed = emulator.on("images", &["images", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}"]).ok();
    let digest = &image.root.digest;
    assert_eq!(listed.lines(), [format!("demo:1 {digest}"), format!("stays:1 {digest}")]);

    // Its preconditions are those that tags and collections need.
    let collect = || emulator.on("images", &["gc", "--grace", "0s", "--json"]).ok().stdout;
    emulator.on("images", &["rm", "demo:1"]).ok();
    collect();
    let archive = Stack::shared().fresh_path(".tar");
    emulator.on("images", &["save", "-o", text(&archive), "stays:1"]).ok();
    let back = tempfile::tempdir().unwrap();
    let to = format!("oci:{}:back:1", text(back.path()));
    emulator.with(&["copy", "az://images/some/prefix:stays:1", &to]).ok();
    let resolved = crate::names::layout(back.path()).await.resolve(&names(&["back:1"])[0]).await.unwrap();
    assert_eq!(resolved.as_ref(), Some(digest));
    emulator.on("images", &["rm", "stays:1"]).ok();
    // The times of a store are whole seconds: the first collections find all of it too young.
    let mut deleted = String::new();
    let blobs: Vec<_> = [&image.root, &image.config].into_iter().chain(&image.layers).collect();
    let mut look = || {
        deleted += &collect();
        blobs.iter().filter(|blob| !deleted.contains(blob.digest.as_str())).count()
    };
    until("all blobs to be deleted", &mut look, |left| *left == 0);

    let absent = emulator.on("absent", &["images"]).fails().stderr;
    assert!(absent.contains("ContainerNotFound") && absent.contains("AZURE_STORAGE_ACCOUNT_NAME"), "{absent}");
}
