//! `oci` and `docker`: archives that are read with ReadOutput, and read back by those who take archives.

use std::fs;
use std::path::PathBuf;

use linkspan::export_v1::proto::{ExportState, Exporter, OpenRequest, ReadOutputRequest, Reason, Target};
use tonic::Code;

use crate::client::{Client, descriptor, exporter, fields, success, target};
use crate::fixture::{Image, Layer, image};
use crate::server::Server;

pub(crate) async fn open(client: &Client, exporters: &[(&str, &str)]) -> String {
    let exporters = exporters.iter().map(|(id, kind)| Exporter { r#type: (*kind).to_owned(), ..exporter(id) });
    let request = OpenRequest { exporters: exporters.collect(), ..OpenRequest::default() };
    client.exports.clone().open(request).await.unwrap().into_inner().export.unwrap().id
}

pub(crate) async fn read(client: &Client, export: &str, id: &str, offset: usize) -> Result<Vec<u8>, tonic::Status> {
    let (export_id, exporter_id) = (export.to_owned(), id.to_owned());
    let request = ReadOutputRequest { export_id, exporter_id, offset: offset as i64 };
    let mut parts = client.exports.clone().read_output(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = parts.message().await? {
        assert_eq!(part.offset as usize, offset + bytes.len());
        assert!((1..=1 << 20).contains(&part.data.len()));
        bytes.extend(part.data);
    }
    Ok(bytes)
}

/// Exports `image` as an archive of the type `kind` into a file.
async fn archive(server: &Server, kind: &str, image: &Image, names: &[&str]) -> PathBuf {
    let client = server.client().await;
    let export = open(&client, &[("a", kind)]).await;
    client.send(&export, image).await;
    let results = client.commit(&export, vec![target("a", image, names)]).await.unwrap();
    let result = success(&results);
    assert_eq!((result.r#type.as_str(), results.state()), (kind, ExportState::Committed));
    assert_eq!(result.response["containerimage.digest"], image.root.digest.to_string());
    let bytes = read(&client, &export, "a", 0).await.unwrap();
    let path = server.stack.fresh_path(".tar");
    fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_load_runs_what_was_archived() {
    let image = image("archived\n");
    let mut made = Vec::new();
    // Of all engines the same bytes; from the layout, because what dockerd made it holds.
    for (engine, server) in Server::each("archive-docker") {
        for kind in ["docker", "oci"] {
            let name = format!("archive-{kind}:1");
            let path = archive(&server, kind, &image, &[&name]).await;
            made.push((kind, fs::read(&path).unwrap()));
            assert!(
                made.iter().filter(|(of, _)| *of == kind).all(|(_, bytes)| *bytes == made.last().unwrap().1),
                "{engine}"
            );
            if engine == "layout" {
                server.stack.docker(["load", "-i"]).arg(&path).ok();
                let digest = server.stack.tagged("moby", &name);
                assert_eq!(digest, Some(image.root.digest.to_string()), "nothing was written anew");
                let run = server.stack.run_image(&name, &["cat", "/etc/greeting"]);
                assert_eq!(run.ok().stdout, "archived\n");
            }
        }
        if engine == "containerd" {
            assert_eq!(server.stack.images("archive-docker"), [], "an archive is no record in the engine");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_imports_an_index() {
    let server = Server::containerd("archive-ctr");
    let index = Image::index(&[image("one"), Image::foreign(&[Layer::new().file("x", "other").tar()])]);
    let path = archive(&server, "oci", &index, &["indexed:1"]).await;
    server.stack.ctr("archive-imported", ["image", "import", "--all-platforms"]).arg(&path).ok();
    let name = "docker.io/library/indexed:1".to_owned();
    assert_eq!(server.stack.images("archive-imported"), [(name, index.root.digest.to_string())]);
    let blobs = server.stack.blobs("archive-imported");
    assert!(index.blobs.keys().all(|digest| blobs.contains(&digest.to_string())), "{blobs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_and_crane_read_it() {
    let server = Server::containerd("archive-tools");
    let (stack, image) = (server.stack, image("tools"));
    let oci = archive(&server, "oci", &image, &["tools:1"]).await;
    let to = format!("docker://{}/tools:oci", stack.registry());
    let from = format!("oci-archive:{}:1", oci.display());
    stack
        .run("skopeo")
        .args(["copy", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false", &from, &to])
        .ok();
    let pushed = stack.run("crane").args(["digest", "--insecure", &format!("{}/tools:oci", stack.registry())]).ok();
    assert_eq!(pushed.stdout.trim(), image.root.digest.to_string());

    let docker = archive(&server, "docker", &image, &["tools:1"]).await;
    let from = format!("docker-archive:{}:docker.io/library/tools:1", docker.display());
    let config = stack.run("skopeo").args(["inspect", "--config", "--raw", &from]).ok().stdout;
    assert_eq!(config.as_bytes(), &image.blobs[&image.config.digest][..]);
    stack.run("crane").args(["validate", "--tarball"]).arg(&docker).ok();
    let to = format!("{}/tools:crane", stack.registry());
    stack.run("crane").args(["push", "--insecure"]).arg(&docker).arg(&to).ok();
    let config = stack.run("crane").args(["config", "--insecure", &to]).ok().stdout;
    assert_eq!(config.trim().as_bytes(), &image.blobs[&image.config.digest][..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_goes_on_where_it_was_left_after_the_commit() {
    for (engine, server) in Server::each("archive-offset") {
        let client = server.client().await;
        let image = image("offset");
        let export = open(&client, &[("tar", "oci"), ("record", "image")]).await;
        let early = read(&client, &export, "tar", 0).await.unwrap_err();
        assert_eq!(fields(&early), ["exporter_id"]);
        client.send(&export, &image).await;
        let targets = vec![target("tar", &image, &["archive-offset"]), target("record", &image, &["archive-offset"])];
        let results = client.commit(&export, targets).await.unwrap();
        assert_eq!(results.state(), ExportState::Committed);
        // Even if the image goes meanwhile.
        match engine {
            "docker" => _ = server.stack.docker(["rmi", "-f", "archive-offset"]).ok(),
            "containerd" => {
                assert_eq!(server.stack.leases("archive-offset").len(), 1, "the blobs are kept for whoever reads");
                let name = "docker.io/library/archive-offset:latest";
                server.stack.ctr("archive-offset", ["images", "rm", "--sync", name]).ok();
            }
            _ => {}
        }
        let whole = read(&client, &export, "tar", 0).await.unwrap();
        for offset in [1, 5000, whole.len() - 1, whole.len()] {
            assert!(read(&client, &export, "tar", offset).await.unwrap() == whole[offset..], "{offset}");
        }
        for (id, offset, field) in
            [("tar", whole.len() + 1, "offset"), ("record", 0, "exporter_id"), ("x", 0, "exporter_id")]
        {
            let status = read(&client, &export, id, offset).await.unwrap_err();
            assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_archived_is_refused_by_name() {
    for (engine, server) in Server::each("archive-bad") {
        let client = server.client().await;
        let index = Image::index(&[image("one"), Image::foreign(&[Layer::new().file("x", "other").tar()])]);
        let export = open(&client, &[("a", "docker")]).await;
        client.send(&export, &index).await;
        let to = Target { root: Some(descriptor(&index.root)), ..target("a", &index, &[]) };
        let results = client.commit(&export, vec![to]).await.unwrap();
        let error = results.results[0].error.clone().unwrap();
        assert_eq!(error.reason(), Reason::InvalidField);
        assert!(error.message.contains("s390x") && error.message.contains("`oci`"), "{engine}: {}", error.message);
        let mut wrong = Exporter { r#type: "oci".to_owned(), ..exporter("a") };
        wrong.attributes =
            [("compression", "zstd"), ("tar", "false")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let request = OpenRequest { exporters: vec![wrong], ..OpenRequest::default() };
        let mut found = fields(&client.exports.clone().open(request).await.unwrap_err());
        found.sort();
        assert_eq!(found, ["exporters[0].attributes[compression]", "exporters[0].attributes[tar]"]);
        client
            .exports
            .clone()
            .abort(linkspan::export_v1::proto::AbortRequest { export_id: export.clone() })
            .await
            .unwrap();
        server.until_released();
    }
}
