//! Outputs that are left in folders of the server, where policy allows it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use linkspan::export_v1::proto::commit_response::Event;
use linkspan::export_v1::proto::{
    CapabilitiesRequest, CommitRequest, CommitResults, ExportState, ExporterResult, OpenRequest, Reason,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::archives::read;
use crate::client::{Client, fields, reason, small_image, success, target};
use crate::common::{Disk, Stack, until};
use crate::files::{flattened, open_with, with};
use crate::fixture::{Image, Layer};
use crate::layer_features;
use crate::listing::{listing, same};
use crate::server::Server;

/// A server that may leave outputs in a folder, and that folder.
fn server(namespace: Option<&str>) -> (Server, PathBuf) {
    let allowed = crate::common::Stack::shared().fresh_path("-allowed");
    fs::create_dir(&allowed).unwrap();
    let args = ["--allow-output-dir", allowed.to_str().unwrap()];
    let server = match namespace {
        Some(namespace) => Server::containerd_with(namespace, &args),
        None => Server::layout_with(&args).0,
    };
    (server, allowed)
}

async fn leave(
    client: &Client,
    image: &Image,
    kind: &str,
    names: &[&str],
    attributes: &[(&str, &str)],
) -> (String, CommitResults) {
    let export = open_with(client, kind, attributes).await;
    client.send(&export, image).await;
    let results = client.commit(&export, vec![target("a", image, names)]).await.unwrap();
    (export, results)
}

/// What is in a folder.
fn entries(folder: &Path) -> Vec<String> {
    let mut found: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_left_as_they_are_streamed() {
    let image = layer_features::image();
    for namespace in [None, Some("left-files")] {
        let (server, allowed) = server(namespace);
        let client = server.client().await;
        let features = client.exports.clone().capabilities(CapabilitiesRequest {}).await.unwrap().into_inner().features;
        assert!(features.contains(&"output-dest".to_owned()), "{features:?}");
        let streamed = flattened(&client, &image, &[]).await;
        let (export, results) = leave(&client, &image, "local", &[], &[("dest", "some/where")]).await;
        assert_eq!((success(&results).r#type.as_str(), results.state()), ("local", ExportState::Committed));
        same(&listing(&streamed), &listing(&layer_features::tar(&allowed.join("some/where"), &["."])));
        assert!(read(&client, &export, "a", 0).await.is_err(), "it is not kept twice");

        let file = allowed.join("files.tar");
        let (_, results) = leave(&client, &image, "tar", &[], &[("dest", file.to_str().unwrap())]).await;
        success(&results);
        assert!(fs::read(&file).unwrap() == streamed);
        assert_eq!(entries(&allowed), ["files.tar", "some"], "nothing else is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_and_layouts_are_read_back() {
    let image = crate::fixture::image("left\n");
    for namespace in [None, Some("left-archives")] {
        let (server, allowed) = server(namespace);
        let (client, stack) = (server.client().await, server.stack);
        for (kind, tar, dest) in
            [("docker", "true", "docker.tar"), ("oci", "false", "layout"), ("oci", "true", "oci.tar")]
        {
            let name = format!("left-{kind}:1");
            let (_, results) = leave(&client, &image, kind, &[&name], &[("dest", dest), ("tar", tar)]).await;
            let result = success(&results);
            assert_eq!(result.response["image.name"], format!("docker.io/library/{name}"));
        }
        stack.docker(["load", "-i"]).arg(allowed.join("docker.tar")).ok();
        let digest = stack.tagged("moby", "left-docker:1");
        assert_eq!(digest, Some(image.root.digest.to_string()));
        for from in [
            format!("oci:{}:1", allowed.join("layout").display()),
            format!("oci-archive:{}:1", allowed.join("oci.tar").display()),
        ] {
            let raw = stack.run("skopeo").args(["inspect", "--raw", &from]).ok().stdout;
            assert_eq!(raw.as_bytes(), &image.blobs[&image.root.digest][..]);
        }
        let to = format!("{}/left:1", stack.registry());
        stack.run("crane").args(["push", "--insecure"]).arg(allowed.join("layout")).arg(&to).ok();
        let pushed = stack.run("crane").args(["digest", "--insecure", &to]).ok();
        assert_eq!(pushed.stdout.trim(), image.root.digest.to_string());
        assert_eq!(entries(&allowed), ["docker.tar", "layout", "oci.tar"]);
    }
}

async fn open_status(client: &Client, kind: &str, attributes: &[(&str, &str)]) -> tonic::Status {
    let request = OpenRequest { exporters: vec![with("a", kind, attributes)], ..OpenRequest::default() };
    client.exports.clone().open(request).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_folders_are_written_to() {
    let client = Server::layout().0;
    let client_without = client.client().await;
    let denied = open_status(&client_without, "tar", &[("dest", "x.tar")]).await;
    assert_eq!((denied.code(), reason(&denied).as_str()), (Code::PermissionDenied, "DEST_DENIED"));
    assert!(denied.message().contains("--allow-output-dir"), "{}", denied.message());
    assert_eq!(fields(&denied), ["exporters[0].attributes[dest]"]);

    let (server, allowed) = server(None);
    let client = server.client().await;
    for dest in ["/etc/passwd", "/"] {
        let denied = open_status(&client, "local", &[("dest", dest)]).await;
        assert_eq!((denied.code(), reason(&denied).as_str()), (Code::PermissionDenied, "DEST_DENIED"));
        let details = denied.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["allowed"], allowed.to_str().unwrap());
    }
    let long = "x/".repeat(2100);
    for dest in ["../x", "a/../../x", "", ".", allowed.to_str().unwrap(), ".linkspan-x/y", "a\0b", &long] {
        let wrong = open_status(&client, "local", &[("dest", dest)]).await;
        assert_eq!(
            (wrong.code(), fields(&wrong)),
            (Code::InvalidArgument, vec!["exporters[0].attributes[dest]".to_owned()])
        );
    }
    let wrong = open_status(&client, "oci", &[("tar", "false")]).await;
    assert_eq!(fields(&wrong), ["exporters[0].attributes[tar]"]);
    let wrong = open_status(&client, "image", &[("dest", "x")]).await;
    assert_eq!(fields(&wrong), ["exporters[0].attributes[dest]"]);
    assert_eq!(entries(&allowed), Vec::<String>::new());
}

/// The refusal of the only result.
fn error(results: &CommitResults) -> (Reason, String) {
    let [ExporterResult { error: Some(error), .. }] = &results.results[..] else { panic!("{results:?}") };
    (error.reason(), error.message.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_replaced_and_no_link_is_followed() {
    let (server, allowed) = server(None);
    let client = server.client().await;
    let image = small_image("mine");
    let outside = server.stack.fresh_path("-outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, allowed.join("link")).unwrap();
    fs::create_dir_all(allowed.join("full")).unwrap();
    fs::write(allowed.join("full/file"), "precious").unwrap();
    fs::create_dir(allowed.join("empty")).unwrap();
    let before = entries(&allowed);

    for (kind, dest) in
        [("local", "full"), ("local", "full/file"), ("tar", "full"), ("tar", "full/file"), ("local", "link")]
    {
        let (_, results) = leave(&client, &image, kind, &[], &[("dest", dest)]).await;
        let (reason, message) = error(&results);
        assert_eq!(reason, Reason::DestTaken, "{kind} {dest}: {message}");
        assert!(message.contains(dest) && message.contains("remove it"), "{message}");
    }
    for dest in ["link/x", "full/file/x"] {
        let (_, results) = leave(&client, &image, "local", &[], &[("dest", dest)]).await;
        let (reason, message) = error(&results);
        assert_eq!(reason, Reason::InvalidField, "{message}");
        assert!(message.contains("no folder"), "{message}");
    }
    assert_eq!(fs::read_to_string(allowed.join("full/file")).unwrap(), "precious");
    assert_eq!((entries(&outside), entries(&allowed)), (vec![], before));

    let (export, results) = leave(&client, &image, "local", &[], &[("dest", "empty")]).await;
    success(&results);
    assert_eq!(fs::read_to_string(allowed.join("empty/etc/greeting")).unwrap(), "mine");
    // The same Commit again, and the same of another export.
    success(&client.commit(&export, vec![target("a", &image, &[])]).await.unwrap());
    let (_, results) = leave(&client, &image, "local", &[], &[("dest", "empty")]).await;
    assert_eq!(error(&results).0, Reason::DestTaken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_leaves_nothing_and_a_restart_takes_away_what_a_crash_left() {
    let (mut server, allowed) = server(None);
    let client = server.client().await;
    let bad = Image::new(&[Layer::new().file("a/file", "x").tar(), bytes::Bytes::from_static(&[b'x'; 4096])]);
    for kind in ["tar", "local"] {
        let (_, results) = leave(&client, &bad, kind, &[], &[("dest", "new/place")]).await;
        assert_eq!(error(&results).0, Reason::DocumentInvalid);
    }
    assert_eq!(entries(&allowed), Vec::<String>::new());

    // What a crash leaves: a stage that nobody has locked, be it closed to everybody.
    let stage = allowed.join(".linkspan-crashed");
    fs::create_dir_all(stage.join("output/closed")).unwrap();
    fs::write(stage.join("output/closed/file"), "half").unwrap();
    fs::set_permissions(stage.join("output/closed"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::write(allowed.join("kept"), "somebody's").unwrap();
    server.linkspan.terminate();
    drop(client);
    let args = ["--allow-output-dir", allowed.to_str().unwrap()];
    let again = Server::layout_with(&args).0;
    assert_eq!(entries(&allowed), ["kept"]);

    // An export that outlived a restart is committed again, and finds its output.
    let image = small_image("mine");
    let client = again.client().await;
    let request = OpenRequest {
        export_id: "twice".to_owned(),
        exporters: vec![with("a", "local", &[("dest", "out")]), with("b", "image", &[])],
        ..OpenRequest::default()
    };
    client.exports.clone().open(request).await.unwrap();
    client.send("twice", &image).await;
    success(&client.commit("twice", vec![target("a", &image, &[])]).await.unwrap());
    let inode = fs::metadata(allowed.join("out")).unwrap().ino();
    let mut again = again;
    again.linkspan.kill();
    again.restart_with(&args);
    let client = again.client().await;
    success(&client.commit("twice", vec![target("a", &image, &[])]).await.unwrap());
    assert_eq!(fs::metadata(allowed.join("out")).unwrap().ino(), inode, "it is the one that was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_an_image_lead_nowhere_when_it_is_left() {
    let (server, allowed) = server(None);
    let client = server.client().await;
    let outside = server.stack.fresh_path("-outside");
    fs::create_dir(&outside).unwrap();
    // The image's own link to a folder of this machine, and a file that is written through it.
    let link = layer_features::Folder::new().symlink("way", outside.to_str().unwrap()).tar(&["way"]);
    let through = layer_features::Folder::new().file("way/file", "through", 0o644, 0).tar(&["way/file"]);
    let (_, results) = leave(&client, &Image::new(&[link, through]), "local", &[], &[("dest", "out")]).await;
    success(&results);
    assert_eq!(entries(&outside), Vec::<String>::new());
    let inside = allowed.join("out").join(outside.strip_prefix("/").unwrap()).join("file");
    assert_eq!(fs::read_to_string(inside).unwrap(), "through");
    assert_eq!(fs::read_link(allowed.join("out/way")).unwrap(), outside);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_nothing() {
    let disk = Disk::new(32 << 20);
    let root = disk.root();
    let server = Server::layout_with(&["--allow-output-dir", root.to_str().unwrap()]).0;
    let client = server.client().await;
    let image = Image::new(&[Layer::new().file("large", vec![7; 8 << 20]).tar()]);
    disk.fill(1 << 20);
    let before = entries(&root);
    for kind in ["tar", "local", "oci"] {
        let (_, results) = leave(&client, &image, kind, &[], &[("dest", "out")]).await;
        let (reason, message) = error(&results);
        assert_eq!(reason, Reason::NoSpace, "{message}");
        assert!(message.contains("no room for") && message.contains("/out"), "{message}");
        assert_eq!(entries(&root), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_disk_is_not_begun() {
    let disk = Disk::new(32 << 20);
    let root = disk.root();
    let server = Server::layout_with(&["--allow-output-dir", root.to_str().unwrap()]).0;
    let client = server.client().await;
    // A few KiB that decompress to more than there is room for, and a file that is nothing but a hole.
    let large = Layer::new().file("zeros", vec![0; 40 << 20]).tar();
    let packed = layer_features::compressed(&large, "zstd -c");
    let host = linkspan::image::Platform::host().architecture;
    let bomb = Image::compressed(&[("+zstd", packed)], &[linkspan::image::Digest::sha256(&large)], &host);
    let folder = tempfile::tempdir().unwrap();
    fs::File::create(folder.path().join("hole")).unwrap().set_len(1 << 40).unwrap();
    let archive = folder.path().join("layer.tar");
    let made = crate::common::Run::new("tar").arg("-C").arg(folder.path()).args(["--sparse", "--format=pax", "-cf"]);
    made.arg(&archive).arg("hole").ok();
    let hole = Image::new(&[fs::read(archive).unwrap().into()]);
    let before = entries(&root);
    for (image, expected) in [(&bomb, Reason::NoSpace), (&hole, Reason::LimitExceeded)] {
        for kind in ["tar", "local"] {
            let (_, results) = leave(&client, image, kind, &[], &[("dest", "out")]).await;
            let (reason, message) = error(&results);
            assert_eq!(reason, expected, "{kind}: {message}");
            assert_eq!(entries(&root), before);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_of_another_kind_is_another_output() {
    let image = Image::new(&[Layer::new().file("file", "content").tar()]);
    let (mut first, allowed) = server(None);
    // The same export id on servers that know nothing of each other, as after its end.
    let commit = async |server: &Server, kind: &str, attributes: &[(&str, &str)], names: &[&str]| {
        let client = server.client().await;
        let attributes: Vec<_> = attributes.iter().copied().chain([("dest", "out")]).collect();
        let request = OpenRequest {
            export_id: "same".to_owned(),
            exporters: vec![with("a", kind, &attributes), with("b", "image", &[])],
            ..OpenRequest::default()
        };
        client.exports.clone().open(request).await.unwrap();
        client.send("same", &image).await;
        client.commit("same", vec![target("a", &image, names)]).await.unwrap()
    };
    success(&commit(&first, "oci", &[], &["one:1"]).await);
    let inode = fs::metadata(allowed.join("out")).unwrap().ino();
    let args = ["--allow-output-dir", allowed.to_str().unwrap()];
    for (kind, attributes, names) in [
        ("docker", &[][..], &["one:1"][..]),
        ("tar", &[], &[]),
        ("oci", &[("tar", "false")], &["one:1"]),
        ("oci", &[], &["two:1"]),
    ] {
        let results = commit(&Server::layout_with(&args).0, kind, attributes, names).await;
        assert_eq!(error(&results).0, Reason::DestTaken, "{kind} {attributes:?} {names:?}");
    }
    first.linkspan.kill();
    first.restart_with(&args);
    success(&commit(&first, "oci", &[], &["one:1"]).await);
    assert_eq!(fs::metadata(allowed.join("out")).unwrap().ino(), inode);
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_gets_what_that_user_can_make() {
    let image = Image::new(&[layer_features::Folder::new()
        .file("ping", "opens raw sockets", 0o755, 3)
        .capability("ping")
        .file("plain", "content", 0o4640, 4)
        .tar(&["ping", "plain"])]);
    // The program may lie where only root comes.
    let place = tempfile::Builder::new().prefix("nobody-").tempdir_in("/tmp").unwrap();
    let (path, program) = (place.path(), place.path().join("linkspan"));
    fs::copy(env!("CARGO_BIN_EXE_linkspan"), &program).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let own = path.join("own");
    fs::create_dir_all(own.join("out")).unwrap();
    for folder in [&own, &own.join("out")] {
        std::os::unix::fs::chown(folder, Some(65_534), Some(65_534)).unwrap();
    }
    let door = own.join("export.sock");
    let (name, value) = Stack::shared().mark();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["serve", "--engine", "layout"]);
    command.arg("--layout").arg(own.join("layout")).arg("--allow-output-dir").arg(own.join("out"));
    command.arg(format!("--export-listen=unix://{}", door.display())).env(name, value);
    let _server = Ended(command.stdin(Stdio::null()).spawn().unwrap());
    until("the door to open", || UnixStream::connect(&door).is_ok(), |open| *open);
    let client = Client::connect(&door).await;
    let export = open_with(&client, "local", &[("dest", "files")]).await;
    client.send(&export, &image).await;
    let request = CommitRequest { export_id: export, targets: vec![target("a", &image, &[])] };
    let mut responses = client.exports.clone().commit(request).await.unwrap().into_inner();
    let mut notes = String::new();
    while let Some(response) = responses.message().await.unwrap() {
        match response.event.unwrap() {
            Event::Progress(progress) => notes += &progress.note,
            Event::Results(results) => _ = success(&results),
        }
    }
    let note = "refused the extended attribute security.capability: left out of one file, such as `ping`";
    assert!(notes.contains(note), "{notes}");
    let mode = |name: &str| fs::metadata(own.join("out/files").join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("ping"), mode("plain")), (0o755, 0o4640));
    assert_eq!(fs::read_to_string(own.join("out/files/ping")).unwrap(), "opens raw sockets");
}
