//! An image whose layers do all that layers can do, made by the tools of this machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use linkspan::image::{Digest, Platform};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

use crate::common::Run;
use crate::fixture::Image;

/// When everything was changed, so that nothing depends on the clock.
const TIME: &str = "@1500000000";
/// `cap_net_raw+ep`, as the kernel keeps it (capabilities(7)).
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A folder that becomes a layer, with everything that a file can be.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>, mode: u32, owner: u32) -> Self {
        let path = self.at(path);
        fs::write(&path, content).unwrap();
        chown(&path, Some(owner), Some(owner + 1)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub(crate) fn folder(self, path: &str, mode: u32, owner: u32) -> Self {
        let path = self.at(path);
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        let path = self.at(path);
        symlink(target, &path).unwrap();
        lchown(path, Some(7), Some(8)).unwrap();
        self
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        fs::hard_link(self.0.path().join(target), self.at(path)).unwrap();
        self
    }

    fn node(self, path: &str, kind: FileType, device: (u32, u32)) -> Self {
        mknodat(CWD, self.at(path), kind, Mode::from_raw_mode(0o620), makedev(device.0, device.1)).unwrap();
        self
    }

    fn xattr(self, path: &str, name: &str, value: &[u8]) -> Self {
        setxattr(self.0.path().join(path), name, value, XattrFlags::empty()).unwrap();
        self
    }

    /// Lets a file open raw sockets.
    pub(crate) fn capability(self, path: &str) -> Self {
        self.xattr(path, "security.capability", CAPABILITY)
    }

    /// A tar of `members`, as GNU tar makes it.
    pub(crate) fn tar(&self, members: &[&str]) -> Bytes {
        Run::new("find").arg(self.0.path()).args(["-depth", "-exec", "touch", "-h", "-d", TIME, "{}", "+"]).ok();
        tar(self.0.path(), members)
    }
}

/// A tar of what is in `folder`, with all that is known of it.
pub(crate) fn tar(folder: &Path, members: &[&str]) -> Bytes {
    let file = tempfile::NamedTempFile::new().unwrap();
    let arguments =
        ["--sort=name", "--numeric-owner", "--format=pax", "--pax-option=delete=atime,delete=ctime", "--xattrs"];
    Run::new("tar")
        .args(arguments)
        .args(["--xattrs-include=*", "--warning=no-file-ignored", "-C"])
        .arg(folder)
        .arg("-cf")
        .arg(file.path())
        .args(members)
        .ok();
    fs::read(file.path()).unwrap().into()
}

/// What `program` makes of `bytes`.
pub(crate) fn compressed(bytes: &Bytes, program: &str) -> Bytes {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let packed = file.path().with_extension("packed");
    let shell = format!("{program} < {} > {}", file.path().display(), packed.display());
    Run::new("sh").args(["-c", &shell]).ok();
    let bytes = fs::read(&packed).unwrap();
    fs::remove_file(packed).unwrap();
    bytes.into()
}

/// Layers of the three compressions.
pub(crate) fn image() -> Image {
    let [first, second, third, fourth] = layers();
    let gzip = compressed(&second, "gzip -c");
    let zstd = compressed(&third, "zstd -c");
    let diff_ids = [&first, &second, &third, &fourth].map(|layer| Digest::sha256(layer));
    let layers = [("", first), ("+gzip", gzip), ("+zstd", zstd), ("+gzip", compressed(&fourth, "gzip -c"))];
    Image::compressed(&layers, &diff_ids, &Platform::host().architecture)
}

fn layers() -> [Bytes; 4] {
    let long = format!("deep/{}/{}", "n".repeat(120), "m".repeat(150));
    let first = Folder::new()
        .folder("a", 0o750, 1000)
        .file("a/file", "one", 0o640, 1)
        .file("a/hard1", "shared", 0o644, 2)
        .link("a/hard2", "a/hard1")
        .link("b/hard3", "a/hard1")
        .file("a/suid", "suid", 0o4755, 0)
        .symlink("a/link", "file")
        .symlink("absolute", "/a/file")
        .symlink("dangling", "nowhere/at/all")
        .node("a/fifo", FileType::Fifo, (0, 0))
        .node("a/null", FileType::CharacterDevice, (1, 3))
        .node("a/disk", FileType::BlockDevice, (7, 300))
        .folder("b", 0o1777, 0)
        .file("d/opaque/x", "x", 0o644, 0)
        .file("d/opaque/below/y", "y", 0o644, 0)
        .file("d/gone/z", "z", 0o644, 0)
        .file("d/becomes-folder", "file", 0o644, 0)
        .file("d/becomes-file/x", "x", 0o644, 0)
        .symlink("d/link-becomes-folder", "../a")
        .file("d/link/was-file", "x", 0o644, 0)
        .file("empty", "", 0o600, 70_000)
        .link("empty-too", "empty")
        .file("large", "0123456789abcdef".repeat(100_000), 0o644, 3_000_000)
        .file(&long, "long", 0o644, 0)
        .file("ünï/cödé", "unicode", 0o644, 0)
        .file("x/capable", "cap", 0o755, 0)
        .xattr("x/capable", "security.capability", CAPABILITY)
        .xattr("x/capable", "user.note", b"a=b\n\0c")
        .folder("x/described", 0o755, 0)
        .xattr("x/described", "user.folder", b"yes");
    let second = Folder::new()
        .folder("a", 0o700, 1001)
        .file("a/.wh.hard1", "", 0o644, 0)
        .file("d/.wh.gone", "", 0o644, 0)
        .file("d/opaque/.wh..wh..opq", "", 0o644, 0)
        .file("d/opaque/new", "new", 0o644, 0)
        .file("d/becomes-folder/file", "inside", 0o644, 0)
        .file("d/becomes-file", "file", 0o644, 5)
        .file("d/link-becomes-folder/x", "not in a", 0o644, 0)
        .file("new/one", "n", 0o644, 0)
        .link("new/two", "new/one");
    let third = Folder::new()
        .folder("a", 0o700, 1001)
        .file("a/file", "three", 0o604, 6)
        .file("new/.wh.one", "", 0o644, 0)
        .file("x/.wh.described", "", 0o644, 0);
    let fourth = Folder::new().file("undescribed/folder/file", "4", 0o644, 0);
    [
        first.tar(&["."]),
        second.tar(&["."]),
        third.tar(&["."]),
        // Without entries for the folders.
        fourth.tar(&["undescribed/folder/file"]),
    ]
}

/// Folders that no layer describes: engines give them the time at which they were made.
pub(crate) const UNDESCRIBED: [&str; 2] = ["undescribed", "undescribed/folder"];
