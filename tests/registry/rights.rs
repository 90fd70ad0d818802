//! What clients may do by the rules of the configuration.

use linkspan::image::{Descriptor, Digest};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::common::text;
use crate::fixture::{INDEX, Image, Layer, MANIFEST, export, names};
use crate::http::{Response, request, send};
use crate::served::Served;
use crate::users::{basic, htpasswd};

const RULES: &str = "
registry-catalog = true
registry-writable = true
[[rule]]
principals = ['user:admin']
names = ['*']
allow = ['pull', 'push', 'move', 'delete']
[[rule]]
principals = ['user:red', 'user:reader']
names = ['docker.io/red/*']
allow = ['pull']
[[rule]]
principals = ['user:red']
names = ['docker.io/red/*']
allow = ['push']
[[rule]]
principals = ['user:blue']
names = ['docker.io/blue/*', 'docker.io/red/shared:*']
allow = ['pull', 'push', 'move', 'delete']
[[rule]]
principals = ['user:tagger']
names = ['docker.io/red/shared:pr-*']
allow = ['pull', 'push']
[[rule]]
principals = ['user:writer']
names = ['docker.io/drop/*']
allow = ['push']
";

/// A door with users and rules.
pub(crate) struct Ruled {
    pub(crate) served: Served,
    _files: (NamedTempFile, NamedTempFile),
}

impl Ruled {
    pub(crate) async fn layout() -> Self {
        let files = Self::files();
        let served = Served::layout(&Self::args(&files)).await;
        Self { served, _files: files }
    }

    pub(crate) async fn containerd(namespace: &str) -> Self {
        let files = Self::files();
        let served = Served::containerd(namespace, &Self::args(&files)).await;
        Self { served, _files: files }
    }

    async fn docker() -> Self {
        let files = Self::files();
        let served = Served::docker(&Self::args(&files)).await;
        Self { served, _files: files }
    }

    async fn object() -> Self {
        let files = Self::files();
        let served = Served::object(&Self::args(&files)).await;
        Self { served, _files: files }
    }

    fn files() -> (NamedTempFile, NamedTempFile) {
        let users = ["admin", "red", "reader", "blue", "tagger", "writer", "nobody"];
        let rules = NamedTempFile::new().unwrap();
        std::fs::write(rules.path(), RULES).unwrap();
        (htpasswd(&users.map(|user| (user, user))), rules)
    }

    fn args((users, rules): &(NamedTempFile, NamedTempFile)) -> [&str; 4] {
        ["--config", text(rules.path()), "--listen-htpasswd", text(users.path())]
    }

    /// A request of `user`, whose password is the name.
    #[track_caller]
    pub(crate) fn ask(&self, user: &str, method: &str, target: &str) -> Response {
        request(&self.served.address, method, target, &[("Authorization", &basic(user, user))])
    }

    #[track_caller]
    pub(crate) fn send(&self, user: &str, method: &str, target: &str, kind: &str, bytes: &[u8]) -> Response {
        let headers = [("Authorization", &*basic(user, user)), ("Content-Type", kind)];
        send(&self.served.address, method, target, &headers, bytes)
    }

    /// Sends the blobs of an image that are no manifests, then the manifest.
    #[track_caller]
    pub(crate) fn push(&self, user: &str, name: &str, tag: &str, image: &Image) -> Response {
        for blob in image.layers.iter().chain([&image.config]) {
            let target = format!("/v2/{name}/blobs/uploads/?digest={}", blob.digest);
            let sent = self.send(user, "POST", &target, "application/octet-stream", &image.blobs[&blob.digest]);
            if sent.status != 201 {
                return sent;
            }
        }
        self.put(user, name, tag, &image.blobs[&image.root.digest])
    }

    #[track_caller]
    pub(crate) fn put(&self, user: &str, name: &str, reference: &str, manifest: &[u8]) -> Response {
        self.send(user, "PUT", &format!("/v2/{name}/manifests/{reference}"), MANIFEST, manifest)
    }

    /// Asserts that what is at `target` is there for these users, and for no others.
    #[track_caller]
    pub(crate) fn only(&self, target: &str, users: &[&str]) {
        for user in ["admin", "red", "reader", "blue", "writer", "nobody"] {
            let response = self.ask(user, "GET", target);
            let expected: &[u16] = if users.contains(&user) { &[200] } else { &[403, 404] };
            assert!(expected.contains(&response.status), "{user} {target}: {response:?}");
        }
    }
}

pub(crate) fn image(content: &str) -> Image {
    Image::new(&[Layer::new().file("shared", "of all images").tar(), Layer::new().file("own", content).tar()])
}

#[track_caller]
pub(crate) fn refused(response: &Response, status: u16, code: &str) {
    assert_eq!((response.status, response.code().as_str()), (status, code), "{response:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_set_moved_and_removed_by_those_who_may() {
    let ruled = Ruled::layout().await;
    let [first, second] = [image("first"), image("second")];
    refused(&ruled.push("nobody", "red/app", "1", &first), 403, "DENIED");
    refused(&ruled.push("blue", "red/app", "1", &first), 403, "DENIED");
    refused(&ruled.push("reader", "red/app", "1", &first), 403, "DENIED");
    assert_eq!(ruled.push("red", "red/app", "1", &first).status, 201);
    assert_eq!(ruled.push("red", "red/app", "1", &first).status, 201, "it does not move");
    refused(&ruled.push("red", "red/app", "1", &second), 403, "DENIED");
    assert_eq!(ruled.push("red", "red/app", "2", &second).status, 201);
    refused(&ruled.ask("red", "DELETE", "/v2/red/app/manifests/1"), 403, "DENIED");
    // Only some tags of a repository.
    assert_eq!(ruled.push("blue", "red/shared", "1", &first).status, 201);
    assert_eq!(ruled.push("blue", "red/shared", "1", &second).status, 201);
    assert_eq!(ruled.ask("blue", "DELETE", "/v2/red/shared/manifests/1").status, 202);
    assert_eq!(ruled.ask("admin", "DELETE", "/v2/red/app/manifests/1").status, 202);
    // Who can only push finds nothing, and pushes all the same, again and again.
    for tag in ["1", "1", "2"] {
        assert_eq!(ruled.ask("writer", "HEAD", "/v2/drop/app/manifests/1").status, 404);
        assert_eq!(ruled.ask("writer", "HEAD", &format!("/v2/drop/app/blobs/{}", first.config.digest)).status, 404);
        assert_eq!(ruled.push("writer", "drop/app", tag, &first).status, 201);
    }
    let denied = ruled.push("writer", "drop/app", "1", &second);
    refused(&denied, 403, "DENIED");
    let said = String::from_utf8_lossy(&denied.body).into_owned();
    assert!(said.contains("docker.io/drop/app:1") && !said.contains(first.root.digest.hex()), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pushes_that_race_for_a_name_one_is_denied() {
    let ruled = Ruled::layout().await;
    let images = [image("one"), image("other")];
    for image in &images {
        assert_eq!(ruled.push("red", "red/blobs", &image.root.digest.hex()[..8], image).status, 201);
    }
    for round in 0..8 {
        let tag = format!("race-{round}");
        let (asked, tag_name) = (&ruled, &tag);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let pushing = images.each_ref().map(|image| {
                let manifest = &image.blobs[&image.root.digest];
                scope.spawn(move || asked.put("red", "red/blobs", tag_name, manifest).status)
            });
            pushing.map(|pushing| pushing.join().unwrap()).to_vec()
        });
        let winner = statuses.iter().position(|status| *status == 201).unwrap_or_else(|| panic!("{statuses:?}"));
        assert_eq!(statuses[1 - winner], 403, "{statuses:?}");
        let found = ruled.ask("red", "GET", &format!("/v2/red/blobs/manifests/{tag}"));
        assert_eq!(found.header("docker-content-digest"), Some(images[winner].root.digest.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sees_only_what_it_may_pull() {
    for ruled in [Ruled::layout().await, Ruled::containerd("registry-rights").await] {
        let [red, blue] = [image("of red"), image("of blue")];
        assert_eq!(ruled.push("red", "red/app", "1", &red).status, 201);
        assert_eq!(ruled.push("blue", "blue/app", "1", &blue).status, 201);
        ruled.only("/v2/red/app/manifests/1", &["admin", "red", "reader"]);
        ruled.only("/v2/red/app/tags/list", &["admin", "red", "reader"]);
        let own = &blue.layers[1].digest;
        for (name, digest) in [("manifests", &blue.root.digest), ("blobs", &blue.config.digest), ("blobs", own)] {
            ruled.only(&format!("/v2/blue/app/{name}/{digest}"), &["admin", "blue"]);
            // Through a repository that others may pull from.
            ruled.only(&format!("/v2/red/app/{name}/{digest}"), &["admin"]);
            ruled.only(&format!("/v2/drop/app/{name}/{digest}"), &["admin"]);
        }
        // What both images have is there in both repositories.
        let shared = &blue.layers[0].digest;
        ruled.only(&format!("/v2/red/app/blobs/{shared}"), &["admin", "red", "reader"]);
        let catalog = |user| ruled.ask(user, "GET", "/v2/_catalog").json()["repositories"].clone();
        assert_eq!(catalog("reader"), json!(["red/app"]));
        assert_eq!(catalog("blue"), json!(["blue/app"]));
        assert_eq!((catalog("writer"), catalog("nobody")), (json!([]), json!([])));
        assert!(catalog("admin").as_array().unwrap().len() >= 2);
        assert_eq!(ruled.ask("red", "GET", "/_linkspan/status").status, 404, "it has the names of all exports");
        assert_eq!(ruled.ask("admin", "GET", "/_linkspan/status").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_an_image_is_seen_with_it() {
    let ruled = Ruled::layout().await;
    let red = image("signed");
    assert_eq!(ruled.push("red", "red/app", "1", &red).status, 201);
    let (empty, note) = (&b"{}"[..], &b"a note"[..]);
    for blob in [empty, note] {
        let target = format!("/v2/red/app/blobs/uploads/?digest={}", Digest::sha256(blob));
        assert_eq!(ruled.send("red", "POST", &target, "application/octet-stream", blob).status, 201);
    }
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.note",
        "config": Descriptor::new("application/vnd.oci.empty.v1+json", Digest::sha256(empty), 2),
        "layers": [Descriptor::new("text/plain", Digest::sha256(note), note.len() as u64)], "subject": red.root,
    }))
    .unwrap();
    let digest = Digest::sha256(&manifest);
    assert_eq!(ruled.put("red", "red/app", digest.as_str(), &manifest).status, 201);
    let listed = |user: &str, name: &str| {
        let response = ruled.ask(user, "GET", &format!("/v2/{name}/referrers/{}", red.root.digest));
        (response.status == 200).then(|| response.json()["manifests"].as_array().unwrap().len())
    };
    assert_eq!([listed("reader", "red/app"), listed("blue", "blue/app")], [Some(1), Some(0)]);
    assert_eq!(listed("blue", "red/app"), None);
    ruled.only(&format!("/v2/red/app/manifests/{digest}"), &["admin", "red", "reader"]);
    ruled.only(&format!("/v2/red/app/blobs/{}", Digest::sha256(note)), &["admin", "red", "reader"]);
    ruled.only(&format!("/v2/blue/app/manifests/{digest}"), &["admin"]);
    ruled.only(&format!("/v2/blue/app/blobs/{}", Digest::sha256(note)), &["admin"]);
}

/// Whoever may push anywhere can name any digest as a subject.
#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_an_image_is_listed_where_it_was_pushed_and_nowhere_else() {
    for ruled in [
        Ruled::layout().await,
        Ruled::containerd("registry-forged").await,
        Ruled::docker().await,
        Ruled::object().await,
    ] {
        let kind = ruled.served.kind();
        let signed = image(&format!("signed on {kind}"));
        assert_eq!(ruled.push("blue", "blue/signed", "1", &signed).status, 201);
        // A note about the image with a blob of its own, pushed by its digest or with a tag.
        let push = |user: &str, name: &str, text: &str, tag: Option<&str>| {
            let note = format!("{text} on {kind}");
            for blob in [&b"{}"[..], note.as_bytes()] {
                let target = format!("/v2/{name}/blobs/uploads/?digest={}", Digest::sha256(blob));
                assert_eq!(ruled.send(user, "POST", &target, "application/octet-stream", blob).status, 201);
            }
            let manifest = serde_json::to_vec(&json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.note",
                "config": Descriptor::new("application/vnd.oci.empty.v1+json", Digest::sha256(b"{}"), 2),
                "layers": [Descriptor::new("text/plain", Digest::sha256(note.as_bytes()), note.len() as u64)],
                "subject": signed.root,
            }))
            .unwrap();
            let digest = Digest::sha256(&manifest);
            let put = ruled.put(user, name, tag.unwrap_or(digest.as_str()), &manifest);
            assert_eq!((put.status, put.header("oci-subject")), (201, Some(signed.root.digest.as_str())), "{put:?}");
            (digest.to_string(), Digest::sha256(note.as_bytes()).to_string())
        };
        let listed = |user: &str, name: &str| {
            let response = ruled.ask(user, "GET", &format!("/v2/{name}/referrers/{}", signed.root.digest));
            assert_eq!(response.status, 200, "{user} {name} {kind}: {response:?}");
            let list = response.json()["manifests"].as_array().unwrap().clone();
            list.iter().map(|one| one["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (right, _) = push("blue", "blue/signed", "right", None);
        let (forged, forged_note) = push("red", "red/forger", "forged", None);
        let (tagged, _) = push("red", "red/forger", "forged with a tag", Some("sig"));
        for user in ["blue", "admin"] {
            assert_eq!(listed(user, "blue/signed"), std::slice::from_ref(&right), "{user} {kind}");
        }
        ruled.only(&format!("/v2/blue/signed/manifests/{right}"), &["admin", "blue"]);
        for target in [format!("manifests/{forged}"), format!("manifests/{tagged}"), format!("blobs/{forged_note}")] {
            // An administrator may read everything through any name.
            ruled.only(&format!("/v2/blue/signed/{target}"), &["admin"]);
        }
        // Where they were pushed they are found, although the image is none that is there for these clients.
        let mut there = vec![forged.clone(), tagged];
        there.sort();
        for user in ["red", "reader"] {
            assert_eq!(listed(user, "red/forger"), there, "{user} {kind}");
        }
        ruled.only(&format!("/v2/red/forger/manifests/{forged}"), &["admin", "red", "reader"]);
        ruled.only(&format!("/v2/red/forger/blobs/{forged_note}"), &["admin", "red", "reader"]);
        ruled.only(&format!("/v2/red/forger/manifests/{}", signed.root.digest), &["admin"]);
        // All of them have this config.
        let config = Digest::sha256(b"{}");
        ruled.only(&format!("/v2/red/forger/blobs/{config}"), &["admin", "red", "reader"]);
        ruled.only(&format!("/v2/blue/signed/blobs/{config}"), &["admin", "blue"]);
        // Rights to some tags suffice for what has none.
        assert_eq!(ruled.push("blue", "red/shared", "of-blue", &signed).status, 201);
        let (shared, _) = push("blue", "red/shared", "shared", None);
        assert_eq!(listed("blue", "red/shared"), [shared], "{kind}");
    }
}

/// A manifest with a note about `subject`, whose blobs `user` has sent to `name`.
#[track_caller]
fn note(
    ruled: &Ruled,
    (user, name): (&str, &str),
    kind: &str,
    text: &str,
    subject: &Descriptor,
) -> (Descriptor, Vec<u8>) {
    for blob in [&b"{}"[..], text.as_bytes()] {
        let target = format!("/v2/{name}/blobs/uploads/?digest={}", Digest::sha256(blob));
        assert_eq!(ruled.send(user, "POST", &target, "application/octet-stream", blob).status, 201);
    }
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": Descriptor::new("application/vnd.oci.empty.v1+json", Digest::sha256(b"{}"), 2),
        "layers": [Descriptor::new("text/plain", Digest::sha256(text.as_bytes()), text.len() as u64)],
        "subject": subject,
    }))
    .unwrap();
    (Descriptor::new(MANIFEST, Digest::sha256(&manifest), manifest.len() as u64), manifest)
}

const NOTE: &str = "application/vnd.example.note";

/// The digests of what refers to `subject`, as `user` sees them.
#[track_caller]
fn referrers(ruled: &Ruled, (user, name): (&str, &str), subject: &Descriptor) -> Vec<String> {
    let response = ruled.ask(user, "GET", &format!("/v2/{name}/referrers/{}", subject.digest));
    assert_eq!(response.status, 200, "{user} {name}: {response:?}");
    let list = response.json()["manifests"].as_array().unwrap().clone();
    list.iter().map(|one| one["digest"].as_str().unwrap().to_owned()).collect()
}

/// An attestation, its signature and a note about that have no tags, and are seen with the image by whoever sees its tag.
#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_a_referrer_is_seen_with_the_image() {
    for ruled in [
        Ruled::layout().await,
        Ruled::containerd("registry-chains").await,
        Ruled::docker().await,
        Ruled::object().await,
    ] {
        let engine = ruled.served.kind();
        let (image, hidden) = (image(&format!("attested on {engine}")), image(&format!("hidden on {engine}")));
        assert_eq!(ruled.push("red", "red/shared", "pr-seen", &image).status, 201);
        assert_eq!(ruled.push("red", "red/shared", "hidden", &hidden).status, 201);
        // Those of each image: each is about the one before.
        let chains = [&image, &hidden].map(|image| {
            let mut chain = vec![image.root.clone()];
            let notes = (1..=5).map(|number| {
                let text = format!("{number} about {}", image.root.digest);
                let (descriptor, bytes) = note(&ruled, ("red", "red/shared"), NOTE, &text, chain.last().unwrap());
                assert_eq!(ruled.put("red", "red/shared", descriptor.digest.as_str(), &bytes).status, 201);
                chain.push(descriptor);
                Digest::sha256(text.as_bytes())
            });
            let notes: Vec<_> = notes.collect();
            (chain, notes)
        });
        let [(seen, notes), (unseen, of_unseen)] = &chains;
        for pair in seen.windows(2).take(4) {
            for user in ["red", "reader", "blue", "tagger"] {
                let found = referrers(&ruled, (user, "red/shared"), &pair[0]);
                assert_eq!(found, [pair[1].digest.to_string()], "{user} on {engine}");
            }
        }
        for (descriptor, note) in seen[1..].iter().zip(notes).take(4) {
            for target in [format!("manifests/{}", descriptor.digest), format!("blobs/{note}")] {
                let response = ruled.ask("tagger", "GET", &format!("/v2/red/shared/{target}"));
                assert_eq!(response.status, 200, "{target} on {engine}: {response:?}");
            }
        }
        // A chain is followed so far, and no farther.
        assert!(referrers(&ruled, ("tagger", "red/shared"), &seen[4]).is_empty());
        assert_eq!(ruled.ask("tagger", "GET", &format!("/v2/red/shared/manifests/{}", seen[5].digest)).status, 404);
        assert_eq!(ruled.ask("red", "GET", &format!("/v2/red/shared/manifests/{}", seen[5].digest)).status, 200);
        for (pair, note) in unseen.windows(2).zip(of_unseen) {
            assert!(referrers(&ruled, ("tagger", "red/shared"), &pair[0]).is_empty(), "{engine}");
            for target in [format!("manifests/{}", pair[1].digest), format!("blobs/{note}")] {
                let status = ruled.ask("tagger", "GET", &format!("/v2/red/shared/{target}")).status;
                assert_eq!(status, 404, "{target} on {engine}");
            }
        }
    }
}

/// Whoever may push some tags could otherwise add to what the readers of the others find.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_push_only_some_tags_attaches_nothing_to_the_others() {
    for ruled in [
        Ruled::layout().await,
        Ruled::containerd("registry-attached").await,
        Ruled::docker().await,
        Ruled::object().await,
    ] {
        let engine = ruled.served.kind();
        let (release, absent) = (image(&format!("released on {engine}")), image(&format!("absent on {engine}")));
        assert_eq!(ruled.push("red", "red/shared", "released", &release).status, 201);
        let tagger = ("tagger", "red/shared");
        // Whether the engine has the subject makes no difference that could be seen.
        let mut answers = Vec::new();
        for subject in [&release.root, &absent.root] {
            let (descriptor, bytes) = note(&ruled, tagger, NOTE, "attached", subject);
            for reference in [descriptor.digest.as_str(), "pr-note"] {
                let answer = ruled.put("tagger", "red/shared", reference, &bytes);
                refused(&answer, 403, "DENIED");
                answers.push(String::from_utf8(answer.body).unwrap().replace(subject.digest.as_str(), "SUBJECT"));
            }
            // In an index with a tag, for which it waits.
            let kind = "application/vnd.docker.attestation.manifest.v1+json";
            let (descriptor, bytes) = note(&ruled, tagger, kind, "attested", subject);
            assert_eq!(ruled.put("tagger", "red/shared", descriptor.digest.as_str(), &bytes).status, 201);
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}).to_string();
            let answer = ruled.send("tagger", "PUT", "/v2/red/shared/manifests/pr-index", INDEX, index.as_bytes());
            refused(&answer, 403, "DENIED");
            answers.push(String::from_utf8(answer.body).unwrap().replace(subject.digest.as_str(), "SUBJECT"));
        }
        let (of_release, of_absent) = answers.split_at(3);
        assert_eq!(of_release, of_absent);
        assert!(referrers(&ruled, ("red", "red/shared"), &release.root).is_empty(), "{engine}");
        for tag in ["pr-note", "pr-index"] {
            assert_eq!(ruled.ask("admin", "GET", &format!("/v2/red/shared/manifests/{tag}")).status, 404, "{tag}");
        }

        // To its own image, and to what refers to that.
        let own = image(&format!("of a pull request on {engine}"));
        assert_eq!(ruled.push("tagger", "red/shared", "pr-own", &own).status, 201);
        let (attestation, bytes) = note(&ruled, tagger, NOTE, "an attestation", &own.root);
        assert_eq!(ruled.put("tagger", "red/shared", attestation.digest.as_str(), &bytes).status, 201);
        let (signature, bytes) = note(&ruled, tagger, NOTE, "a signature", &attestation);
        assert_eq!(ruled.put("tagger", "red/shared", signature.digest.as_str(), &bytes).status, 201);
        for user in ["tagger", "reader"] {
            assert_eq!(referrers(&ruled, (user, "red/shared"), &own.root), [attestation.digest.to_string()]);
            assert_eq!(referrers(&ruled, (user, "red/shared"), &attestation), [signature.digest.to_string()]);
        }
        // Whose rule covers digests may push to the whole repository, as in any registry.
        let (forward, bytes) = note(&ruled, ("writer", "drop/app"), NOTE, "before its subject", &absent.root);
        assert_eq!(ruled.put("writer", "drop/app", forward.digest.as_str(), &bytes).status, 201);
    }
}

/// Edge case 38: a client that knows a digest gets nothing by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_another_client_may_read_is_neither_mounted_nor_claimed() {
    for ruled in [Ruled::layout().await, Ruled::containerd("registry-claims").await] {
        let secret = image("a secret of blue");
        assert_eq!(ruled.push("blue", "blue/app", "1", &secret).status, 201);
        let layer = &secret.layers[1].digest;
        let is_hidden = |name: &str| {
            for user in ["red", "writer"] {
                for kind in ["blobs", "manifests"] {
                    let target = format!("/v2/{name}/{kind}/{layer}");
                    assert!([403, 404].contains(&ruled.ask(user, "HEAD", &target).status), "{user} {target}");
                }
            }
        };
        for from in ["", "&from=blue/app", "&from=red/app"] {
            let mounted = ruled.ask("red", "POST", &format!("/v2/red/app/blobs/uploads/?mount={layer}{from}"));
            assert_eq!(mounted.status, 202, "it is to be sent: {mounted:?}");
        }
        is_hidden("red/app");
        // Other bytes, or none, by that digest.
        let target = format!("/v2/red/app/blobs/uploads/?digest={layer}");
        for claimed in [&b""[..], b"something else"] {
            refused(&ruled.send("red", "POST", &target, "", claimed), 400, "DIGEST_INVALID");
            let begun = ruled.send("red", "POST", "/v2/red/app/blobs/uploads/", "", b"");
            let upload = format!("{}?digest={layer}", begun.header("location").unwrap());
            refused(&ruled.send("red", "PUT", &upload, "", claimed), 400, "DIGEST_INVALID");
        }
        is_hidden("red/app");
        // A manifest that names what was not sent.
        let manifest = &secret.blobs[&secret.root.digest];
        refused(&ruled.put("red", "red/app", "1", manifest), 400, "MANIFEST_BLOB_UNKNOWN");
        refused(&ruled.put("red", "red/app", secret.root.digest.as_str(), manifest), 400, "MANIFEST_BLOB_UNKNOWN");
        // An index of a manifest that was sent as a blob, and names what was not.
        let target = format!("/v2/red/app/blobs/uploads/?digest={}", secret.root.digest);
        assert_eq!(ruled.send("red", "POST", &target, "", manifest).status, 201, "these bytes it has");
        let index = Image::index(std::slice::from_ref(&secret));
        let bytes = &index.blobs[&index.root.digest];
        let pushed = ruled.send("red", "PUT", "/v2/red/app/manifests/index", INDEX, bytes);
        refused(&pushed, 400, "MANIFEST_BLOB_UNKNOWN");
        // An index whose images are still to come by others.
        let coming = image("to come");
        let index = Image::index(std::slice::from_ref(&coming));
        let pushed = ruled.send("red", "PUT", "/v2/red/app/manifests/index", INDEX, &index.blobs[&index.root.digest]);
        refused(&pushed, 400, "MANIFEST_BLOB_UNKNOWN");
        is_hidden("red/app");
        assert_eq!(ruled.ask("red", "GET", "/v2/red/app/tags/list").status, 404, "nothing was named");
        // Who has the bytes can push them.
        assert_eq!(ruled.push("red", "red/app", "1", &secret).status, 201);
        assert_eq!(ruled.ask("red", "GET", &format!("/v2/red/app/blobs/{layer}")).status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_read_is_that_of_the_moment() {
    let ruled = Ruled::layout().await;
    let found = image("now red, now blue");
    export(&*ruled.served.engine, &found, &names(&["red/app:1", "kept/app:1"])).await.unwrap();
    let target = format!("/v2/red/app/blobs/{}", found.layers[1].digest);
    ruled.only(&target, &["admin", "red", "reader"]);
    assert_eq!(ruled.ask("admin", "DELETE", "/v2/red/app/manifests/1").status, 202);
    ruled.only(&target, &["admin"]);
    export(&*ruled.served.engine, &found, &names(&["red/app:2"])).await.unwrap();
    ruled.only(&target, &["admin", "red", "reader"]);
}
