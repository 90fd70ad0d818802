//! The Rust code and the descriptors in `src/export_v1/gen`: committed, so that nobody who builds needs protoc.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::compiler::{CodeGeneratorRequest, CodeGeneratorResponse};
use serde_json::Value;

use super::{PACKAGES, compiled, root, same};

const CONTENT: &str = "github.com/containerd/containerd/api/services/content/v1/content.proto";

#[test]
fn the_generated_code_is_that_of_the_definition() {
    let out = tempfile::tempdir().unwrap();
    let gen_folder = root().join("src/export_v1/gen");
    let own = compiled("linkspan.export.v1");
    tonic_prost_build::configure()
        .out_dir(out.path())
        .bytes(".linkspan.export.v1.FetchResponse.data")
        .bytes(".linkspan.export.v1.PushPart.data")
        .bytes(".linkspan.export.v1.ReadOutputResponse.data")
        .compile_fds(own.clone())
        .unwrap();
    // containerd's messages are those of the crate that we use as its client; what it lacks is the server.
    let content = protox::compile([CONTENT], [containerd_client().join("vendor")]).unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .build_client(false)
        .extern_path(".containerd.services.content.v1", "::containerd_client::services::v1")
        // But for the one that carries the bytes of blobs, which need not be copied out of it.
        .extern_path(
            ".containerd.services.content.v1.WriteContentRequest",
            "crate::export_v1::proto::WriteContentRequest",
        )
        .compile_fds(content.clone())
        .unwrap();
    for name in ["linkspan.export.v1.rs", "containerd.services.content.v1.rs"] {
        let path = out.path().join(name);
        let status = Command::new("rustfmt").args(["--edition", "2024"]).arg(&path).status().unwrap();
        assert!(status.success());
        same(&gen_folder.join(name), &std::fs::read(path).unwrap());
    }
    same(&gen_folder.join("descriptors.bin"), &without_comments([own, content]).encode_to_vec());
}

#[test]
fn the_generated_code_of_caches_is_that_of_their_definition() {
    let out = tempfile::tempdir().unwrap();
    let gen_folder = root().join("src/cache_v1/gen");
    let set = compiled("linkspan.cache.v1");
    tonic_prost_build::configure()
        .out_dir(out.path())
        // What both speak of is there already.
        .extern_path(".linkspan.export.v1", "crate::export_v1::proto")
        .compile_fds(set.clone())
        .unwrap();
    let path = out.path().join("linkspan.cache.v1.rs");
    let status = Command::new("rustfmt").args(["--edition", "2024"]).arg(&path).status().unwrap();
    assert!(status.success());
    same(&gen_folder.join("linkspan.cache.v1.rs"), &std::fs::read(path).unwrap());
    let empty = FileDescriptorSet { file: Vec::new() };
    same(&gen_folder.join("descriptors.bin"), &without_comments([set, empty]).encode_to_vec());
}

/// What reflection serves: each file once, without its comments.
fn without_comments(sets: [FileDescriptorSet; 2]) -> FileDescriptorSet {
    let mut file: Vec<_> = sets.into_iter().flat_map(|set| set.file).collect();
    file.sort_by(|a, b| a.name().cmp(b.name()));
    file.dedup_by(|a, b| a.name() == b.name());
    file.iter_mut().for_each(|file| file.source_code_info = None);
    FileDescriptorSet { file }
}

/// Where the crate's sources are: they hold containerd's own definition.
fn containerd_client() -> PathBuf {
    // Crates of other platforms are not here, and not wanted.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", &platform])
        .arg("--manifest-path")
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "containerd-client").unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

/// The stubs in `tests/go/client`: made by the plugins of the Go project, at the versions of `tests/go/go.mod`.
#[test]
fn the_go_stubs_are_those_of_the_definition() {
    for package in PACKAGES {
        go_stubs(package);
    }
}

/// The last two parts of a package's or a file's name, as one word: the Go package.
fn go_package(name: &str, separator: char) -> String {
    let parts: Vec<_> = name.split(separator).collect();
    format!("{}{}", parts[1], parts[2])
}

fn go_stubs(package: &str) {
    let own = compiled(package);
    let files: Vec<_> =
        own.file.iter().map(|file| file.name().to_owned()).filter(|name| name.starts_with("linkspan/")).collect();
    let mapped = |file: &String| format!("M{file}=linkspan.test/client/{}", go_package(file, '/'));
    let parameter = files.iter().map(mapped).chain(["paths=source_relative".to_owned()]);
    let parameter = parameter.collect::<Vec<_>>().join(",");
    let folder_of_package = package.replace('.', "/");
    let request = CodeGeneratorRequest {
        parameter: Some(parameter),
        file_to_generate: files.into_iter().filter(|file| file.starts_with(&folder_of_package)).collect(),
        proto_file: own.file,
        ..CodeGeneratorRequest::default()
    };
    let folder = root().join("tests/go");
    for plugin in ["protoc-gen-go", "protoc-gen-go-grpc"] {
        let mut child = Command::new("go")
            .args(["tool", plugin])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&request.encode_to_vec()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let response = CodeGeneratorResponse::decode(&*output.stdout).unwrap();
        assert_eq!(response.error, None);
        for file in response.file {
            let name = file.name().rsplit('/').next().unwrap().to_owned();
            same(&folder.join("client").join(go_package(package, '.')).join(name), file.content().as_bytes());
        }
    }
}
