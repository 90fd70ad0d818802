//! Archives as all the usual programs write them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::archive::beside;
use super::two_engines::TwoEngines;
use crate::common::{Context, Run, text};

/// An archive, and what is to be expected of it.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) archive: PathBuf,
    pub(super) args: Vec<&'static str>,
    /// Whether its blobs have names that tell what they are, so that present ones are not sent.
    pub(super) spares: bool,
    /// An image to run afterwards; it prints `it runs`.
    pub(super) runs: Option<&'static str>,
}

/// Size of the incompressible layer in most of them: what is spared must stand out.
pub(super) const LARGE: usize = 2 << 20;

pub(super) fn corpus(engines: &TwoEngines) -> Vec<Case> {
    let folder = engines.direct.fresh_path("-corpus");
    fs::create_dir_all(&folder).unwrap();
    let base = engines.direct.base_image();
    let context = Context::new(&format!("FROM {base}\nCOPY large /large\nCMD [\"echo\", \"it runs\"]\n"));
    let context = context.noise("large", LARGE, 1);
    let scratch = Context::new("FROM scratch\nCOPY large /large\n").noise("large", LARGE, 2);
    let builder = engines.direct.builder(engines.direct.buildkit_host());
    let make = |name: &str, context: &Context, output: &str, args: &[&str]| {
        let archive = folder.join(name);
        let output = format!("{output},dest={}", text(&archive));
        builder.build(context.path(), args.iter().copied().chain(["--output", &output])).ok();
        archive
    };
    let plain = ["--provenance=false"];
    let mut cases = Vec::new();
    let mut add = |archive: &Path, spares: bool, runs: Option<&'static str>| {
        let name = archive.file_name().unwrap().to_str().unwrap().to_owned();
        cases.push(Case { name, archive: archive.to_owned(), args: Vec::new(), spares, runs });
    };

    let oci = make("buildx-oci", &context, "type=oci,name=corpus:oci", &plain);
    add(&oci, true, Some("corpus:oci"));
    let docker = make("buildx-docker", &context, "type=docker,name=corpus:docker", &plain);
    add(&docker, true, Some("corpus:docker"));
    add(
        &make("attestations", &context, "type=oci,name=corpus:att", &["--provenance=mode=max"]),
        true,
        Some("corpus:att"),
    );
    let platforms = ["--platform", "linux/amd64,linux/arm64", "--provenance=false"];
    let multi = make("platforms", &scratch, "type=oci,name=corpus:multi", &platforms);
    add(&multi, true, None);
    add(
        &make("zstd-layers", &context, "type=oci,name=corpus:zstd,compression=zstd,force-compression=true", &plain),
        true,
        Some("corpus:zstd"),
    );
    add(&make("two-names", &context, "type=oci,\"name=corpus:one,corpus:two\"", &plain), true, Some("corpus:two"));
    add(&make("no-name", &scratch, "type=oci", &plain), true, None);

    for (program, suffix, args) in [
        ("gzip", ".gz", &["-c", "-1"][..]),
        ("zstd", ".zst", &["-c", "-q"]),
        ("xz", ".xz", &["-c", "-1"]),
        ("bzip2", ".bz2", &["-c", "-1"]),
    ] {
        add(&compressed(&oci, program, suffix, args), true, Some("corpus:oci"));
    }
    add(&compressed(&oci, "zstd", ".long.zst", &["-c", "-q", "--long=27"]), false, Some("corpus:oci"));

    // What dockerd itself saves, after it has loaded something.
    for archive in [&oci, &multi] {
        engines.direct.docker(["load", "-i", text(archive)]).ok();
    }
    engines.direct.docker(["tag", "corpus:oci", "corpus:again"]).ok();
    let save = |name: &str, images: &[&str]| {
        let archive = folder.join(name);
        engines.direct.docker(["save", "-o", text(&archive)]).args(images).ok();
        archive
    };
    add(&save("saved", &["corpus:oci"]), true, Some("corpus:oci"));
    add(&save("saved-several", &["corpus:oci", "corpus:again", "corpus:multi"]), true, Some("corpus:again"));
    engines.clear();

    // And what a dockerd with the classic store saves.
    engines.direct.docker_classic(["load", "-i", text(&docker)]).ok();
    let classic = folder.join("saved-classic");
    engines.direct.docker_classic(["save", "-o", text(&classic), "corpus:docker"]).ok();
    add(&classic, true, Some("corpus:docker"));

    // A registry's view, by others.
    let name = format!("{}/corpus:remote", engines.direct.registry());
    let push = format!("type=image,name={name},push=true,registry.insecure=true");
    builder.build(context.path(), plain.iter().copied().chain(["--output", &push])).ok();
    for format in ["tarball", "legacy"] {
        let archive = folder.join(format!("crane-{format}"));
        engines.direct.run("crane").args(["pull", "--insecure", "--format", format, &name, text(&archive)]).ok();
        add(&archive, false, None);
    }
    let layout = folder.join("layout");
    engines.direct.run("crane").args(["pull", "--insecure", "--format", "oci", &name, text(&layout)]).ok();
    // By another tar, which writes folders, and names that begin with a dot.
    for (name, args) in [("crane-oci-gnu", &["--format=gnu"][..]), ("crane-oci-pax", &["--format=pax"])] {
        let archive = folder.join(name);
        Run::new("tar").args(args).args(["-C", text(&layout), "-cf", text(&archive), "."]).ok();
        add(&archive, true, None);
    }
    for (transport, runs) in [("oci-archive", None), ("docker-archive", Some("corpus:skopeo"))] {
        let archive = folder.join(format!("skopeo-{transport}"));
        let target = format!("{transport}:{}:corpus:skopeo", text(&archive));
        let source = format!("docker://{name}");
        Run::new("skopeo").args(["--insecure-policy", "copy", "--src-tls-verify=false", &source, &target]).ok();
        add(&archive, transport == "oci-archive", runs);
    }

    // Nothing stays of an archive that lacks the requested platform.
    for platform in ["linux/arm64", "linux/s390x"] {
        let (name, args) = (format!("platforms, {platform}"), vec!["--platform", platform]);
        cases.push(Case { name, archive: multi.clone(), args, spares: true, runs: None });
    }
    cases
}

/// `archive`, compressed by a program.
pub(super) fn compressed(archive: &Path, program: &str, suffix: &str, args: &[&str]) -> PathBuf {
    let target = beside(archive, suffix);
    let mut command = Command::new(program);
    command.args(args).stdin(File::open(archive).unwrap()).stdout(File::create(&target).unwrap()).stderr(Stdio::null());
    assert!(command.status().unwrap().success(), "{program}");
    target
}
