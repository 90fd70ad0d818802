//! `--allow-name` and `--deny-tag-move` for what is loaded through the docker door.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::archive::Image;
use crate::common::{Linkspan, Output, Part, Run, Stack, Tar, linkspan, text, until};

const NOT_ALLOWED: &str = "is not allowed here; allowed are: docker.io/library/ci-*";

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

    /// Sends an archive to `path` over HTTP/1.1; the whole response.
    #[track_caller]
    fn post(&self, target: &str, archive: &Tar) -> String {
        let mut stream = UnixStream::connect(&self.door).unwrap();
        let Tar(bytes) = archive.clone().end();
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/x-tar\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            bytes.len()
        );
        // A server need not read all that it refuses.
        let _ = stream.write_all(&[head.as_bytes(), &bytes].concat());
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    }

    /// The same over HTTP/2, which is spoken without asking: the status and the content of the response.
    fn post_over_http2(&self, target: &str, archive: &Tar) -> (u16, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::UnixStream::connect(&self.door).await.unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request =
                http::Request::post(format!("http://docker{target}")).header("content-type", "application/x-tar");
            let mut client = client.ready().await.unwrap();
            let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
            let Tar(bytes) = archive.clone().end();
            // As above.
            let _ = body.send_data(bytes.into(), true);
            let (head, mut body) = response.await.unwrap().into_parts();
            let mut content = Vec::new();
            while let Some(Ok(bytes)) = body.data().await {
                let _ = body.flow_control().release_capacity(bytes.len());
                content.extend_from_slice(&bytes);
            }
            (head.status.as_u16(), String::from_utf8(content).unwrap())
        })
    }

    /// The lines of the log about loads that did and did not succeed.
    fn logged(&self) -> (usize, usize) {
        let log = self.linkspan.log();
        let failed = log.lines().filter(|line| line.contains(" not loaded ")).count();
        (log.lines().filter(|line| line.contains(" loaded ")).count() - failed, failed)
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
    for (archive, expected) in [
        (image.oci("production:1"), NOT_ALLOWED),
        (large.oci("production:1"), NOT_ALLOWED),
        (image.docker("production:1"), NOT_ALLOWED),
        (image.docker("production:1").layout().file("index.json", image.index("ci-1")), NOT_ALLOWED),
        (image.oci("ci-1").file("index.json", image.index("production:1")), NOT_ALLOWED),
        (named_by(&image, "index.json", &by_ref).layout(), NOT_ALLOWED),
        (named_by(&image, "./x/../index.json", &index).layout(), NOT_ALLOWED),
        (named_by(&image, "manifest.json", r#"[{"repotags":["production:1"]}]"#), NOT_ALLOWED),
        (named_by(&image, "repositories", r#"{"production":{"1":"0"}}"#), NOT_ALLOWED),
        (named_by(&image, "index.json", r#"{"manifests":[],"Manifests":[]}"#).layout(), "cannot be told for certain"),
        (image.docker("ci-1").symlink("manifest.json", "other.json"), "it is a link"),
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
    until("a line for each load", || guarded.logged(), |logged| *logged == (3, 11));
}

#[test]
fn no_form_of_request_gets_by() {
    let stack = Stack::shared();
    let guarded = Guarded::new(stack, "docker", stack.docker_host(), &["--allow-name", "docker.io/library/ci-*"]);
    let image = Image::of(&[b"another way"]);
    let (good, bad) = (image.oci("ci-way:1"), image.oci("bad-way:1"));
    for target in [
        "/v1.47/images/%6coad",
        "/v1.47%2fimages%2Fload?quiet=0",
        "/%76%31.47/images/load",
        "http://docker/images/%6Coad",
    ] {
        let response = guarded.post(target, &bad);
        assert!(response.contains(NOT_ALLOWED), "{target}: {response}");
        assert!(!guarded.has("bad-way:1"), "{target}");
    }
    // A form that Go takes for a path, and few others do.
    let response = guarded.post("http:/images/load", &bad);
    assert!(response.starts_with("HTTP/1.1 400 ") && !guarded.has("bad-way:1"), "{response}");
    // dockerd sends whoever asks like this to the clean path.
    for target in ["//images/load", "/v1.47/images/./load", "/images/%2e%2e/images/load"] {
        let response = guarded.post(target, &bad);
        assert!(response.starts_with("HTTP/1.1 301 "), "{target}: {response}");
        assert!(!guarded.has("bad-way:1"), "{target}");
    }
    let response = guarded.post("/images/%6coad?quiet=0", &good);
    assert!(response.starts_with("HTTP/1.1 200 ") && guarded.has("ci-way:1"), "{response}");

    for target in ["/v1.47/images/load", "/images/%6coad?quiet=0"] {
        let (status, response) = guarded.post_over_http2(target, &bad);
        assert!(status == 505 && response.contains("over HTTP/1.1 only; hint: "), "{target}: {status} {response}");
        assert!(!guarded.has("bad-way:1"), "{target}");
    }
    // Everything else is dockerd's over HTTP/2, too.
    let (status, response) = guarded.post_over_http2("/v1.47/images/nothing/tag?repo=ci-x", &Tar::default());
    assert!(status == 404 && response.contains("No such image"), "{status} {response}");
    until("a line for each load", || guarded.logged(), |logged| *logged == (1, 7));

    let open = Guarded::new(stack, "docker", stack.docker_host(), &[]);
    let (status, response) = open.post_over_http2("/images/load?quiet=0", &bad);
    assert!(status == 200 && open.has("bad-way:1"), "without a policy nothing is looked into: {status} {response}");
    stack.docker(["image", "rm", "ci-way:1", "bad-way:1"]).ok();
}

#[test]
fn names_that_must_not_move_stay() {
    let stack = Stack::shared();
    let guarded = Guarded::new(stack, "docker", stack.docker_host(), &["--deny-tag-move"]);
    let (first, second) = (Image::of(&[b"first"]), Image::of(&[b"second"]));
    guarded.load(&first.oci("still:1")).ok();
    let before = stack.tagged("moby", "still:1");
    guarded.load(&first.oci("still:1")).ok();
    // With both kinds of documents, as `docker save` writes them.
    guarded.load(&first.oci("still:1").file("manifest.json", first.docker_manifest("still:1"))).ok();
    guarded.denied(&second.oci("still:1"), "names must not move here");
    guarded.denied(&second.docker("still:1"), "names must not move here");
    // An index that nothing makes an index: dockerd goes by the other document.
    guarded.denied(&second.docker("still:1").file("index.json", first.index("still:1")), "names must not move here");
    assert_eq!(stack.tagged("moby", "still:1"), before);
    guarded.load(&second.oci("other:1")).ok();
    stack.docker(["image", "rm", "still:1", "other:1"]).ok();
}

/// dockerd has no way to compare and set: whoever comes second finds that the name is taken, by whichever door.
#[test]
fn of_those_who_set_a_name_at_once_one_succeeds() {
    let stack = Stack::shared();
    for engine in ["docker", "docker-api"] {
        let (export, cache) = (stack.fresh_path("-export.sock"), stack.fresh_path("-cache"));
        let to = format!("unix://{}", text(&export));
        let policy = ["--deny-tag-move", "--export-listen", &to, "--cache-dir", text(&cache)];
        let guarded = Guarded::new(stack, engine, stack.docker_host(), &policy);
        for round in 0..3 {
            let name = format!("at-once-{engine}:{round}");
            let image = |at: u8| Image::of(&[format!("{engine} {round} {at}").as_bytes()]);
            let runs: Vec<_> = (0..6)
                .map(|at| {
                    let archive = image(at).oci(&name);
                    match at % 2 {
                        0 => guarded.load(&archive).spawn(),
                        _ => {
                            let file = archive.end().write(stack.fresh_path("-archive.tar"));
                            linkspan(["load", "-q", "-i", text(&file), "--to", &to]).spawn()
                        }
                    }
                })
                .collect();
            let outputs: Vec<_> = runs.into_iter().map(|run| run.wait()).collect();
            let (succeeded, failed): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.status.success());
            let told = |output: &&Output| output.stderr.contains("names must not move here");
            assert!(succeeded.len() == 1 && failed.iter().all(told), "{engine}: {outputs:?}");
            stack.docker(["image", "rm", &name]).ok();
        }
    }
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

    let still = Guarded::new(&stack, "docker-classic", stack.docker_classic_host(), &["--deny-tag-move"]);
    let other = Image::of(&[b"another"]);
    still.load(&image.docker("ci-2:1")).ok();
    assert!(still.has("ci-2:1"), "a new name is no move");
    still.denied(&other.docker("ci-2:1"), "names must not move here");
    still.load(&other.docker("ci-3:1")).ok();
    assert!(still.has("ci-3:1"));
}
