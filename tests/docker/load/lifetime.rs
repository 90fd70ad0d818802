//! Lifetimes: leases, clients that disconnect, daemons that end, memory.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::archive::Image;
use super::two_engines::{LEFT_OUT, TwoEngines};
use crate::common::{Linkspan, Part, Tar, until};

/// A load whose client can stop in the middle.
pub(super) struct Upload(UnixStream);

impl Upload {
    pub(super) fn begin(engines: &TwoEngines, query: &str) -> Self {
        let mut stream = UnixStream::connect(engines.door()).unwrap();
        let head = format!(
            "POST /v1.51/images/load{query} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/x-tar\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        Self(stream)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).unwrap();
        self.0.write_all(bytes).unwrap();
        self.0.write_all(b"\r\n").unwrap();
    }

    fn finish(mut self) -> String {
        self.send_end();
        self.response()
    }

    /// Says that the archive is whole.
    pub(super) fn send_end(&mut self) {
        self.0.write_all(b"0\r\n\r\n").unwrap();
    }

    pub(super) fn response(mut self) -> String {
        let mut response = String::new();
        self.0.read_to_string(&mut response).unwrap();
        response
    }
}

fn write(engines: &TwoEngines, tar: Tar) -> PathBuf {
    tar.write(engines.behind.fresh_path("-archive"))
}

/// The leases of loads under way.
pub(super) fn holds(engines: &TwoEngines) -> Vec<String> {
    engines.behind.linkspan_leases("moby")
}

/// How many blobs our leases pin: each is a resource of a lease, or a label of a document that is one.
fn pins(engines: &TwoEngines) -> usize {
    let listed = engines.behind.ctr("moby", ["content", "ls"]).ok().stdout;
    let documents = listed.lines().filter(|line| line.contains(".linkspan.")).count();
    listed.matches(".linkspan.").count() + engines.behind.resources("moby", &holds(engines)).len() - documents
}

#[track_caller]
fn preload(engines: &TwoEngines, image: &Image, name: &str) {
    let archive = write(engines, image.oci(name).end());
    engines.behind.docker(["load", "-i", archive.to_str().unwrap()]).ok();
}

#[test]
fn what_was_left_out_stays_whoever_removes_it_meanwhile() {
    let engines = TwoEngines::new();
    let image = Image::of(&[b"one", &[7; 300_000]]);
    preload(&engines, &image, "meanwhile:1");
    // The index of that load's archive is garbage, which goes sooner or later.
    engines.behind.collect_garbage("moby");
    for layout_last in [true, false] {
        let mut upload = Upload::begin(&engines, "?quiet=0");
        upload.send(&image.blobs(Tar::default()).0);
        until("the hold", || holds(&engines), |holds| holds.len() == 1);
        // The next header shows that all of them were looked at.
        upload.send(&Tar::default().file("passed", [1; 100_000]).0);
        // Looked at is not yet pinned: that is done beside the stream, a few at a time whenever more comes.
        let blobs = image.layers.len() + 2;
        let more = Tar::default().file("more", b"x").0;
        let pinned = || {
            upload.send(&more);
            pins(&engines)
        };
        until("the pins", pinned, |pins| *pins == blobs);
        let before = engines.behind.blobs("moby");
        engines.behind.docker(["rmi", "-f", "meanwhile:1"]).ok();
        engines.behind.docker(["image", "prune", "-af"]).ok();
        engines.behind.collect_garbage("moby");
        let after = engines.behind.blobs("moby");
        let gone: Vec<_> = before.iter().filter(|blob| !after.contains(blob)).collect();
        assert!(gone.is_empty(), "{gone:?} are gone");
        let rest = if layout_last {
            Tar::default().file("index.json", image.index("meanwhile:1")).layout()
        } else {
            Tar::default().file("manifest.json", image.docker_manifest("meanwhile:1"))
        };
        upload.send(&rest.end().0);
        let response = upload.finish();
        assert!(response.contains(r#"{"stream":"Loaded image: meanwhile:1\n"}"#), "{response}");
        assert!(!response.contains("rror"), "{response}");
        assert_eq!(response.contains(LEFT_OUT), layout_last, "{response}");
        engines.quiet();
        engines.behind.collect_garbage("moby");
        // Which reads all of it.
        engines.behind.docker(["save", "meanwhile:1"]).ok();
    }
}

#[test]
fn a_client_that_leaves_leaves_nothing() {
    let engines = TwoEngines::new();
    let image = Image::of(&[b"one", b"two"]);
    preload(&engines, &image, "leaves:1");
    let mut upload = Upload::begin(&engines, "");
    upload.send(&image.blobs(Tar::default()).0);
    until("the hold", || holds(&engines), |holds| holds.len() == 1);
    drop(upload);
    engines.quiet();
    let names: Vec<_> = engines.behind.images("moby").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["docker.io/library/leaves:1"]);
}

#[test]
fn dockerd_cleans_up_after_a_client_that_leaves() {
    let engines = TwoEngines::new();
    let image = Image::of(&[b"one", &[7; 300_000]]);
    let archive = image.oci("leaves:1").0;
    let behind_a_member = image.blobs(Tar::default()).0.len();
    let none = || engines.behind.leases("moby").into_iter().chain(engines.behind.ingests("moby")).collect::<Vec<_>>();
    for length in [1000, behind_a_member, behind_a_member + 100, archive.len() - 512, archive.len()] {
        let mut upload = Upload::begin(&engines, "");
        upload.send(&archive[..length]);
        until("dockerd to have begun", none, |left| !left.is_empty());
        drop(upload);
        // Directly, its lease stays for a day, and with it what was sent.
        until("dockerd to be through with it", none, Vec::is_empty);
        engines.behind.collect_garbage("moby");
        assert_eq!(engines.behind.blobs("moby"), Vec::<String>::new(), "left at {length}");
        assert_eq!(engines.behind.images("moby"), Vec::new(), "left at {length}");
    }
}

#[test]
fn a_linkspan_that_is_killed_leaves_nothing_to_the_next() {
    let mut engines = TwoEngines::new();
    let image = Image::of(&[b"one", b"two"]);
    preload(&engines, &image, "killed:1");
    let mut upload = Upload::begin(&engines, "");
    upload.send(&image.blobs(Tar::default()).0);
    until("the hold", || holds(&engines), |holds| holds.len() == 1);
    engines.linkspan.kill();
    assert_eq!(holds(&engines).len(), 1);
    let (behind, containerd) = (&engines.behind, ["--containerd-address", engines.behind.containerd_address()]);
    let _next = Linkspan::docker_door_at(behind, behind.docker_host(), behind.fresh_path(".sock"), &containerd);
    engines.quiet();
}

#[test]
fn an_engine_that_is_away_is_reported_in_dockers_form() {
    let engines = TwoEngines::new();
    engines.behind.kill(Part::Dockerd);
    // The meter ends with the first connection that it cannot pass on.
    let _ = UnixStream::connect(engines.meter.path());
    until("nobody to listen", || UnixStream::connect(engines.meter.path()).is_err(), |is_gone| *is_gone);
    let mut upload = Upload::begin(&engines, "");
    upload.send(&Image::of(&[b"one"]).oci("down:1").end().0);
    let response = upload.finish();
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains(r#"{"message":"linkspan: "#), "{response}");
}

#[test]
fn progress_is_for_requests_for_it() {
    let engines = TwoEngines::new();
    let image = Image::of(&[b"one", b"two"]);
    preload(&engines, &image, "progress:1");
    let archive = image.oci("progress:1").end();
    for (query, shown) in [("?quiet=0", true), ("?quiet=1", false), ("", false)] {
        let mut upload = Upload::begin(&engines, query);
        upload.send(&archive.0);
        let response = upload.finish();
        assert_eq!(response.contains(r#"{"stream":"linkspan: left out 4 blobs ("#), shown, "{query}: {response}");
        assert!(response.contains(r#"{"stream":"Loaded image: progress:1\n"}"#), "{query}: {response}");
    }
    // The client asks when it has a terminal.
    let file = write(&engines, archive);
    let command = format!("docker load -i {}", file.display());
    let door = format!("unix://{}", engines.door().display());
    let seen = engines.behind.run("script").args(["-qec", &command, "/dev/null"]).env("DOCKER_HOST", door).ok();
    let lines = seen.lines();
    assert_eq!(lines.len(), 2, "{seen}");
    assert!(lines[0].starts_with(LEFT_OUT) && lines[1].trim() == "Loaded image: progress:1", "{seen}");
}

#[test]
fn loads_at_the_same_time_do_not_meet() {
    let engines = TwoEngines::new();
    let image = Image::of(&[b"one", &[7; 1 << 20]]);
    preload(&engines, &image, "same:0");
    let archives: Vec<_> = (0..6).map(|number| write(&engines, image.oci(&format!("same:{number}")).end())).collect();
    let running: Vec<_> =
        archives.iter().map(|archive| engines.through(["load", "-i", archive.to_str().unwrap()]).spawn()).collect();
    for (number, running) in running.into_iter().enumerate() {
        let output = running.wait();
        assert_eq!(output.stdout.trim(), format!("Loaded image: same:{number}"), "{output}");
    }
    engines.quiet();
}

#[test]
fn memory_does_not_grow_with_the_archive() {
    let engines = TwoEngines::new();
    // How much of the program itself is resident depends on how it was built.
    let begun = engines.linkspan.peak_bytes();
    let large: Vec<u8> =
        (0..(32 << 20) / 4_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let image = Image::of(&[&large]);
    preload(&engines, &image, "large:1");
    let blob = Tar::default().blob(&image.layers[0]).0;
    let passed = Tar::default().file("passed", &large).0;
    let mut upload = Upload::begin(&engines, "?quiet=0");
    for round in 0..36 {
        upload.send(if round % 8 == 7 { &passed } else { &blob });
    }
    upload.send(&image.oci("large:2").end().0);
    let response = upload.finish();
    assert!(response.contains(r#"Loaded image: large:2\n"#), "{response}");
    let grown = engines.linkspan.peak_bytes() - begun;
    assert!(grown <= 32 << 20, "{grown} bytes more than at the beginning were resident while 1.2 GB passed");
    assert!(fs::metadata(engines.door()).is_ok());
}
