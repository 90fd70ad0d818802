//! What is large, long or many.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use linkspan::image::{Descriptor, Digest};
use serde_json::json;

use crate::common::{Disk, Linkspan, Part, Stack, text};
use crate::concurrent::{offset, patch_slowly};
use crate::fixture::{Image, MANIFEST};
use crate::http::{request, send};
use crate::pushes::{image, push_blobs, put, refused};
use crate::served::Served;
use crate::uploads::{begin, content, is_created};

const WRITABLE: &[&str] = &["--registry-writable"];

/// A client that asks nothing first sends all of it: it is read to its end, and not kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_that_is_there_is_sent_once_more() {
    const SIZE: usize = 200 << 20;
    for served in [Served::layout(WRITABLE).await, Served::containerd("registry-large", WRITABLE).await] {
        let whole = vec![7; SIZE];
        let digest = Digest::sha256(&whole);
        for _ in 0..2 {
            let location = begin(&served, "large/app");
            let put = send(&served.address, "PUT", &format!("{location}?digest={digest}"), &[], &whole);
            is_created(&put, "large/app", &digest);
        }
        let peak = served.linkspan.peak_bytes();
        assert!(peak < SIZE as u64, "{peak} bytes of memory");
    }
}

/// How many bytes a process has read from files and sockets (proc(5), `rchar`).
#[track_caller]
fn read_by(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

/// A store that reads what it has for each chunk would read half a gigabyte here.
#[tokio::test(flavor = "multi_thread")]
async fn many_chunks_are_not_read_again_and_again() {
    const CHUNK: usize = 256 << 10;
    const CHUNKS: usize = 64;
    let stack = Stack::start(&[Part::Containerd]);
    let folder = tempfile::tempdir().unwrap();
    let layout = ["--engine", "layout", "--layout", text(folder.path())];
    for engine in [&layout[..], &stack.containerd_flags("registry-chunks")] {
        let (linkspan, address) = Linkspan::registry(&stack, &[engine, WRITABLE].concat());
        let whole = content("chunks", CHUNK * CHUNKS);
        let digest = Digest::sha256(&whole);
        let begun = send(&address, "POST", "/v2/chunks/app/blobs/uploads/", &[], b"");
        let location = begun.header("location").unwrap().to_owned();
        let readers = [linkspan.pid(), stack.pid(Part::Containerd)].map(rustix::process::Pid::as_raw_nonzero);
        let read = || readers.iter().map(|pid| read_by(pid.get())).sum::<u64>();
        let before = read();
        for (at, chunk) in whole.chunks(CHUNK).enumerate() {
            let range = format!("{}-{}", at * CHUNK, (at + 1) * CHUNK - 1);
            assert_eq!(send(&address, "PATCH", &location, &[("Content-Range", &range)], chunk).status, 202);
        }
        let put = send(&address, "PUT", &format!("{location}?digest={digest}"), &[], b"");
        is_created(&put, "chunks/app", &digest);
        let read = read() - before;
        assert!(read < 8 * whole.len() as u64, "{read} bytes were read of {}", whole.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_tags_are_as_long_as_they_may_be() {
    for served in Served::everywhere("registry-long", WRITABLE).await {
        let image = image(&format!("long {}\n", served.kind()));
        let bytes = &image.blobs[&image.root.digest];
        let name = format!("long/{}", "n".repeat(250));
        let tag = "t".repeat(128);
        push_blobs(&served, &name, &image);
        let pushed = put(&served, &name, &tag, MANIFEST, bytes);
        assert_eq!(pushed.status, 201, "{pushed:?}");
        assert_eq!(served.get(&format!("/v2/{name}/manifests/{tag}")).body, *bytes);
        assert_eq!(served.get(&format!("/v2/{name}/tags/list")).json()["tags"], json!([tag]));
        refused(&put(&served, &name, &format!("{tag}t"), MANIFEST, bytes), 400, "TAG_INVALID");
        refused(&put(&served, &format!("{name}n"), "1", MANIFEST, bytes), 400, "NAME_INVALID");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_as_large_as_registries_must_take() {
    for served in Served::everywhere("registry-4-mib", WRITABLE).await {
        let image = image(&format!("4 MiB {}\n", served.kind()));
        push_blobs(&served, "large/manifest", &image);
        let manifest: serde_json::Value = serde_json::from_slice(&image.blobs[&image.root.digest]).unwrap();
        let padded = |size: usize| {
            let mut manifest = manifest.clone();
            manifest["annotations"] = json!({"padding": ""});
            let rest = size - serde_json::to_vec(&manifest).unwrap().len();
            manifest["annotations"]["padding"] = "x".repeat(rest).into();
            serde_json::to_vec(&manifest).unwrap()
        };
        let largest = padded(4 << 20);
        let pushed = put(&served, "large/manifest", "1", MANIFEST, &largest);
        assert_eq!(pushed.status, 201, "{pushed:?}");
        assert!(served.get("/v2/large/manifest/manifests/1").body == largest);
        refused(&put(&served, "large/manifest", "1", MANIFEST, &padded((4 << 20) + 1)), 413, "MANIFEST_INVALID");
        // More layers than any image can have, each of which is there.
        let mut many = manifest.clone();
        many["layers"] = vec![manifest["layers"][0].clone(); 10_000].into();
        let many = put(&served, "large/manifest", "2", MANIFEST, &serde_json::to_vec(&many).unwrap());
        refused(&many, 400, "MANIFEST_INVALID");
        assert_eq!(served.get("/v2/large/manifest/tags/list").json()["tags"], json!(["1"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_referrers_than_a_page_has_room_for() {
    const COUNT: usize = 1050;
    let served = Served::layout(WRITABLE).await;
    let subject = image("subject of many\n");
    let empty = Descriptor::new("application/vnd.oci.empty.v1+json", Digest::sha256(b"{}"), 2);
    let target = format!("/v2/many/app/blobs/uploads/?digest={}", empty.digest);
    assert_eq!(send(&served.address, "POST", &target, &[], b"{}").status, 201);
    let mut expected: Vec<String> = Vec::new();
    // The subject comes in their middle, and goes again.
    for number in 0..COUNT {
        if number == COUNT / 2 {
            push_blobs(&served, "many/app", &subject);
            let bytes = &subject.blobs[&subject.root.digest];
            assert_eq!(put(&served, "many/app", "1", MANIFEST, bytes).status, 201);
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.note", "config": empty,
            "layers": [], "subject": subject.root, "annotations": {"number": number.to_string()},
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let digest = Digest::sha256(&manifest);
        let pushed = put(&served, "many/app", digest.as_str(), MANIFEST, &manifest);
        assert_eq!((pushed.status, pushed.header("oci-subject")), (201, Some(subject.root.digest.as_str())));
        expected.push(digest.to_string());
    }
    expected.sort();
    for is_there in [true, false] {
        let (mut next, mut found, mut pages) =
            (Some(format!("/v2/many/app/referrers/{}", subject.root.digest)), Vec::new(), 0);
        while let Some(target) = next {
            let page = served.get(&target);
            assert_eq!(page.status, 200);
            let list = page.json();
            found.extend(
                list["manifests"].as_array().unwrap().iter().map(|it| it["digest"].as_str().unwrap().to_owned()),
            );
            pages += 1;
            next = page.next();
        }
        assert_eq!((found, pages), (expected.clone(), 2), "{is_there}");
        if is_there {
            assert_eq!(request(&served.address, "DELETE", "/v2/many/app/manifests/1", &[]).status, 202);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_too_many_uploads_is_told_to_wait() {
    let served = Served::layout(WRITABLE).await;
    let locations: Vec<_> = (0..256).map(|_| begin(&served, "many/uploads")).collect();
    let target = "/v2/many/uploads/blobs/uploads/";
    let more = send(&served.address, "POST", target, &[], b"");
    refused(&more, 429, "TOOMANYREQUESTS");
    assert!(more.header("retry-after").unwrap().parse::<u32>().is_ok_and(|seconds| seconds > 0), "{more:?}");
    assert_eq!(request(&served.address, "DELETE", &locations[0], &[]).status, 204);
    assert_eq!(send(&served.address, "POST", target, &[], b"").status, 202);
}

/// A client that sends a byte and then nothing does not hold an upload for ever, and finds it where it left it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_given_up() {
    let served = Served::layout(WRITABLE).await;
    let (address, whole) = (&served.address, content("slow", 100_000));
    let location = begin(&served, "slow/app");
    let mut slow = patch_slowly(address, &location, whole.len(), &whole[..40_000]);
    let mut response = String::new();
    slow.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 408"), "{response}");
    let patched = send(address, "PATCH", &location, &[("Content-Range", "40000-99999")], &whole[40_000..]);
    assert_eq!(patched.status, 202, "{patched:?}");
    let digest = Digest::sha256(&whole);
    is_created(&send(address, "PUT", &format!("{location}?digest={digest}"), &[], b""), "slow/app", &digest);
}

/// How long a body takes is limited by nothing but its silences.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_slowly_is_taken() {
    const PIECES: usize = 5;
    let served = Served::layout(WRITABLE).await;
    let (address, whole) = (&served.address, content("drips", 1000 * PIECES));
    let location = begin(&served, "drips/app");
    let (first, rest) = whole.split_at(1000);
    let mut slow = patch_slowly(address, &location, whole.len(), first);
    for piece in rest.chunks(1000) {
        // Longer together than a silence may be.
        thread::sleep(Duration::from_secs(17));
        slow.write_all(piece).unwrap();
    }
    let mut response = String::new();
    slow.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 202"), "{response}");
    let digest = Digest::sha256(&whole);
    is_created(&send(address, "PUT", &format!("{location}?digest={digest}"), &[], b""), "drips/app", &digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_gets_full_refuses_the_blob_and_keeps_nothing_of_it() {
    let disk = Disk::new(64 << 20);
    let folder = disk.root().join("layout");
    let flags = ["--engine", "layout", "--layout", text(&folder)];
    let (mut linkspan, address) = Linkspan::registry(Stack::shared(), &[&flags, WRITABLE].concat());
    let small = content("small", 100_000);
    let push = |bytes: &[u8]| {
        let target = format!("/v2/full/app/blobs/uploads/?digest={}", Digest::sha256(bytes));
        send(&address, "POST", &target, &[], bytes)
    };
    assert_eq!(push(&small).status, 201);
    let before = disk.available();
    refused(&push(&content("large", 80 << 20)), 507, "UNAVAILABLE");
    assert!(disk.available() + (1 << 20) >= before, "{} of {before} bytes are free", disk.available());
    assert_eq!(push(&content("another small one", 100_000)).status, 201);
    assert!(linkspan.terminate().success(), "{}", linkspan.log());
}

/// What did not fit is gone; its client is told, and goes on or gives up.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_for_which_there_was_no_room_is_gone_on_with_or_given_up() {
    let disk = Disk::new(64 << 20);
    let folder = disk.root().join("layout");
    let flags = ["--engine", "layout", "--layout", text(&folder)];
    let (mut linkspan, address) = Linkspan::registry(Stack::shared(), &[&flags, WRITABLE].concat());
    let begin = || {
        let begun = send(&address, "POST", "/v2/full/app/blobs/uploads/", &[], b"");
        begun.header("location").unwrap().to_owned()
    };
    let first = content("before it was full", 8 << 20);
    let too_much = content("too much", 80 << 20);
    let before = disk.available();
    for way in ["go on", "give up", "give up at once"] {
        let location = begin();
        if way != "give up at once" {
            assert_eq!(send(&address, "PATCH", &location, &[], &first).status, 202);
        }
        refused(&send(&address, "PATCH", &location, &[], &too_much), 507, "UNAVAILABLE");
        if way == "go on" {
            let at = offset(&address, &location);
            assert!(at <= first.len(), "{at}");
            let rest = &first[at..];
            let range = format!("{at}-{}", first.len() - 1);
            let patched = match rest {
                [] => send(&address, "PATCH", &location, &[], b""),
                rest => send(&address, "PATCH", &location, &[("Content-Range", &range)], rest),
            };
            assert_eq!(patched.status, 202, "{patched:?}");
            assert_eq!(offset(&address, &location), first.len());
            let digest = Digest::sha256(&first);
            let put = send(&address, "PUT", &format!("{location}?digest={digest}"), &[], b"");
            is_created(&put, "full/app", &digest);
            assert!(request(&address, "GET", &format!("/v2/full/app/blobs/{digest}"), &[]).body == first);
        } else {
            let given_up = request(&address, "DELETE", &location, &[]);
            assert_eq!(given_up.status, 204, "{way}: {given_up:?}");
            refused(&request(&address, "GET", &location, &[]), 404, "BLOB_UPLOAD_UNKNOWN");
        }
        let (available, kept) = (disk.available(), first.len() as u64 + (2 << 20));
        assert!(available + kept >= before, "{way}: {available} of {before} bytes are free");
    }
    assert!(linkspan.terminate().success(), "{}", linkspan.log());
}

/// Requests that follow each other without a wait, and a body with trailers.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_as_http_has_it() {
    let served = Served::layout(WRITABLE).await;
    let location = begin(&served, "wire/app");
    let mut stream = TcpStream::connect(&served.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = "Host: localhost\r\n";
    let requests = format!(
        "GET /v2/ HTTP/1.1\r\n{head}\r\n\
         PATCH {location} HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n\
         HEAD /v2/wire/app/manifests/1 HTTP/1.1\r\n{head}\r\n\
         GET {location} HTTP/1.1\r\n{head}Connection: close\r\n\r\n"
    );
    stream.write_all(requests.as_bytes()).unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).unwrap();
    let statuses: Vec<_> = received.split("HTTP/1.1 ").skip(1).map(|response| &response[..3]).collect();
    assert_eq!(statuses, ["200", "202", "404", "204"], "{received}");
    assert!(received.contains("range: 0-4\r\n"), "{received}");
}

/// A range of nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_blob_has_no_part() {
    let served = Served::layout(WRITABLE).await;
    let digest = Digest::sha256(b"");
    let target = format!("/v2/empty/app/blobs/uploads/?digest={digest}");
    assert_eq!(send(&served.address, "POST", &target, &[], b"").status, 201);
    let target = format!("/v2/empty/app/blobs/{digest}");
    for range in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
        let part = request(&served.address, "GET", &target, &[("Range", range)]);
        refused(&part, 416, "RANGE_INVALID");
        assert_eq!(part.header("content-range"), Some("bytes */0"), "{range}");
    }
    let whole = served.get(&target);
    assert_eq!((whole.status, whole.body.len()), (200, 0));
}

/// What is listed changes while it is read page by page.
#[tokio::test(flavor = "multi_thread")]
async fn tags_are_removed_between_the_pages_of_their_list() {
    let served = Served::layout(WRITABLE).await;
    let image: Image = image("pages\n");
    push_blobs(&served, "pages/app", &image);
    let bytes = &image.blobs[&image.root.digest];
    for tag in ["1", "2", "3", "4", "5"] {
        assert_eq!(put(&served, "pages/app", tag, MANIFEST, bytes).status, 201);
    }
    let first = served.get("/v2/pages/app/tags/list?n=2");
    assert_eq!(first.json()["tags"], json!(["1", "2"]));
    // The one that the next page begins after, and one of the next.
    for tag in ["2", "3"] {
        assert_eq!(request(&served.address, "DELETE", &format!("/v2/pages/app/manifests/{tag}"), &[]).status, 202);
    }
    assert_eq!(served.get(&first.next().unwrap()).json()["tags"], json!(["4", "5"]));
}
