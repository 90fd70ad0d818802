//! Folders that a layer uses without describing them.
//!
//! A layer's archive may hold `a/b` and no entry for `a`. containerd then makes `a` with the attributes that it has in
//! the layers below (`pkg/archive/tar.go`, `mkparent`). While layers are unpacked in parallel there is nothing below yet,
//! so `a` comes out as root's, with mode 0755, and hides what a lower layer says: `/tmp` would no longer be writable for
//! everybody. containerd's own parallel unpack leaves it at that. Here such folders get the attributes that they would
//! have had, before the snapshot is committed: a chain id identifies one file system, however it was unpacked.
//!
//! Which folders these are only the archive says ([`Described`]). It is read again, which costs as much as unpacking does,
//! so it is first looked for folders of which it would matter ([`candidates`]); hardly any layer has one.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, fchmod,
    fchown, fgetxattr, flistxattr, flistxattr_query, fsetxattr, fstat, futimens, openat2,
};
use rustix::io::{Errno, Result};

use super::described::{Described, Folder, Origin};
use super::host::open_within;

/// What a kernel keeps at most in one extended attribute, and in their list (xattr(7)).
const XATTR_BYTES: usize = 64 << 10;
/// overlayfs's mark of a folder that hides what is below it.
pub(super) const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";
/// What a folder hands on to everything that is made in it (acl(5)).
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const SET_GROUP: u32 = 0o2000;

/// A folder whose attributes depend on whether its layer describes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    path: PathBuf,
    /// The layer that it would take after. Without one it would belong to this group, which the folder around it hands on.
    from: std::result::Result<usize, u32>,
}

/// A folder on the way through a layer.
struct Step {
    path: PathBuf,
    /// The layers below that have the folder around it, the nearest first.
    around: Rc<[usize]>,
    /// The group that the folder around it would hand on to folders in it, by what it has below.
    group: Option<u32>,
}

/// The folders below `upper` of which it matters. What lies below folders that none of `lower` has is not looked at.
pub(super) fn candidates(upper: &OwnedFd, lower: &[OwnedFd]) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let mut steps = vec![Step { path: PathBuf::from("."), around: (0..lower.len()).collect(), group: None }];
    while let Some(Step { path, around, group }) = steps.pop() {
        let folder = open_beneath(upper, &path)?;
        let stat = fstat(&folder)?;
        let is_root = path == Path::new(".");
        let (nearest, there) = below(lower, &around, &path)?;
        // As containerd makes them. The group may be handed on by a folder that the layer describes.
        let is_plain = stat.st_mode & 0o7777 == 0o755 && stat.st_uid == 0;
        let entries = entries(&folder)?;
        let from = match &nearest {
            _ if is_root => None,
            Some((at, source)) => matters(source, &folder, &stat, is_plain, entries.is_none())?.then_some(Ok(*at)),
            None => group.filter(|group| is_plain && stat.st_gid != *group).map(Err),
        };
        let group = match &nearest {
            Some((_, source)) if !is_root => {
                let source = fstat(source)?;
                (source.st_mode & SET_GROUP != 0).then_some(source.st_gid)
            }
            _ => None,
        };
        found.extend(from.map(|from| Candidate { path: path.clone(), from }));
        if there.is_empty() && group.is_none() {
            continue;
        }
        for name in entries.unwrap_or_default() {
            steps.push(Step { path: path.join(name), around: there.clone(), group });
        }
    }
    Ok(found)
}

/// The nearest of the layers `around` that has the folder `path`, and all of them that have it. A layer that has something
/// else there has replaced the folder, and what lies below that does not count. containerd refuses some such images when it
/// unpacks layers in turn, and takes them when it unpacks them in parallel, where it does not look.
#[expect(clippy::type_complexity, reason = "both are found in one go")]
fn below(lower: &[OwnedFd], around: &[usize], path: &Path) -> Result<(Option<(usize, OwnedFd)>, Rc<[usize]>)> {
    let (mut nearest, mut there) = (None, Vec::new());
    for &at in around {
        match open_within(&lower[at], path) {
            Ok(source) => {
                there.push(at);
                nearest.get_or_insert((at, source));
            }
            Err(Errno::NOENT | Errno::LOOP) => {}
            Err(Errno::NOTDIR) => break,
            Err(error) => return Err(error),
        }
    }
    Ok((nearest, there.into()))
}

/// The folders in a folder; `None` if it is empty.
fn entries(folder: &OwnedFd) -> Result<Option<Vec<PathBuf>>> {
    let (mut folders, mut is_empty) = (Vec::new(), true);
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        is_empty = false;
        if entry.file_type() == FileType::Directory {
            folders.push(PathBuf::from(OsStr::from_bytes(name)));
        }
    }
    Ok((!is_empty).then_some(folders))
}

/// Whether `folder` would look otherwise if containerd had made it with `source` at hand.
fn matters(source: &OwnedFd, folder: &OwnedFd, stat: &Stat, is_plain: bool, is_empty: bool) -> Result<bool> {
    let other = fstat(source)?;
    let same =
        (other.st_uid, other.st_gid, other.st_mode & 0o7777) == (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
    if is_plain && !same {
        return Ok(true);
    }
    let have = xattrs(folder)?;
    if xattrs(source)?.iter().any(|name| !is_trusted(name) && !have.contains(name)) {
        return Ok(true);
    }
    // Nothing was made in it, so it would have kept the times, too.
    Ok(is_plain && is_empty && have.iter().any(|name| name == OPAQUE_XATTR))
}

/// Gives `candidates` what they would have, as far as `described` says that containerd made them. Returns how many were
/// changed; `None` if that cannot be done afterwards.
pub(super) fn restore_parents(
    upper: &OwnedFd,
    lower: &[OwnedFd],
    candidates: &[Candidate],
    described: &Described,
) -> Result<Option<usize>> {
    let mut restored = 0;
    for Candidate { path, from } in candidates {
        let inside = path.strip_prefix(".").unwrap_or(path);
        // Whatever made it, it was no entry that we know of.
        let Some(made) = described.folder(inside.as_os_str().as_bytes()) else { return Ok(None) };
        if made.origin == Origin::Described {
            continue;
        }
        let folder = open_beneath(upper, path)?;
        match from {
            Ok(at) => {
                let source = open_within(&lower[*at], path)?;
                if made.filled && xattrs(&source)?.iter().any(|name| name == DEFAULT_ACL) {
                    return Ok(None);
                }
                copy(&source, &folder, made)?;
            }
            Err(group) if made.origin == Origin::Implied && made.below_implied => {
                fchown(&folder, None, Some(Gid::from_raw(*group)))?;
                fchmod(&folder, Mode::from_raw_mode(0o755))?;
            }
            Err(_) => continue,
        }
        restored += 1;
    }
    Ok(Some(restored))
}

/// Owner, mode, extended attributes and times, as containerd copies them (`pkg/archive/tar_unix.go`, `copyDirInfo` and
/// `copyUpXAttrs`). What an entry of the layer said later counts more.
fn copy(source: &OwnedFd, target: &OwnedFd, made: Folder) -> Result<()> {
    if made.origin == Origin::DescribedLater {
        let mode = fstat(target)?.st_mode & 0o7777;
        copy_xattrs(source, target)?;
        // An access control list is a mode, too.
        return fchmod(target, Mode::from_raw_mode(mode));
    }
    let stat = fstat(source)?;
    fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    // After the owner, because a change of owner may clear bits of the mode (chown(2)).
    fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(source, target)?;
    let time = |seconds, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    let last_modification = match made.filled {
        // It changed when something was made in it.
        true => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        false => time(stat.st_mtime, stat.st_mtime_nsec),
    };
    let last_access = time(stat.st_atime, stat.st_atime_nsec);
    futimens(target, &Timestamps { last_access, last_modification })
}

/// The names of the extended attributes.
fn xattrs(of: impl AsFd) -> Result<Vec<Vec<u8>>> {
    // Most have none, which is seen without a buffer.
    let length = match flistxattr_query(&of) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        length => length?,
    };
    let mut list = vec![0; length.min(XATTR_BYTES)];
    let length = flistxattr(&of, &mut list[..])?;
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Whether an attribute is overlayfs's own, and so belongs to its layer.
fn is_trusted(name: &[u8]) -> bool {
    name.starts_with(b"trusted.")
}

fn copy_xattrs(source: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let mut value = vec![0; XATTR_BYTES];
    for name in xattrs(source)?.into_iter().filter(|name| !is_trusted(name)) {
        let length = match fgetxattr(source, &*name, &mut value[..]) {
            Err(Errno::NOTSUP | Errno::NODATA) => continue,
            length => length?,
        };
        match fsetxattr(target, &*name, &value[..length], XattrFlags::CREATE) {
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
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    use super::*;
    use crate::output::member::Body;

    struct Layers(tempfile::TempDir);

    impl Layers {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn folder(&self, path: &str, mode: u32) {
            fs::create_dir_all(self.path(path)).unwrap();
            fs::set_permissions(self.path(path), Permissions::from_mode(mode)).unwrap();
        }

        fn open(&self, path: &str) -> OwnedFd {
            File::open(self.path(path)).unwrap().into()
        }

        fn mode(&self, path: &str) -> u32 {
            self.path(path).metadata().unwrap().mode() & 0o7777
        }

        /// Restores the directories of the layer `upper`, whose archive has these entries.
        fn restore_parents(&self, upper: &str, lower: &[&str], entries: &[(&str, Body)]) -> Option<usize> {
            let described = Described::of(entries);
            let (upper, lower) = (self.open(upper), lower.iter().map(|layer| self.open(layer)).collect::<Vec<_>>());
            let candidates = candidates(&upper, &lower).unwrap();
            restore_parents(&upper, &lower, &candidates, &described).unwrap()
        }
    }

    const FILE: Body = Body::File { size: 0 };

    #[test]
    fn undescribed_folders_take_after_the_nearest_lower_layer() {
        let layers = Layers::new();
        layers.folder("one/tmp", 0o777);
        layers.folder("one/root/.ssh", 0o700);
        layers.folder("one/root", 0o700);
        layers.folder("two/tmp", 0o1777);
        layers.folder("three/tmp", 0o755);
        layers.folder("three/root/.ssh", 0o755);
        layers.folder("three/new/tmp", 0o755);
        let entries = [("tmp/a", FILE), ("root/.ssh/a", FILE), ("new/tmp/a", FILE)];
        assert_eq!(layers.restore_parents("three", &["two", "one"], &entries), Some(3));
        assert_eq!(layers.mode("three/tmp"), 0o1777, "from the nearest layer");
        assert_eq!(layers.mode("three/root"), 0o700);
        assert_eq!(layers.mode("three/root/.ssh"), 0o700);
        assert_eq!((layers.mode("three/new"), layers.mode("three/new/tmp")), (0o755, 0o755), "no layer knows them");
    }

    #[test]
    fn described_folders_stay_as_they_are_however_new_they_look() {
        let layers = Layers::new();
        layers.folder("one/a", 0o700);
        layers.folder("one/b", 0o700);
        layers.folder("two/a", 0o755);
        layers.folder("two/b", 0o750);
        let entries = [("a", Body::Folder), ("a/file", FILE), ("b/file", FILE), ("b", Body::Folder)];
        assert_eq!(layers.restore_parents("two", &["one"], &entries), Some(0));
        assert_eq!((layers.mode("two/a"), layers.mode("two/b")), (0o755, 0o750));
    }

    #[test]
    fn what_was_replaced_is_not_inherited_and_links_are_resolved_inside() {
        let layers = Layers::new();
        layers.folder("one/a", 0o700);
        layers.folder("one/usr/lib", 0o711);
        symlink("/usr/lib", layers.path("one/lib")).unwrap();
        layers.folder("two", 0o755);
        fs::write(layers.path("two/a"), "a file where a folder was").unwrap();
        layers.folder("three/a", 0o755);
        layers.folder("three/lib", 0o755);
        let entries = [("a/file", FILE), ("lib/file", FILE)];
        assert_eq!(layers.restore_parents("three", &["two", "one"], &entries), Some(1));
        assert_eq!((layers.mode("three/a"), layers.mode("three/lib")), (0o755, 0o711));
    }

    #[test]
    fn a_group_that_is_handed_on_reaches_new_folders() {
        let layers = Layers::new();
        layers.folder("one/srv", 0o2775);
        if chown(layers.path("one/srv"), None, Some(50)).is_err() {
            return;
        }
        layers.folder("one/srv", 0o2775);
        layers.folder("two/srv/new/deep", 0o755);
        assert_eq!(layers.restore_parents("two", &["one"], &[("srv/new/deep/file", FILE)]), Some(2));
        let found = |path: &str| (layers.mode(path), layers.path(path).metadata().unwrap().gid());
        assert_eq!((found("two/srv"), found("two/srv/new")), ((0o2775, 50), (0o755, 50)));
        assert_eq!(found("two/srv/new/deep"), (0o755, 0));
    }

    #[test]
    fn a_folder_that_no_entry_explains_is_not_restored() {
        let layers = Layers::new();
        layers.folder("one/tmp", 0o1777);
        layers.folder("two/tmp", 0o755);
        assert_eq!(layers.restore_parents("two", &["one"], &[]), None);
    }
}
