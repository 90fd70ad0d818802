//! Folders that a layer uses without describing them.
//!
//! A layer's archive may hold `a/b` and no entry for `a`. containerd then makes `a` with the attributes that it has in
//! the layers below. While layers are unpacked in parallel there is nothing below yet, so `a` comes out as root's, with
//! mode 0755, and hides what a lower layer says: `/tmp` would no longer be writable for everybody. containerd's own
//! parallel unpack leaves it at that. Here such folders get the attributes that they would have had, before the
//! snapshot is committed.
//!
//! A folder with an entry has the entry's modification time. One without has been modified while its layer was unpacked,
//! and has the attributes that containerd falls back to (`pkg/archive/tar.go`, `mkparent`): that is how it is known.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown,
    fgetxattr, flistxattr, fsetxattr, fstat, futimens, openat2,
};
use rustix::io::{Errno, Result};

use super::host::open_within;

/// What a kernel keeps at most in one extended attribute, and in their list (xattr(7)).
const XATTR_BYTES: usize = 64 << 10;

/// A moment as the file system's own clock tells it: seconds and nanoseconds.
pub(super) type Moment = (i64, i64);

/// The modification time of a folder.
pub(super) fn modified(folder: impl AsFd) -> Result<Moment> {
    Ok(moment(&fstat(folder)?))
}

fn moment(stat: &Stat) -> Moment {
    (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// Gives every folder below `upper` that was made since `since` without an entry the attributes that it has in the first
/// of `lower` that knows it. Returns how many were changed.
pub(super) fn mend(upper: &OwnedFd, since: Moment, lower: &[OwnedFd]) -> Result<usize> {
    let mut mended = 0;
    let mut folders = vec![PathBuf::from(".")];
    while let Some(path) = folders.pop() {
        let folder = open_beneath(upper, &path)?;
        let stat = fstat(&folder)?;
        if path != Path::new(".") && is_made_up(&stat, since) && inherit(&folder, &path, lower)? {
            mended += 1;
        }
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if entry.file_type() == FileType::Directory && name != "." && name != ".." {
                folders.push(path.join(name));
            }
        }
    }
    Ok(mended)
}

/// Whether a folder looks like one that containerd made because an entry needed it.
fn is_made_up(stat: &Stat, since: Moment) -> bool {
    stat.st_mode & 0o7777 == 0o755 && stat.st_uid == 0 && stat.st_gid == 0 && moment(stat) >= since
}

/// Copies the attributes of `path` from the nearest lower layer that has it. A layer that has something else there has
/// replaced the folder, and what lies below that does not count.
fn inherit(folder: &OwnedFd, path: &Path, lower: &[OwnedFd]) -> Result<bool> {
    for layer in lower {
        match open_within(layer, path) {
            Ok(source) => return copy(&source, folder).map(|()| true),
            Err(Errno::NOENT | Errno::LOOP) => {}
            Err(Errno::NOTDIR) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Owner, mode, extended attributes and times, as containerd copies them (`pkg/archive/tar_unix.go`, `copyDirInfo` and
/// `copyUpXAttrs`). `trusted.` ones are overlayfs's own and belong to their layer.
fn copy(source: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let stat = fstat(source)?;
    fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    // After the owner, because a change of owner may clear bits of the mode (chown(2)).
    fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(source, target)?;
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let (seconds, nanos) = moment(&stat);
    let accessed = time(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0));
    futimens(target, &Timestamps { last_access: accessed, last_modification: time(seconds, nanos) })
}

fn copy_xattrs(source: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let mut list = vec![0; XATTR_BYTES];
    let length = match flistxattr(source, &mut list[..]) {
        Err(Errno::NOTSUP) => return Ok(()),
        length => length?,
    };
    let mut value = vec![0; XATTR_BYTES];
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.") {
            continue;
        }
        let length = match fgetxattr(source, name, &mut value[..]) {
            Err(Errno::NOTSUP | Errno::NODATA) => continue,
            length => length?,
        };
        match fsetxattr(target, name, &value[..length], XattrFlags::CREATE) {
            Ok(()) | Err(Errno::EXIST | Errno::NOTSUP | Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Opens a folder of a layer; a layer's own links are never followed.
fn open_beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    struct Layers(tempfile::TempDir);

    impl Layers {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        /// A folder that an archive describes: old, with a mode.
        fn described(&self, path: &str, mode: u32) {
            let path = self.path(path);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let old = SystemTime::now() - Duration::from_secs(3600);
            File::open(path).unwrap().set_modified(old).unwrap();
        }

        /// A folder that an archive uses without describing it.
        fn made_up(&self, path: &str) {
            let path = self.path(path);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }

        fn open(&self, path: &str) -> OwnedFd {
            File::open(self.path(path)).unwrap().into()
        }

        fn mode(&self, path: &str) -> u32 {
            self.path(path).metadata().unwrap().mode() & 0o7777
        }
    }

    #[test]
    fn undescribed_folders_take_after_the_nearest_lower_layer() {
        let layers = Layers::new();
        layers.described("one/tmp", 0o777);
        layers.described("one/root/.ssh", 0o700);
        layers.described("one/root", 0o700);
        layers.described("two/tmp", 0o1777);
        fs::create_dir(layers.path("three")).unwrap();
        let three = layers.open("three");
        let since = modified(&three).unwrap();
        layers.made_up("three/tmp");
        layers.made_up("three/root/.ssh");
        layers.made_up("three/new");
        let mended = mend(&three, since, &[layers.open("two"), layers.open("one")]).unwrap();
        assert_eq!(mended, 3);
        assert_eq!(layers.mode("three/tmp"), 0o1777, "from the nearest layer");
        assert_eq!(layers.mode("three/root"), 0o700);
        assert_eq!(layers.mode("three/root/.ssh"), 0o700);
        assert_eq!(layers.mode("three/new"), 0o755, "no layer knows it");
        let (mended, original) = (layers.path("three/tmp"), layers.path("two/tmp"));
        assert_eq!(mended.metadata().unwrap().mtime(), original.metadata().unwrap().mtime());
    }

    #[test]
    fn described_folders_stay_as_they_are() {
        let layers = Layers::new();
        layers.described("one/a", 0o700);
        layers.described("one/b", 0o700);
        fs::create_dir(layers.path("two")).unwrap();
        let two = layers.open("two");
        let since = modified(&two).unwrap();
        layers.described("two/a", 0o755);
        layers.made_up("two/b");
        fs::set_permissions(layers.path("two/b"), Permissions::from_mode(0o750)).unwrap();
        assert_eq!(mend(&two, since, &[layers.open("one")]).unwrap(), 0);
        assert_eq!((layers.mode("two/a"), layers.mode("two/b")), (0o755, 0o750));
    }

    #[test]
    fn what_was_replaced_is_not_inherited_and_links_are_resolved_inside() {
        let layers = Layers::new();
        layers.described("one/a", 0o700);
        layers.described("one/usr/lib", 0o711);
        symlink("/usr/lib", layers.path("one/lib")).unwrap();
        fs::create_dir_all(layers.path("two")).unwrap();
        fs::write(layers.path("two/a"), "a file where a folder was").unwrap();
        fs::create_dir(layers.path("three")).unwrap();
        let three = layers.open("three");
        let since = modified(&three).unwrap();
        layers.made_up("three/a");
        layers.made_up("three/lib");
        assert_eq!(mend(&three, since, &[layers.open("two"), layers.open("one")]).unwrap(), 1);
        assert_eq!((layers.mode("three/a"), layers.mode("three/lib")), (0o755, 0o711));
    }
}
