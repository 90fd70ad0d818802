//! Layers with everything that a header can say, and the trees that two unpackers make of them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use linkspan::image::Digest;
use rustix::fs::{FileType, lgetxattr, llistxattr};

use crate::common::{Output, Stack, Tar, blob_name, entry};
use crate::fixture::{Image, containerd, export, names};
use crate::log;

pub(crate) const ROOT: (u32, u32) = (0, 0);

/// Members with everything that a header can say.
pub(crate) struct Members {
    tar: Tar,
    mtime: u64,
    records: Vec<(String, Vec<u8>)>,
}

impl Members {
    /// What has no time of its own gets `mtime`.
    pub(crate) fn at(mtime: u64) -> Self {
        Self { tar: Tar::default(), mtime, records: Vec::new() }
    }

    pub(crate) fn folder(self, name: &str, mode: u32, owner: (u32, u32)) -> Self {
        self.member(name, b'5', "", mode, owner, b"")
    }

    pub(crate) fn file(self, name: &str) -> Self {
        self.member(name, b'0', "", 0o644, ROOT, b"x")
    }

    pub(crate) fn link(self, name: &str, kind: u8, target: &str) -> Self {
        self.member(name, kind, target, 0o777, ROOT, b"")
    }

    /// An extended attribute for the next member.
    pub(crate) fn xattr(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.record(&format!("SCHILY.xattr.{key}"), value)
    }

    /// A record of the next member's extended header.
    pub(crate) fn record(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.records.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn member(
        self,
        name: &str,
        kind: u8,
        target: &str,
        mode: u32,
        owner: (u32, u32),
        content: &[u8],
    ) -> Self {
        self.patched(name, kind, target, mode, owner, content, |_| ())
    }

    /// A member of which `patch` changes the header.
    #[expect(clippy::too_many_arguments, reason = "a header has many fields")]
    pub(crate) fn patched(
        mut self,
        name: &str,
        kind: u8,
        target: &str,
        mode: u32,
        owner: (u32, u32),
        content: &[u8],
        patch: impl FnOnce(&mut [u8]),
    ) -> Self {
        let mut header = entry(kind, name, target, content.len() as u64);
        header.mode(mode).unwrap().uid(owner.0.into()).unwrap().gid(owner.1.into()).unwrap();
        header.mtime(self.mtime).unwrap();
        for (key, value) in self.records.drain(..) {
            header.add_pax(&key, value);
        }
        let mut bytes = header.finish_bytes();
        let at = bytes.len() - 512;
        patch(&mut bytes[at..]);
        sum(&mut bytes[at..]);
        self.tar.0.extend(bytes);
        self.tar = self.tar.content(content);
        self
    }

    /// The next member's name or target (`kind` `L` or `K`) as GNU tar writes it when it is long.
    pub(crate) fn gnu_long(self, kind: u8, text: impl AsRef<[u8]>) -> Self {
        let content = [text.as_ref(), b"\0"].concat();
        self.patched("././@LongLink", kind, "", 0, ROOT, &content, gnu)
    }

    /// Bytes as they are, to a whole block.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.tar = self.tar.content(bytes);
        self
    }

    /// Without the zeros at its end.
    pub(crate) fn unfinished(self) -> Bytes {
        self.tar.0.into()
    }

    pub(crate) fn finish(self) -> Bytes {
        self.tar.finish().into()
    }
}

/// Puts a header into the GNU format.
pub(crate) fn gnu(header: &mut [u8]) {
    header[257..265].copy_from_slice(b"ustar  \0");
}

/// Gives a header its checksum.
fn sum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
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
    let words: Vec<&str> = mount.split([' ', ',', '\n']).collect();
    if let Some(lower) = words.iter().find_map(|word| word.strip_prefix("lowerdir=")) {
        return lower.split(':').map(PathBuf::from).collect();
    }
    // A single layer is a bind mount.
    let source = words.iter().find(|word| word.starts_with('/') && word.ends_with("/fs"));
    vec![PathBuf::from(source.unwrap_or_else(|| panic!("{mount}")))]
}

/// What can be said of everything below a folder, by path.
pub(crate) type Tree = BTreeMap<String, String>;

/// Names of the inodes with several names.
type Links = HashMap<(u64, u64), String>;

/// Everything below `folder`, and the folder itself: kind and mode, owner, device, time, extended attributes, content, target,
/// links. Times since `begun` are alike.
fn walk(folder: &Path, begun: i64, into: &mut Tree, links: &mut Links, name: &str) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        // Before its content is read, which changes its time of access.
        let found = fs::symlink_metadata(&path).unwrap();
        let time = |seconds, nanos| match (begun..begun + 3600).contains(&seconds) {
            true => "now".to_owned(),
            false if nanos == 0 => format!("{seconds}"),
            false => format!("{seconds}.{nanos:09}"),
        };
        let name = format!("{name}/{}", path.file_name().unwrap().as_bytes().escape_ascii());
        let mut description = describe(&path, &found);
        description += &format!(" {}", time(found.mtime(), found.mtime_nsec()));
        description += &xattrs(&path);
        if found.nlink() > 1 && !found.is_dir() {
            description += &format!(" = {}", links.entry((found.dev(), found.ino())).or_insert_with(|| name.clone()));
        }
        match FileType::from_raw_mode(found.mode()) {
            FileType::Directory => {
                into.insert(name.clone(), description);
                walk(&path, begun, into, links, &name);
                continue;
            }
            FileType::Symlink => {
                // Whoever resolves a name reads the links in it, and so changes their times of access.
                description += &format!(" -> {}", fs::read_link(&path).unwrap().display());
                into.insert(name, description);
                continue;
            }
            FileType::RegularFile => {
                let content = Digest::sha256(&fs::read(&path).unwrap());
                description += &format!(" {} {}", found.size(), content.short());
            }
            _ => {}
        }
        // Its content may have been read under another name.
        if found.nlink() == 1 {
            description += &format!(" read {}", time(found.atime(), found.atime_nsec()));
        }
        into.insert(name, description);
    }
}

fn describe(path: &Path, found: &fs::Metadata) -> String {
    let links = if found.is_dir() { 0 } else { found.nlink() };
    let device = match FileType::from_raw_mode(found.mode()) {
        FileType::CharacterDevice | FileType::BlockDevice => format!(" device {:x}", found.rdev()),
        FileType::Unknown => panic!("{}", path.display()),
        _ => String::new(),
    };
    format!("{:o} {}:{} {links}{device}", found.mode(), found.uid(), found.gid())
}

fn xattrs(path: &Path) -> String {
    let mut list = vec![0; 65536];
    let length = llistxattr(path, &mut list[..]).unwrap();
    let mut keys: Vec<_> = list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()).collect();
    keys.sort_unstable();
    let value = |key: &[u8]| {
        // A mount's own, by chance (overlayfs).
        if key.ends_with(b".overlay.uuid") {
            return format!(" {}", key.escape_ascii());
        }
        let mut value = vec![0; 65536];
        let length = lgetxattr(path, OsStr::from_bytes(key), &mut value[..]).unwrap();
        format!(" {}={}", key.escape_ascii(), value[..length].escape_ascii())
    };
    keys.into_iter().map(value).collect()
}

/// The layers of a namespace's only chain, each below its number.
pub(crate) fn tree(stack: &Stack, namespace: &str, begun: i64) -> Tree {
    let (mut found, mut links) = (Tree::new(), Links::new());
    for (at, folder) in folders(stack, namespace).iter().rev().enumerate() {
        let root = fs::metadata(folder).unwrap();
        found.insert(at.to_string(), describe(folder, &root) + &xattrs(folder));
        walk(folder, begun, &mut found, &mut links, &at.to_string());
    }
    found
}

/// An OCI archive with an image under a name.
pub(crate) fn archive(image: &Image, name: &str) -> Vec<u8> {
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": image.root.media_type, "digest": image.root.digest, "size": image.root.size,
            "annotations": {"io.containerd.image.name": name},
        }],
    });
    let blobs = image.blobs.values().fold(Tar::default().layout(), |tar, blob| tar.file(&blob_name(blob), blob));
    blobs.file("index.json", serde_json::to_vec(&index).unwrap()).finish()
}

/// When a comparison begins: what has times since then is alike.
pub(crate) fn begin() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 - 5
}

/// Lets containerd's own client import and unpack an image under this name, one layer after the other.
pub(crate) fn import(stack: &Stack, namespace: &str, image: &Image, name: &str) -> Output {
    let path = stack.fresh_path(".tar");
    fs::write(&path, archive(image, name)).unwrap();
    // By itself: what it is sent otherwise it does not wait for (containerd `core/transfer/archive/importer.go`).
    let import = stack.ctr(namespace, ["images", "import", "--local", path.to_str().unwrap()]);
    // The one of real files may be large.
    let imported = import.timeout(Duration::from_secs(900)).output();
    fs::remove_file(&path).unwrap();
    imported
}

/// Fails unless both trees are the same.
#[track_caller]
pub(crate) fn assert_alike(name: &str, ours: &Tree, theirs: &Tree) {
    let different: Vec<_> = theirs
        .iter()
        .filter(|(path, description)| ours.get(*path) != Some(description))
        .map(|(path, description)| format!("{path}: {description}, but here {:?}", ours.get(path)))
        .collect();
    let more: Vec<_> = ours.keys().filter(|path| !theirs.contains_key(*path)).collect();
    assert!(different.is_empty() && more.is_empty(), "{name}: {}\nonly here: {more:?}", different.join("\n"));
}

/// Exports an image to one namespace, lets containerd's own client unpack it in turn in another, and compares all that there is
/// in every layer. Where containerd refuses the image, so must the engine: then the engine's error is returned.
pub(crate) async fn compare_images(stack: &Stack, name: &str, image: &Image) -> Result<Tree, String> {
    let (ours, theirs) = (format!("{name}-ours"), format!("{name}-theirs"));
    let begun = begin();
    let engine = containerd(stack, &ours).await;
    let exported = export(&*engine, image, &names(&["compared:1"])).await;
    let imported = import(stack, &theirs, image, "docker.io/library/compared:1");
    match exported {
        Err(error) if imported.status.success() => panic!("{name}: containerd takes it, but here {error}"),
        Err(error) => return Err(error.to_string()),
        Ok(_) => assert!(imported.status.success(), "{name}: taken here, but containerd says {imported}"),
    }
    let names = |namespace: &str| {
        let mut names: Vec<_> = stack.snapshots(namespace).into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours), names(&theirs), "{name}: the same chain ids");
    let [ours, theirs] = [&ours, &theirs].map(|namespace| tree(stack, namespace, begun));
    assert_alike(name, &ours, &theirs);
    Ok(ours)
}

/// The same with an image of these layers, which containerd takes.
pub(crate) async fn compare(name: &str, layers: &[Bytes]) -> Tree {
    compare_images(Stack::shared(), name, &Image::new(layers)).await.unwrap()
}

/// The same, and none of the layers may be left to containerd's diff service.
pub(crate) async fn compare_applied(name: &str, image: &Image) -> Tree {
    log::listen();
    let tree = compare_images(Stack::shared(), name, image).await.unwrap();
    for (at, layer) in image.layers.iter().enumerate() {
        assert_eq!(log::left(&layer.digest), None, "{name}: layer {at}");
    }
    tree
}
