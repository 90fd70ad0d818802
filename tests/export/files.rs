//! `tar` and `local`: an image's layers, laid over each other, as the engine and BuildKit do it.

use std::fs;

use bytes::Bytes;
use linkspan::export_v1::proto::{ExportState, Exporter, OpenRequest, Reason};
use linkspan::image::Digest;

use crate::archives::{open, read};
use crate::client::{Client, exporter, success, target};
use crate::common::{Context, Run};
use crate::fixture::{Image, Layer};
use crate::layer_features::{self, Folder};
use crate::listing::{Listing, has_folders, listing, same};
use crate::server::Server;

/// What docker puts into every container, and folders whose time that changes.
const DOCKERS: [&str; 12] = [
    ".dockerenv",
    "dev",
    "dev/console",
    "dev/pts",
    "dev/shm",
    "etc",
    "etc/hosts",
    "etc/hostname",
    "etc/mtab",
    "etc/resolv.conf",
    "proc",
    "sys",
];

pub(crate) fn with(id: &str, kind: &str, attributes: &[(&str, &str)]) -> Exporter {
    let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Exporter { r#type: kind.to_owned(), attributes, ..exporter(id) }
}

/// Opens an export with one exporter `a`.
pub(crate) async fn open_with(client: &Client, kind: &str, attributes: &[(&str, &str)]) -> String {
    let request = OpenRequest { exporters: vec![with("a", kind, attributes)], ..OpenRequest::default() };
    client.exports.clone().open(request).await.unwrap().into_inner().export.unwrap().id
}

/// The archive of the files of `image`.
pub(crate) async fn flattened(client: &Client, image: &Image, attributes: &[(&str, &str)]) -> Vec<u8> {
    let export = open_with(client, "tar", attributes).await;
    client.send(&export, image).await;
    let results = client.commit(&export, vec![target("a", image, &[])]).await.unwrap();
    let result = success(&results);
    assert_eq!((result.names.len(), results.state()), (0, ExportState::Committed));
    assert_eq!(result.response["containerimage.digest"], image.root.digest.to_string());
    assert!(!result.response.contains_key("image.name"));
    read(client, &export, "a", 0).await.unwrap()
}

/// Why `image` cannot be had as files.
async fn refused(client: &Client, image: &Image, attributes: &[(&str, &str)]) -> (Reason, String) {
    let export = open_with(client, "tar", attributes).await;
    client.send(&export, image).await;
    let results = client.commit(&export, vec![target("a", image, &[])]).await.unwrap();
    let error = results.results[0].error.clone().unwrap_or_else(|| panic!("{results:?}"));
    assert!(read(client, &export, "a", 0).await.is_err(), "there is nothing to be read");
    (error.reason(), error.message)
}

/// Without the times that an engine makes up.
fn settled(mut listing: Listing, without: &[&str]) -> Listing {
    listing.retain(|name, _| !without.contains(&name.as_str()));
    for name in layer_features::UNDESCRIBED {
        listing.get_mut(name).unwrap().mtime = 0;
    }
    listing
}

/// The files of a container of `image`, as docker exports them.
async fn by_docker(server: &Server, image: &Image) -> Vec<u8> {
    let client = server.client().await;
    let export = open(&client, &[("a", "docker")]).await;
    client.send(&export, image).await;
    success(&client.commit(&export, vec![target("a", image, &["tricky:1"])]).await.unwrap());
    let (archive, files) = (server.stack.fresh_path(".tar"), server.stack.fresh_path(".tar"));
    fs::write(&archive, read(&client, &export, "a", 0).await.unwrap()).unwrap();
    server.stack.docker(["load", "-i"]).arg(&archive).ok();
    let container = server.stack.docker(["create", "--network", "host", "tricky:1", "/a/file"]).ok().stdout;
    server.stack.docker(["export", container.trim(), "-o"]).arg(&files).ok();
    server.stack.docker(["rm", container.trim()]).ok();
    fs::read(files).unwrap()
}

/// The files of `image`, an index if `is_index`, as BuildKit's exporter makes them.
async fn by_buildkit(server: &Server, image: &Image, platforms: &str) -> Vec<u8> {
    let client = server.client().await;
    let export = open(&client, &[("a", "oci")]).await;
    client.send(&export, image).await;
    success(&client.commit(&export, vec![target("a", image, &["tricky:1"])]).await.unwrap());
    let (layout, archive, files) =
        (server.stack.fresh_path("-layout"), server.stack.fresh_path(".tar"), server.stack.fresh_path(".tar"));
    fs::write(&archive, read(&client, &export, "a", 0).await.unwrap()).unwrap();
    fs::create_dir(&layout).unwrap();
    Run::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&layout).ok();
    let name = format!("{}/{}", server.stack.registry(), image.root.digest.hex());
    let from = format!("oci:{}", layout.display());
    let to = format!("docker://{name}");
    server
        .stack
        .run("skopeo")
        .args(["copy", "--all", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false", &from, &to])
        .ok();
    let builder = server.stack.builder(server.stack.buildkit_host());
    let context = Context::new(&format!("FROM {name}\n"));
    let output = format!("type=tar,dest={}", files.display());
    builder.build(context.path(), ["--platform", platforms, "--output", &output]).ok();
    fs::read(files).unwrap()
}

fn host() -> String {
    linkspan::image::Platform::host().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_what_docker_and_buildkit_make_of_the_layers() {
    let image = layer_features::image();
    let server = Server::containerd("files");
    let ours = listing(&flattened(&server.client().await, &image, &[]).await);
    assert!(has_folders(&ours));
    assert_eq!(ours["a/hard2"].link, "");
    assert_eq!((ours["b/hard3"].kind, ours["b/hard3"].link.as_str()), ('1', "a/hard2"));
    assert_eq!(ours["new/two"].content, Some(Digest::sha256(b"n")));
    let ours = settled(ours, &[]);

    let theirs = settled(listing(&by_buildkit(&server, &image, &host()).await), &[]);
    same(&ours, &theirs);

    let mut dockers = settled(listing(&by_docker(&server, &image).await), &DOCKERS);
    let mut ours = settled(ours, &DOCKERS);
    // Of the attributes docker's archives hold capabilities only (go-archive `ReadSecurityXattrToTarHeader`).
    for entry in ours.values_mut().chain(dockers.values_mut()) {
        entry.xattrs.retain(|name, _| name == "security.capability");
    }
    assert_eq!(ours["x/capable"].xattrs.len(), 1);
    same(&ours, &dockers);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_engine_makes_the_same_bytes_and_reading_goes_on_anywhere() {
    let image = layer_features::image();
    let (layout, _) = Server::layout();
    let client = layout.client().await;
    let export = open_with(&client, "tar", &[]).await;
    client.send(&export, &image).await;
    success(&client.commit(&export, vec![target("a", &image, &[])]).await.unwrap());
    let whole = read(&client, &export, "a", 0).await.unwrap();
    for offset in [1, 511, 20_000, 700_000, whole.len() - 5000, whole.len() - 1, whole.len()] {
        assert!(read(&client, &export, "a", offset).await.unwrap() == whole[offset..], "{offset}");
    }
    let containerd = flattened(&Server::containerd("files-same").client().await, &image, &[]).await;
    assert!(containerd == whole);
    let docker = flattened(&Server::docker().client().await, &image, &[]).await;
    assert!(docker == whole);
    // GNU tar takes it, too; folders come first, so it must wait with their times.
    let (file, folder) = (layout.stack.fresh_path(".tar"), tempfile::tempdir().unwrap());
    fs::write(&file, &whole).unwrap();
    Run::new("tar")
        .args(["--delay-directory-restore", "-xpf"])
        .arg(&file)
        .args(["--xattrs", "--xattrs-include=*", "-C"])
        .arg(folder.path())
        .ok();
    same(&listing(&whole), &listing(&layer_features::tar(folder.path(), &["."])));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_platform_has_a_folder_as_with_buildkit() {
    let layer =
        |content: &str| Folder::new().file("bin/tool", content, 0o755, 3).link("bin/same", "bin/tool").tar(&["bin"]);
    let (mut here, mut there) = (Image::new(&[layer("here")]), Image::foreign(&[layer("there")]));
    here.root.platform = Some(linkspan::image::Platform::host());
    there.root.platform = Some("linux/s390x".parse().unwrap());
    let index = Image::index(&[here, there]);
    let server = Server::containerd("files-index");
    let client = server.client().await;
    let ours = listing(&flattened(&client, &index, &[]).await);
    let folder = host().replace('/', "_");
    assert_eq!(ours[&format!("{folder}/bin/tool")].link, format!("{folder}/bin/same"));
    assert!(ours.contains_key("linux_s390x/bin/tool") && has_folders(&ours));
    same(&ours, &listing(&by_buildkit(&server, &index, &format!("{},linux/s390x", host())).await));

    // One platform has none unless it is asked for.
    let one = Image::new(&[layer("alone")]);
    assert!(listing(&flattened(&client, &one, &[]).await).contains_key("bin/tool"));
    let split = listing(&flattened(&client, &one, &[("platform-split", "true")]).await);
    assert!(split.contains_key(&format!("{folder}/bin/tool")));

    let (reason, message) = refused(&client, &index, &[("platform-split", "false")]).await;
    assert_eq!(reason, Reason::InvalidField);
    assert!(message.contains("`bin/same` is in the image for") && message.contains("linux/s390x"), "{message}");
    let apart = Image::foreign(&[Folder::new().file("bin/other", "other", 0o755, 0).tar(&["bin"])]);
    let apart = Image::index(&[one, apart]);
    let merged = listing(&flattened(&client, &apart, &[("platform-split", "false")]).await);
    assert_eq!(merged.keys().collect::<Vec<_>>(), ["bin", "bin/other", "bin/same", "bin/tool"]);

    let then = flattened(&client, &apart, &[("source-date-epoch", "86400")]).await;
    assert!(listing(&then).values().all(|entry| entry.mtime == 86_400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_link_to_a_lower_layer_is_refused_as_by_the_engine() {
    let (layout, _) = Server::layout();
    // As GNU tar writes it: the second layer has the link alone.
    let folder = Folder::new().file("one", "data", 0o644, 4).link("two", "one");
    let link = link_only(&folder.tar(&["one", "two"]));
    let image = Image::new(&[folder.tar(&["one"]), link]);
    let server = Server::containerd("files-links");
    for server in [&layout, &server] {
        let (reason, message) = refused(&server.client().await, &image, &[]).await;
        assert_eq!(reason, Reason::DocumentInvalid, "{message}");
        assert!(message.contains("`two` is a hard link to `one`, which is in a lower layer"), "{message}");
    }
    let client = server.client().await;
    let export = client.open(&["a"]).await;
    client.send(&export, &image).await;
    let _ = client.commit(&export, vec![target("a", &image, &["links"])]).await.unwrap();
    // Whether or not the record was made, containerd itself cannot unpack it.
    let archive = server.stack.fresh_path(".tar");
    let export = open(&client, &[("a", "oci")]).await;
    client.send(&export, &image).await;
    success(&client.commit(&export, vec![target("a", &image, &["links:again"])]).await.unwrap());
    fs::write(&archive, read(&client, &export, "a", 0).await.unwrap()).unwrap();
    let imported = server.stack.ctr("files-links-again", ["images", "import", archive.to_str().unwrap()]).output();
    assert!(!imported.status.success() && imported.stderr.contains("two"), "{imported}");
}

/// Layers of a file with holes, in each of the forms that GNU tar has for them.
fn sparse() -> (Vec<u8>, Vec<(&'static str, Bytes)>) {
    let folder = tempfile::tempdir().unwrap();
    let mut content = vec![0; 3 << 20];
    for at in (0..20).map(|n| n * 150_000) {
        content[at..at + 5000].fill(b'x');
    }
    let file = fs::File::create(folder.path().join("sparse")).unwrap();
    for at in (0..20).map(|n| n * 150_000_usize) {
        std::os::unix::fs::FileExt::write_all_at(&file, &content[at..at + 5000], at as u64).unwrap();
    }
    file.set_len(3 << 20).unwrap();
    fs::write(folder.path().join("z-after"), "what follows").unwrap();
    let forms = [
        ("gnu", vec!["--format=gnu"]),
        ("0.0", vec!["--format=pax", "--sparse-version=0.0"]),
        ("0.1", vec!["--format=pax", "--sparse-version=0.1"]),
        ("1.0", vec!["--format=pax", "--sparse-version=1.0"]),
    ];
    let layers = forms.map(|(name, args)| {
        let made = Run::new("sh").args(["-c", "exec tar -C \"$0\" --sparse -cf \"$0.tar\" \"$@\" sparse z-after"]);
        made.arg(folder.path()).args(args).ok();
        let archive = folder.path().with_extension("tar");
        let tar = Bytes::from(fs::read(&archive).unwrap());
        fs::remove_file(archive).unwrap();
        assert!(tar.len() < 1 << 20, "{name}: the holes are not in the archive");
        (name, tar)
    });
    (content, layers.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_with_holes_are_files_in_every_form() {
    let (content, layers) = sparse();
    let (server, _) = Server::layout();
    let client = server.client().await;
    for (form, layer) in &layers {
        let found = listing(&flattened(&client, &Image::new(std::slice::from_ref(layer)), &[]).await);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["sparse", "z-after"], "{form}");
        assert_eq!(found["sparse"].content, Some(Digest::sha256(&content)), "{form}");
        assert_eq!(found["z-after"].content, Some(Digest::sha256(b"what follows")), "{form}");
    }
    // Removed by a later layer, its holes are not read.
    let removed = Folder::new().file(".wh.sparse", "", 0o644, 0).tar(&[".wh.sparse"]);
    let found = listing(&flattened(&client, &Image::new(&[layers[3].1.clone(), removed]), &[]).await);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["z-after"]);
    // Pieces that are not what is stored.
    let text = layers[2].1.clone();
    let at = text.windows(16).position(|window| window == b"GNU.sparse.map=0").unwrap();
    let mut wrong = text.to_vec();
    // The length of the first piece.
    wrong[at + 17] = if wrong[at + 17] == b'9' { b'8' } else { b'9' };
    let (reason, message) = refused(&client, &Image::new(&[wrong.into()]), &[]).await;
    assert_eq!(reason, Reason::DocumentInvalid, "{message}");
    assert!(message.contains("`sparse` is a sparse file, and its pieces"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_no_container_has_are_1970() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "content").unwrap();
    for format in ["pax", "gnu"] {
        for (time, expected) in
            [("-1", 0), ("-1.5", 0), ("-9000000000", 0), ("9300000000", 0), ("8600000000", 8_600_000_000), ("7.5", 7)]
        {
            let made = Run::new("tar").arg("-C").arg(folder.path()).arg(format!("--format={format}"));
            let archive = folder.path().with_extension("tar");
            made.arg(format!("--mtime=@{time}")).arg("-cf").arg(&archive).arg("file").ok();
            let layer = Bytes::from(fs::read(&archive).unwrap());
            fs::remove_file(&archive).unwrap();
            let archive = flattened(&client, &Image::new(&[layer]), &[]).await;
            assert_eq!(listing(&archive)["file"].mtime, expected, "{format} {time}");
            Run::new("tar").args(["-tvf", "-"]).stdin(archive).ok();
        }
    }
}

/// The second member of an archive of a small file and a link to it.
fn link_only(both: &Bytes) -> Bytes {
    let at = (0..both.len()).step_by(512).find(|at| both[at + 156] == b'1').unwrap();
    [&both[at..at + 512], &[0; 1024]].concat().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_what_they_should_be_are_refused() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    let plain = Folder::new().file("file", "content", 0o644, 0).tar(&["file"]);
    let renamed = |name: &str| {
        let mut tar = plain.to_vec();
        tar[..100].fill(0);
        tar[..name.len()].copy_from_slice(name.as_bytes());
        sum(&mut tar);
        Bytes::from(tar)
    };
    let link = link_only(&Folder::new().file("one", "", 0o644, 0).link("two", "one").tar(&["one", "two"]));
    // A binary number of which only the lower bits are small.
    let huge = |at: std::ops::Range<usize>, first: &[u8]| {
        let mut tar = plain.to_vec();
        tar[at.clone()].fill(0);
        tar[at.start..at.start + first.len()].copy_from_slice(first);
        sum(&mut tar);
        Bytes::from(tar)
    };
    let layers = [
        (vec![huge(124..136, &[0x80, 1])], "a size of more than 63 bits"),
        (vec![huge(124..136, &[0xff; 12])], "the size -1"),
        (vec![huge(108..116, &[0xff; 8])], "the owner -1"),
        (vec![huge(136..148, &[0x80, 1])], "a time of more than 63 bits"),
        (vec![renamed("../file")], "leads out of the image"),
        (vec![renamed("a/../../file")], "leads out of the image"),
        (vec![renamed(".wh..")], "is no whiteout"),
        (vec![plain.clone(), renamed("file/below")], "which is no folder"),
        (vec![link], "which is not there"),
        (vec![plain.slice(..515)], "breaks off within a file"),
        (vec![plain.slice(..300)], "breaks off in the head"),
        (vec![Bytes::from_static(&[b'x'; 2048])], "header error"),
        (vec![layer_features::compressed(&plain, "gzip -c").slice(..60)], ""),
    ];
    for (layers, expected) in layers {
        let (reason, message) = refused(&client, &Image::new(&layers), &[]).await;
        assert_eq!(reason, Reason::DocumentInvalid, "{message}");
        assert!(message.contains(expected) && message.contains("sha256:"), "{expected}: {message}");
    }
    let lie = Image::with_diff_ids(std::slice::from_ref(&plain), &[Digest::sha256(b"something else")]);
    let (reason, message) = refused(&client, &lie, &[]).await;
    assert_eq!(reason, Reason::DocumentInvalid);
    assert!(message.contains("and the config of the image says"), "{message}");
    // Rooted names are below the image's root, as everywhere.
    let rooted = listing(&flattened(&client, &Image::new(&[renamed("/file")]), &[]).await);
    assert_eq!(rooted.keys().collect::<Vec<_>>(), ["/file".trim_start_matches('/')]);
}

/// Makes the checksum of the first header right.
fn sum(tar: &mut [u8]) {
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|&byte| u32::from(byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_checked_and_names_refused() {
    let (server, _) = Server::layout();
    let client = server.client().await;
    let wrong = with("a", "local", &[("platform-split", "maybe"), ("source-date-epoch", "-1"), ("name", "x")]);
    let request = OpenRequest { exporters: vec![wrong], ..OpenRequest::default() };
    let mut fields = crate::client::fields(&client.exports.clone().open(request).await.unwrap_err());
    fields.sort();
    assert_eq!(
        fields,
        [
            "exporters[0].attributes[name]",
            "exporters[0].attributes[platform-split]",
            "exporters[0].attributes[source-date-epoch]"
        ]
    );
    let image = Image::new(&[Layer::new().file("a", "a").tar()]);
    let export = open_with(&client, "tar", &[]).await;
    client.send(&export, &image).await;
    let status = client.commit(&export, vec![target("a", &image, &["named"])]).await.unwrap_err();
    assert_eq!(crate::client::fields(&status), ["targets[0].names"]);
}
