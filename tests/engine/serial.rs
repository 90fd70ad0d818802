//! Unpacking in parallel, held against what containerd makes of the same layers one after the other.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use linkspan::engine::Storage;

use crate::common::{Stack, Tar, entry};
use crate::fixture::{Image, containerd, export, names};

/// Members with everything that a header can say.
struct Members {
    tar: Tar,
    mtime: u64,
    xattrs: Vec<(String, String)>,
}

impl Members {
    /// What has no time of its own gets `mtime`.
    fn at(mtime: u64) -> Self {
        Self { tar: Tar::default(), mtime, xattrs: Vec::new() }
    }

    fn folder(self, name: &str, mode: u32, owner: (u32, u32)) -> Self {
        self.member(name, b'5', "", mode, owner, b"")
    }

    fn file(self, name: &str) -> Self {
        self.member(name, b'0', "", 0o644, ROOT, b"x")
    }

    fn link(self, name: &str, kind: u8, target: &str) -> Self {
        self.member(name, kind, target, 0o777, ROOT, b"")
    }

    /// An extended attribute for the next member.
    fn xattr(mut self, key: &str, value: &str) -> Self {
        self.xattrs.push((format!("SCHILY.xattr.{key}"), value.to_owned()));
        self
    }

    fn member(mut self, name: &str, kind: u8, target: &str, mode: u32, owner: (u32, u32), content: &[u8]) -> Self {
        let mut header = entry(kind, name, target, content.len() as u64);
        header.mode(mode).unwrap().uid(owner.0.into()).unwrap().gid(owner.1.into()).unwrap();
        header.mtime(self.mtime).unwrap();
        for (key, value) in self.xattrs.drain(..) {
            header.add_pax(&key, value);
        }
        self.tar = self.tar.header(&mut header).content(content);
        self
    }

    fn finish(self) -> Bytes {
        self.tar.finish().into()
    }
}

/// The folders of the layers of a namespace's only chain, the topmost first.
fn folders(stack: &Stack, namespace: &str) -> Vec<PathBuf> {
    let snapshots = stack.ctr(namespace, ["snapshots", "ls"]).ok().lines();
    let chains: Vec<Vec<&str>> = snapshots[1..].iter().map(|line| line.split_whitespace().collect()).collect();
    let is_parent = |name: &str| chains.iter().any(|chain| chain.len() > 2 && chain[1] == name);
    let top = chains.iter().find(|chain| !is_parent(chain[0])).unwrap()[0];
    let mount = stack.ctr(namespace, ["snapshots", "view", "--target", "/x", "look", top]).ok().stdout;
    // Nothing keeps it, so it may be gone by itself.
    stack.ctr(namespace, ["snapshots", "rm", "look"]).output();
    let lower = mount.split("lowerdir=").nth(1).unwrap_or_else(|| panic!("{mount}"));
    lower.split([',', ' ', '\n']).next().unwrap().split(':').map(PathBuf::from).collect()
}

/// Everything below `folder`: mode with kind, owner, size of files, time, extended attributes. Times since `begun` are alike.
fn walk(folder: &Path, begun: i64, into: &mut BTreeMap<String, String>, name: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        let is_now = (begun..begun + 3600).contains(&metadata.mtime());
        let time = if is_now { "now".to_owned() } else { metadata.mtime().to_string() };
        let mut xattrs = String::new();
        if metadata.is_dir() || metadata.is_file() {
            let mut list = vec![0; 4096];
            let length = rustix::fs::listxattr(entry.path(), &mut list[..]).unwrap();
            for key in list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
                let mut value = vec![0; 4096];
                let length = rustix::fs::getxattr(entry.path(), key, &mut value[..]).unwrap();
                let value = String::from_utf8_lossy(&value[..length]).into_owned();
                xattrs += &format!(" {}={value}", String::from_utf8_lossy(key));
            }
        }
        let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        let said = format!("{:o} {}:{} {links} {time}{xattrs}", metadata.mode(), metadata.uid(), metadata.gid());
        into.insert(name.clone(), said);
        if metadata.is_dir() {
            walk(&entry.path(), begun, into, &name);
        }
    }
}

/// Exports `layers` in parallel, has containerd unpack them in turn, and compares every name of every layer.
async fn compare(name: &str, layers: &[Bytes]) -> BTreeMap<String, String> {
    let stack = Stack::shared();
    let (parallel, serial) = (format!("{name}-parallel"), format!("{name}-serial"));
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 - 5;
    let engine = containerd(stack, &parallel).await;
    assert!(matches!(engine.identity().storage, Storage::Containerd { parallel_unpack: true, .. }));
    export(&*engine, &Image::new(layers), &names(&["compared:1"])).await.unwrap();
    let archive = stack.fresh_path(".tar");
    let image = "docker.io/library/compared:1";
    // By itself: what it is sent otherwise it does not wait for (containerd `core/transfer/archive/exporter.go`).
    stack.ctr(&parallel, ["images", "export", "--local", archive.to_str().unwrap(), image]).ok();
    stack.ctr(&serial, ["images", "import", "--local", archive.to_str().unwrap()]).ok();
    let names = |namespace: &str| {
        let mut names: Vec<_> = stack.snapshots(namespace).into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    };
    assert_eq!(names(&parallel), names(&serial), "the same chain ids");
    let [ours, theirs] = [&parallel, &serial].map(|namespace| {
        let mut found = BTreeMap::new();
        for (at, folder) in folders(stack, namespace).iter().rev().enumerate() {
            walk(folder, begun, &mut found, &at.to_string());
        }
        found
    });
    let different: Vec<_> = theirs
        .iter()
        .filter(|(name, said)| ours.get(*name) != Some(said))
        .map(|(name, said)| format!("{name}: {said}, but here {:?}", ours.get(name)))
        .collect();
    assert!(different.is_empty() && ours.len() == theirs.len(), "{}", different.join("\n"));
    ours
}

const OLD: u64 = 1_000_000_000;
const AHEAD: u64 = 4_102_444_800;
const ROOT: (u32, u32) = (0, 0);

fn base() -> Bytes {
    Members::at(OLD)
        .folder("tmp/", 0o1777, ROOT)
        .folder("root/", 0o700, ROOT)
        .folder("root/.ssh/", 0o700, ROOT)
        .folder("data/", 0o777, ROOT)
        .folder("owned/", 0o755, (1000, 1001))
        .folder("srv/", 0o2775, (0, 50))
        .folder("usr/", 0o755, ROOT)
        .folder("usr/lib/", 0o711, ROOT)
        .link("lib", b'2', "usr/lib")
        .xattr("user.color", "blue")
        .folder("colored/", 0o755, ROOT)
        .xattr("user.color", "red")
        .folder("late/", 0o700, (7, 7))
        .folder("opaque/", 0o750, ROOT)
        .file("opaque/hidden")
        .folder("emptied/", 0o770, (3, 4))
        .file("emptied/hidden")
        .folder("gone/", 0o700, ROOT)
        .folder("removed/", 0o700, ROOT)
        .folder("linked/", 0o701, ROOT)
        .file("filed/x")
        .finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_described_folder_is_as_it_is_described_however_far_its_time_is_ahead() {
    for (name, time) in [("ahead", AHEAD), ("epoch", 0), ("old", OLD)] {
        let upper =
            Members::at(time).folder("data/", 0o755, ROOT).file("data/x").folder("owned/", 0o755, ROOT).finish();
        let found = compare(&format!("described-{name}"), &[base(), upper]).await;
        assert!(found["1/data"].starts_with("40755 0:0"), "{name}: {}", found["1/data"]);
        assert!(found["1/owned"].starts_with("40755 0:0"), "{name}: {}", found["1/owned"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_without_an_entry_are_as_containerd_makes_them() {
    let second = Members::at(AHEAD)
        .file("tmp/a")
        .file("root/deep/er/b")
        .file("root/.ssh/keys")
        .file("owned/x")
        .file("srv/new/deep/x")
        .file("lib/plugin/x")
        .file("colored/x")
        .file("late/x")
        .folder("late/", 0o755, ROOT)
        .file("opaque/.wh..wh..opq")
        .file("opaque/new")
        .file("emptied/.wh..wh..opq")
        .file("gone/.wh.x")
        .file(".wh.removed")
        .file("linked/one")
        .link("linked/two", b'1', "linked/one")
        .file("filed/again/and/again")
        .folder("filed/again/", 0o500, ROOT)
        .finish();
    let third = Members::at(0)
        .file("tmp/b")
        .file("removed/x")
        .file("emptied/x")
        .file("srv/new/y")
        .link("away", b'2', "tmp")
        .file("away/in/x")
        .link("linked/three", b'2', "../root")
        .file("linked/three/x")
        .folder("data/", 0o700, (9, 9))
        .finish();
    let found = compare("implied", &[base(), second, third]).await;
    for (name, expected) in [
        ("1/tmp", "41777 0:0 0 now"),
        ("1/root", "40700 0:0 0 now"),
        ("1/root/deep", "40755 0:0 0 now"),
        ("1/owned", "40755 1000:1001 0 now"),
        ("1/srv", "42775 0:50 0 now"),
        ("1/srv/new", "40755 0:50 0 now"),
        ("1/srv/new/deep", "40755 0:0 0 now"),
        ("1/lib", "40711 0:0 0 now"),
        ("1/colored", "40755 0:0 0 now user.color=blue"),
        ("1/late", "40755 0:0 0 4102444800 user.color=red"),
        ("1/emptied", "40770 3:4 0 1000000000 trusted.overlay.opaque=y"),
        ("1/gone", "40700 0:0 0 now"),
        ("2/removed", "40755 0:0 0 now"),
        ("2/emptied", "40770 3:4 0 now"),
        ("2/tmp/in", "40755 0:0 0 now"),
        ("2/root", "40700 0:0 0 now"),
    ] {
        assert_eq!(found[name], expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mended_afterwards_is_unpacked_in_turn() {
    // A global header is no entry, and yet containerd makes its folders.
    let global =
        Members::at(OLD).member("tmp/GlobalHead.1", b'g', "", 0o644, ROOT, b"17 comment=hello\n").file("x").finish();
    compare("global", &[base(), global, Members::at(OLD).file("tmp/y").finish()]).await;
}
