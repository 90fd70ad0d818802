//! Clients that `scripts/stack install --old` brings: one that is not installed is not tried, and that is said.

use std::fs;
use std::io::Write as _;

use crate::common::{Run, Stack, text};
use crate::fixture::{export, names};
use crate::pushes::image;
use crate::served::{Served, layout};

const WRITABLE: &[&str] = &["--registry-writable"];

/// A client, if it is installed.
fn client(name: &str) -> Option<impl Fn(&[&str]) -> Run> {
    let stack = Stack::shared();
    if stack.find_program(name).is_none() {
        let note = format!("{name} is not installed, and not tried; hint: scripts/stack install --old\n");
        // Past the capture of the test's output.
        std::io::stderr().write_all(note.as_bytes()).unwrap();
        return None;
    }
    let name = name.to_owned();
    Some(move |args: &[&str]| stack.run(&name).args(args))
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_pushes_attaches_and_copies() {
    let Some(oras) = client("oras") else { return };
    for served in Served::everywhere("registry-oras", WRITABLE).await {
        let folder = tempfile::tempdir().unwrap();
        let content = format!("by oras to {}\n", served.kind());
        fs::write(folder.path().join("file.txt"), &content).unwrap();
        let name = format!("{}/oras/file:1", served.address);
        let plain = ["--plain-http", "--artifact-type", "application/vnd.example.file"];
        let push = |args: &[&str]| oras(args).args(plain).dir(folder.path()).args([&name, "file.txt:text/plain"]).ok();
        push(&["push"]);
        push(&["push"]);
        push(&["attach"]);
        let pulled = tempfile::tempdir().unwrap();
        oras(&["pull", "--plain-http", &name, "-o", text(pulled.path())]).ok();
        assert_eq!(fs::read_to_string(pulled.path().join("file.txt")).unwrap(), content);
        let copied = format!("{}/oras/copied:1", served.address);
        oras(&["copy", "--recursive", "--from-plain-http", "--to-plain-http", &name, &copied]).ok();
        for name in [&name, &copied] {
            let found = oras(&["discover", "--plain-http", "--format", "json", name]).ok().stdout;
            assert!(found.contains("application/vnd.example.file"), "{found}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn regctl_copies_images_and_puts_artifacts() {
    let Some(regctl) = client("regctl") else { return };
    let stack = Stack::shared();
    for served in Served::everywhere("registry-regctl", WRITABLE).await {
        let (image, folder) = (image(&format!("by regctl to {}\n", served.kind())), tempfile::tempdir().unwrap());
        export(&*layout(folder.path()).await, &image, &names(&["copied:1"])).await.unwrap();
        let hosts = [&served.address, stack.registry()].map(|host| format!("reg={host},tls=disabled"));
        let regctl = |args: &[&str]| regctl(&["--host", &hosts[0], "--host", &hosts[1]]).args(args.iter().copied());
        let from = format!("ocidir://{}:1", text(folder.path()));
        let name = format!("{}/regctl/app:1", served.address);
        regctl(&["image", "copy", &from, &name]).ok();
        let digest = regctl(&["image", "digest", &name]).ok().stdout;
        assert_eq!(digest.trim(), image.root.digest.as_str());
        let elsewhere = format!("{}/regctl/{}:1", stack.registry(), served.kind());
        regctl(&["image", "copy", &name, &elsewhere]).ok();
        let artifact = format!("{}/regctl/note:1", served.address);
        let put = ["artifact", "put", "--artifact-type", "application/vnd.example.note", &artifact];
        regctl(&put).stdin("noted").ok();
        assert_eq!(regctl(&["artifact", "get", &artifact]).ok().stdout, "noted");
        let about = ["artifact", "put", "--artifact-type", "application/vnd.example.note", "--subject", &name];
        regctl(&about).stdin("about it").ok();
        let listed = regctl(&["artifact", "list", &name]).ok().stdout;
        assert!(listed.contains("application/vnd.example.note"), "{listed}");
        regctl(&["tag", "delete", &artifact]).ok();
        regctl(&["artifact", "get", &artifact]).fails();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_pushes_and_pulls_charts() {
    let Some(helm) = client("helm") else { return };
    for served in Served::everywhere("registry-helm", WRITABLE).await {
        let folder = tempfile::tempdir().unwrap();
        let helm = |args: &[&str]| {
            let run = helm(args).dir(folder.path());
            ["CACHE", "CONFIG", "DATA"]
                .iter()
                .fold(run, |run, kind| run.env(format!("HELM_{kind}_HOME"), folder.path().join(kind)))
        };
        helm(&["create", "chart"]).ok();
        helm(&["package", "chart", "--version", "0.1.0"]).ok();
        let to = format!("oci://{}/charts", served.address);
        for _ in 0..2 {
            helm(&["push", "chart-0.1.0.tgz", &to, "--plain-http"]).ok();
        }
        let before = fs::read(folder.path().join("chart-0.1.0.tgz")).unwrap();
        fs::remove_file(folder.path().join("chart-0.1.0.tgz")).unwrap();
        helm(&["pull", &format!("{to}/chart"), "--version", "0.1.0", "--plain-http"]).ok();
        assert!(fs::read(folder.path().join("chart-0.1.0.tgz")).unwrap() == before);
        let shown = helm(&["show", "chart", &format!("{to}/chart"), "--plain-http"]).ok().stdout;
        assert!(shown.contains("version: 0.1.0"), "{shown}");
    }
}

/// A signature refers to its image; those of older versions have a tag instead.
#[tokio::test(flavor = "multi_thread")]
async fn cosign_signs_and_verifies() {
    let Some(cosign) = client("cosign") else { return };
    let folder = tempfile::tempdir().unwrap();
    let cosign = |args: &[&str]| cosign(args).dir(folder.path()).env("COSIGN_PASSWORD", "test");
    cosign(&["generate-key-pair"]).ok();
    for served in Served::everywhere("registry-cosign", WRITABLE).await {
        let image = image(&format!("signed on {}\n", served.kind()));
        export(&*served.engine, &image, &names(&["signed/app:1"])).await.unwrap();
        let name = format!("{}/signed/app@{}", served.address, image.root.digest);
        for bundle in ["--new-bundle-format=true", "--new-bundle-format=false"] {
            let verify = ["verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true", "--allow-http-registry"];
            cosign(&verify).args([bundle, &name]).fails();
            let sign = ["sign", "--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false", "--yes"];
            cosign(&sign).args(["--allow-http-registry", bundle, &name]).ok();
            cosign(&verify).args([bundle, &name]).ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_builds_and_docker_runs_it() {
    let Some(ko) = client("ko") else { return };
    let stack = Stack::shared();
    let served = Served::docker(WRITABLE).await;
    let base = image("base of ko\n");
    export(&*served.engine, &base, &names(&["ko/base:1"])).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("go.mod"), "module example.com/program\n\ngo 1.24\n").unwrap();
    let program = "package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(\"built by ko\\n\") }\n";
    fs::write(folder.path().join("main.go"), program).unwrap();
    let build = ko(&["build", "--insecure-registry", "--bare", "--tags", "1", "."]).dir(folder.path());
    let build = build.env("KO_DOCKER_REPO", format!("{}/ko/program", served.address));
    build.env("KO_DEFAULTBASEIMAGE", format!("{}/ko/base:1", served.address)).ok();
    let ran = stack.docker(["run", "--rm", "--network", "host", "--pull", "never", "ko/program:1"]).ok();
    assert_eq!(ran.stdout, "built by ko\n");
}
