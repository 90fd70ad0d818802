//! `--allow-name` and `--deny-tag-move` for what is loaded through the docker door.

use std::path::PathBuf;

use super::archive::{Image, Tar};
use crate::common::{Linkspan, Output, Part, Run, Stack, text};

/// A docker door with a policy.
struct Guarded<'a> {
    stack: &'a Stack,
    docker_host: &'a str,
    door: PathBuf,
    linkspan: Linkspan,
}

impl<'a> Guarded<'a> {
    #[track_caller]
    fn new(stack: &'a Stack, engine: &str, docker_host: &'a str, policy: &[&str]) -> Self {
        let door = stack.fresh_path("-docker.sock");
        let listen = format!("unix://{}", text(&door));
        let args = ["--engine", engine, "--docker-host", docker_host, "--docker-listen", &listen];
        let linkspan = Linkspan::start_at(stack, &[&args[..], policy].concat(), &[], vec![door.clone()]);
        Self { stack, docker_host, door, linkspan }
    }

    fn load(&self, archive: &Tar) -> Run {
        let file = archive.clone().end().write(self.stack.fresh_path("-archive.tar"));
        self.stack.docker(["load", "-i", text(&file)]).env("DOCKER_HOST", format!("unix://{}", text(&self.door)))
    }

    #[track_caller]
    fn denied(&self, archive: &Tar, expected: &str) -> Output {
        let output = self.load(archive).output();
        assert!(output.stderr.contains(expected), "{expected}: {output}\n{}", self.linkspan.log());
        assert!(!output.status.success(), "{output}");
        output
    }

    /// Whether the engine has an image called `name`.
    fn has(&self, name: &str) -> bool {
        let inspect = self.stack.docker(["image", "inspect", name]).env("DOCKER_HOST", self.docker_host);
        inspect.output().status.success()
    }
}

/// The same image named by another document.
fn named_by(image: &Image, file: &str, text: &str) -> Tar {
    image.blobs(Tar::default()).file(file, text.as_bytes())
}

#[test]
fn names_that_are_not_allowed_are_not_loaded() {
    let stack = Stack::shared();
    let guarded = Guarded::new(stack, "docker", stack.docker_host(), &["--allow-name", "docker.io/library/ci-*"]);
    let image = Image::of(&[b"policy"]);
    let noisy = vec![7; 3 << 20];
    let large = Image::of(&[&noisy]);
    let index = String::from_utf8(image.index("production:1")).unwrap();
    let by_ref = index.replace("io.containerd.image.name", "org.opencontainers.image.ref.name");
    let not_allowed = "is not allowed here; allowed are: docker.io/library/ci-*";
    for (archive, expected) in [
        (image.oci("production:1"), not_allowed),
        (large.oci("production:1"), not_allowed),
        (image.docker("production:1"), not_allowed),
        (image.docker("production:1").layout().file("index.json", &image.index("ci-1")), not_allowed),
        (image.oci("ci-1").file("index.json", &image.index("production:1")), not_allowed),
        (named_by(&image, "index.json", &by_ref).layout(), not_allowed),
        (named_by(&image, "./x/../index.json", &index).layout(), not_allowed),
        (named_by(&image, "manifest.json", r#"[{"repotags":["production:1"]}]"#), not_allowed),
        (named_by(&image, "repositories", r#"{"production":{"1":"0"}}"#), not_allowed),
        (named_by(&image, "index.json", r#"{"manifests":[],"Manifests":[]}"#).layout(), "cannot be told for certain"),
        (image.docker("ci-1").link(b'2', "manifest.json", "other.json"), "it is a link"),
    ] {
        guarded.denied(&archive, expected);
        assert!(!guarded.has("production:1"));
    }
    guarded.load(&image.oci("ci-1:1")).ok();
    guarded.load(&image.docker("ci-2:1")).ok();
    assert!(guarded.has("ci-1:1") && guarded.has("ci-2:1"));
    // What `docker save` makes of an image that is allowed is loaded, however it is compressed.
    let saved = stack.fresh_path("-saved.tar");
    stack.docker(["save", "-o", text(&saved), "ci-1:1", "ci-2:1"]).ok();
    stack.docker(["image", "rm", "ci-1:1", "ci-2:1"]).ok();
    Run::new("gzip").arg(&saved).ok();
    let door = format!("unix://{}", text(&guarded.door));
    let load = stack.docker(["load", "-i", &format!("{}.gz", text(&saved))]).env("DOCKER_HOST", door);
    load.ok();
    assert!(guarded.has("ci-1:1") && guarded.has("ci-2:1"));
    stack.docker(["image", "rm", "ci-1:1", "ci-2:1"]).ok();
}

#[test]
fn names_that_must_not_move_stay() {
    let stack = Stack::shared();
    let guarded = Guarded::new(stack, "docker", stack.docker_host(), &["--deny-tag-move"]);
    let (first, second) = (Image::of(&[b"first"]), Image::of(&[b"second"]));
    guarded.load(&first.oci("still:1")).ok();
    let before = stack.image("docker.io/library/still:1");
    guarded.load(&first.oci("still:1")).ok();
    // With both kinds of documents, as `docker save` writes them.
    guarded.load(&first.oci("still:1").file("manifest.json", &first.docker_manifest("still:1"))).ok();
    guarded.denied(&second.oci("still:1"), "names must not move here");
    guarded.denied(&second.docker("still:1"), "names must not move here");
    // An index that nothing makes an index: dockerd goes by the other document.
    guarded.denied(&second.docker("still:1").file("index.json", &first.index("still:1")), "names must not move here");
    assert_eq!(stack.image("docker.io/library/still:1"), before);
    guarded.load(&second.oci("other:1")).ok();
    stack.docker(["image", "rm", "still:1", "other:1"]).ok();
}

#[test]
fn an_engine_without_a_store_is_watched_as_well() {
    let stack = Stack::start(&[Part::Containerd, Part::DockerdClassic]);
    let guarded = Guarded::new(
        &stack,
        "docker-classic",
        stack.docker_classic_host(),
        &["--allow-name", "docker.io/library/ci-*"],
    );
    let image = Image::of(&[b"classic"]);
    guarded.denied(&image.docker("production:1"), "is not allowed here");
    assert!(!guarded.has("production:1"));
    guarded.load(&image.docker("ci-1:1")).ok();
    assert!(guarded.has("ci-1:1"));
}
