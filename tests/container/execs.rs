//! Execs in containers: which are forwarded, which the buildkit door serves, and how each ends.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::both_ways::{BothWays, Side};
use crate::common::{BUILDER_IMAGE, Context, Output, Part, Stack, until};

/// How it ended and what it printed.
fn outcome(output: &Output) -> (Option<i32>, String, String) {
    (output.status.code(), output.stdout.clone(), output.stderr.clone())
}

#[test]
fn words_on_standard_error_and_exit_codes() {
    let sides = BothWays::of(Stack::shared(), "words");
    let (code, _, words) = sides.compare(|side| {
        let exec = ["exec", "-i", &side.container, "buildctl", "--addr", "unix:///nowhere", "dial-stdio"];
        outcome(&side.docker(exec).output())
    });
    assert_eq!(code, Some(1));
    assert!(words.contains("/nowhere"), "{words}");
    // No such program, and one that is not to be started.
    sides.compare(|side| outcome(&side.docker(["exec", "-i", &side.container, "/no/buildctl", "dial-stdio"]).output()));
    sides.compare(|side| {
        let (code, out, words) = outcome(&side.docker(["exec", "-i", "nonesuch", "buildctl", "dial-stdio"]).output());
        (code, out, words)
    });
}

#[test]
fn a_client_of_another_protocol() {
    let sides = BothWays::of(Stack::shared(), "else");
    // buildkitd responds with an HTTP/2 complaint, whoever carries it.
    let outcome_on = |side: &Side<'_>| {
        let exec = side.docker(["exec", "-i", &side.container, "buildctl", "dial-stdio"]);
        let (code, output, words) = outcome(&exec.stdin("GET / HTTP/1.1\r\nHost: x\r\n\r\n").output());
        // Both of buildctl's directions end at once: whether it complains of one or of both of them is left to chance.
        (code, output, words.lines().last().map(str::to_owned))
    };
    let complaint = sides.compare(outcome_on);
    // And the same while a connection to the builder waits, so that no exec is started at first.
    let side = sides.through();
    side.builder.buildx(["du"]).ok();
    let before = side.now();
    assert_eq!(outcome_on(side), complaint);
    assert_eq!(side.started_since(&before), 1);
}

#[test]
fn another_program_under_the_name() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack, "fake");
    // It says what it was told, bytes that are no frame of any protocol, to both of its outputs.
    let script = "#!/bin/sh\necho begun; echo trouble >&2; cat; exit 7\n";
    let context = Context::new("").file("buildctl", script);
    let copied = context.path().join("buildctl");
    stack.run("chmod").arg("+x").arg(&copied).ok();
    let run = ["run", "-d", "--name", "fake", "--network", "host", "--entrypoint", "sleep", BUILDER_IMAGE, "600"];
    stack.docker(run).ok();
    stack.docker(["cp"]).arg(&copied).arg("fake:/buildctl").ok();
    for input in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand more"[..], b"\0\xff something else", b""] {
        let (code, output, _) = sides.compare(|side| {
            outcome(&side.docker(["exec", "-i", "fake", "/buildctl", "dial-stdio"]).stdin(input).output())
        });
        assert_eq!(code, Some(7));
        assert_eq!(output, format!("begun\n{}", String::from_utf8_lossy(input)));
    }
}

#[test]
fn words_before_the_first_frame() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack, "before");
    // A builder whose way in says something first, and then speaks HTTP/2.
    let script = "#!/bin/sh\necho words to begin with >&2\nexec /usr/bin/buildctl \"$@\"\n";
    let context = Context::new("").file("wrap/buildctl", script);
    stack.run("chmod").arg("+x").arg(context.path().join("wrap/buildctl")).ok();
    let path = ["--env", "PATH=/wrap:/usr/bin:/bin", BUILDER_IMAGE, "--oci-worker-net=host"];
    stack.docker(["run", "-d", "--name", "wrapped", "--privileged", "--network", "host"]).args(path).ok();
    stack.docker(["cp"]).arg(context.path().join("wrap")).arg("wrapped:/wrap").ok();
    let ready = || stack.docker(["exec", "wrapped", "buildctl", "debug", "workers"]).output().status.success();
    until("the builder to respond", ready, |ready| *ready);
    // Both outputs come as they come, so that the order of the two is not compared. A connection waits for others once the builder
    // has spoken.
    let first = |side: &Side<'_>| {
        let (mut stream, _) = start(side, "", "wrapped");
        stream.write_all(HELLO).unwrap();
        let (mut words, mut has_spoken) = (None, false);
        while words.is_none() || !has_spoken {
            match frame(&mut stream) {
                (2, bytes) => words = Some(String::from_utf8(bytes).unwrap()),
                _ => has_spoken = true,
            }
        }
        words
    };
    assert_eq!(sides.compare(first).as_deref(), Some("words to begin with\n"));
    // From the connection that waits: no process, so no words of one.
    let (mut stream, _) = start(sides.through(), "", "wrapped");
    stream.write_all(HELLO).unwrap();
    assert_eq!(frame(&mut stream).0, 1);
}

/// An HTTP/2 client's first words: the preface, and no settings that differ from the usual ones.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Starts a way to the builder in `container`, and returns its streams and the head of the response.
fn start(side: &Side<'_>, version: &str, container: &str) -> (UnixStream, String) {
    let create = r#"{"AttachStdin":true,"AttachStdout":true,"AttachStderr":true,"Cmd":["buildctl","dial-stdio"]}"#;
    let (mut stream, head) = exchange(side, &post(&format!("{version}/containers/{container}/exec"), create, ""));
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let created: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let start = format!("{version}/exec/{}/start", created["Id"].as_str().unwrap());
    exchange(side, &post(&start, r#"{"Detach":false,"Tty":false}"#, "Connection: Upgrade\r\nUpgrade: tcp\r\n"))
}

/// The next frame: whose it is, and what is in it.
fn frame(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut header = [0; 8];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[1..4], [0, 0, 0]);
    let mut payload = vec![0; u32::from_be_bytes(header[4..].try_into().unwrap()) as usize];
    stream.read_exact(&mut payload).unwrap();
    (header[0], payload)
}

/// Sends a request on a connection of its own, and returns the head of its response and what follows.
fn exchange(side: &Side<'_>, request: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(side.host.strip_prefix("unix://").unwrap()).unwrap();
    // Only used up by a failure: what should come comes at once.
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).unwrap())
}

fn post(path: &str, body: &str, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{more}\r\n{body}",
        body.len()
    )
}

#[test]
fn the_response_is_that_of_dockerd() {
    let sides = BothWays::of(Stack::shared(), "answer");
    for side in [sides.through(), sides.direct()] {
        side.builder.buildx(["du"]).ok();
    }
    for version in ["", "/v1.44", "/v1.41"] {
        sides.compare(|side| {
            let before = side.now();
            let (mut stream, head) = start(side, version, &side.container);
            stream.write_all(HELLO).unwrap();
            assert_eq!(frame(&mut stream).0, 1);
            if side.name == "through" {
                assert_eq!(side.started_since(&before), 0, "a connection waited");
            }
            head
        });
    }
}

#[test]
fn a_container_that_is_killed() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack, "killed");
    let dockerfile = format!("FROM {}\nRUN echo begun && sleep 600\n", stack.base_image());
    let context = Context::new(&dockerfile);
    let (code, words) = sides.compare(|side| {
        let running = side.builder.build(context.path(), ["--load", "-t", &side.tag("killed")]).spawn();
        until("the build to run", || running.stderr(), |output| output.contains(" begun"));
        stack.docker(["kill", &side.container]).ok();
        let output = running.wait();
        assert_eq!(stack.tagged("moby", &side.tag("killed")), None);
        // Which of buildx's calls meets the end first, and is named before this, is left to chance.
        let error = output.stderr.lines().find_map(|line| line.strip_prefix("ERROR: failed to build: failed to "));
        let reason = error.and_then(|error| error.find("error reading from server").map(|at| error[at..].to_owned()));
        (output.status.code(), reason)
    });
    assert_eq!(code, Some(1));
    assert!(words.is_some());
    until("no lease to be left", || ours(stack), Vec::is_empty);
    // It starts again, and what waited is not taken for it.
    sides.compare(|side| {
        // Unlike `docker start`, this waits until the builder listens.
        side.builder.buildx(["inspect", "--bootstrap"]).ok();
        let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "after");
        let output = side.builder.build(context.path(), ["--load", "-t", &side.tag("after")]).ok();
        side.check_way(&output);
        side.digest(&side.tag("after"))
    });
}

#[test]
fn a_container_that_is_killed_while_its_image_is_sent() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    let sides = BothWays::of(&stack, "sending");
    let side = sides.through();
    let ingests = stack.content_store().join("ingest");
    let context = Context::new("FROM scratch\nCOPY big /big\n").noise("big", 120 << 20, 1);
    let running = side.builder.build(context.path(), ["--load", "-t", "sent:1"]).spawn();
    until("bytes to arrive", || fs::read_dir(&ingests).unwrap().count(), |count| *count > 0);
    stack.docker(["kill", &side.container]).ok();
    let output = running.wait();
    assert_eq!(output.status.code(), Some(1), "{output}");
    assert_eq!(stack.tagged("moby", "sent:1"), None, "{output}");
    until("no lease to be left", || ours(&stack), Vec::is_empty);
    until("no ingest to be left", || stack.ingests("moby"), Vec::is_empty);
    // The next one succeeds: buildx starts the container again.
    side.check_way(&side.builder.build(context.path(), ["--load", "-t", "sent:1"]).ok());
    assert!(side.digest("sent:1").starts_with("sha256:"));
}

/// Leases that are not those of containers, which are called as these are.
fn ours(stack: &Stack) -> Vec<String> {
    stack.leases("moby").into_iter().filter(|lease| lease.len() != 64).collect()
}
