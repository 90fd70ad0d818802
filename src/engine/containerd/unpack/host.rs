//! containerd's files, where this process can reach them.
//!
//! A snapshotter responds with mounts, and mounts are paths as containerd sees them. Whoever prepared a snapshot may fill
//! it through them; but the same path may be something else here, when containerd runs in a container or we do. The one
//! view that is right in every case is `/proc/<pid>/root` of containerd itself.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use containerd_client::types::Mount;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::super::client::Client;
use crate::engine::EngineError;

/// The root folder of containerd's mount namespace.
#[derive(Debug)]
pub(crate) struct Host {
    root: File,
    pid: u64,
}

impl Host {
    /// containerd's files. The inner error says why they cannot be reached from here: it runs in a pid namespace that we do not
    /// see into, or we lack the permission.
    pub(crate) async fn of(client: &Client) -> Result<Result<Self, String>, EngineError> {
        let mut introspection = client.introspection();
        let call = introspection.server(client.request(()));
        let server = client.unary("asking containerd for its process", call).await?;
        // What responds may be on another host, behind a forwarded socket, or in a container that is not to be trusted; the same
        // numbers may be in use here. So they only confirm which process it is at the other end of the socket, which the kernel
        // says. In a pid namespace below ours it has another number here.
        let Some(pid) = client.process().await.and_then(|peer| u64::try_from(peer.as_raw_nonzero().get()).ok()) else {
            return Ok(Err("its socket belongs to a process that cannot be seen".to_owned()));
        };
        let path = format!("/proc/{pid}/root");
        let flags = (OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed();
        let root = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(root) => root,
            Err(error) => return Ok(Err(format!("containerd's files cannot be reached: {path}: {error}"))),
        };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if !is_process(pid, &status, server.pidns, server.pid) {
            return Ok(Err(format!("its socket belongs to the process {pid}, which is not containerd")));
        }
        // Whoever is root for a container that is not privileged does for it what it may not.
        if !may_mount(&status) {
            return Ok(Err("containerd has not the capability to mount".to_owned()));
        }
        Ok(Ok(Self { root, pid }))
    }

    /// containerd's process.
    pub(super) fn pid(&self) -> u64 {
        self.pid
    }

    /// Opens a file for reading, by the path that containerd knows it by.
    pub(crate) fn file(&self, path: &Path) -> rustix::io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
            .map(File::from)
    }

    /// Opens a folder by the path that containerd knows it by.
    pub(super) fn folder(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        open_within(&self.root, path)
    }
}

/// The pid namespace of a process. Its inode is its identity (namespaces(7)).
fn pid_namespace(process: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{process}/ns/pid")).ok().map(|metadata| metadata.ino())
}

/// Whether the process `pid` with this `/proc/PID/status` is in the pid namespace `namespace` and has the number `inner` there.
fn is_process(pid: u64, status: &str, namespace: u64, inner: u64) -> bool {
    pid_namespace(&pid.to_string()) == Some(namespace) && innermost_pid(status) == Some(inner)
}

/// Whether a process has `CAP_SYS_ADMIN` (21 in `linux/capability.h`), without which no containerd mounts an overlay.
fn may_mount(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & 1 << 21 != 0)
}

/// The number of a process in the innermost of its pid namespaces (proc_pid_status(5), `NSpid`).
fn innermost_pid(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().next_back()?.parse().ok()
}

/// Opens the folder `path` below `root`, as if `root` were the root folder: no link and no `..` leads out of it.
pub(super) fn open_within(root: impl std::os::fd::AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Where an overlay snapshot lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OverlayDirs {
    /// The folder that the layer is unpacked into.
    pub(super) upper: PathBuf,
    /// The folders of the layers below, the nearest first.
    pub(super) lower: Vec<PathBuf>,
}

impl OverlayDirs {
    /// Reads it from the mounts of an active snapshot of the `overlayfs` snapshotter: an overlay, or for a
    /// snapshot without a parent a bind mount (containerd `plugins/snapshots/overlay/overlay.go`, `mounts`).
    /// `None` if they are anything else.
    pub(super) fn of(mounts: &[Mount]) -> Option<Self> {
        let [mount] = mounts else { return None };
        match mount.r#type.as_str() {
            "bind" => Some(Self { upper: PathBuf::from(&mount.source), lower: Vec::new() }),
            "overlay" => {
                let option = |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key));
                let lower =
                    option("lowerdir=").map_or_else(Vec::new, |lower| lower.split(':').map(PathBuf::from).collect());
                Some(Self { upper: PathBuf::from(option("upperdir=")?), lower })
            }
            _ => None,
        }
    }
}

/// Turns the bind mount of a snapshot without a parent into the overlay mount that its layer needs: only for an
/// overlay does containerd turn whiteouts into overlayfs's own, and this layer is going to lie on others
/// (containerd `core/unpack/unpacker.go`, `bindToOverlay`).
pub(super) fn as_overlay(mounts: Vec<Mount>) -> Vec<Mount> {
    match <[Mount; 1]>::try_from(mounts) {
        Ok([bind]) if bind.r#type == "bind" => {
            let mut options: Vec<_> = bind.options.into_iter().filter(|option| option != "rbind").collect();
            options.push(format!("upperdir={}", bind.source));
            vec![Mount { r#type: "overlay".to_owned(), source: "overlay".to_owned(), target: bind.target, options }]
        }
        Ok([mount]) => vec![mount],
        Err(mounts) => mounts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            r#type: kind.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_process_is_known_by_its_number_in_its_own_namespace() {
        assert_eq!(innermost_pid("Name:\tx\nNSpid:\t4711\t12\t1\nUid:\t0\n"), Some(1));
        assert_eq!(innermost_pid("Name:\tx\n"), None);
        let ours = u64::from(std::process::id());
        let namespace = pid_namespace("self").unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let inner = innermost_pid(&status).unwrap();
        assert!(is_process(ours, &status, namespace, inner));
        assert!(!is_process(ours, &status, namespace, inner + 1) && !is_process(ours, &status, namespace + 1, inner));
    }

    #[test]
    fn only_a_privileged_process_mounts() {
        assert!(may_mount("CapPrm:\t0\nCapEff:\t000001ffffffffff\n") && may_mount("CapEff:\t0000000000200000\n"));
        // What docker gives a container by default.
        assert!(!may_mount("CapEff:\t00000000a80425fb\n") && !may_mount("") && !may_mount("CapEff:\tx\n"));
    }

    #[test]
    fn places_are_read_from_mounts() {
        let bind = mount("bind", "/s/1/fs", &["rw", "rbind"]);
        assert_eq!(OverlayDirs::of(&[bind]), Some(OverlayDirs { upper: "/s/1/fs".into(), lower: vec![] }));
        let overlay = mount("overlay", "overlay", &["index=off", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"]);
        let lower = vec!["/s/2/fs".into(), "/s/1/fs".into()];
        assert_eq!(
            OverlayDirs::of(std::slice::from_ref(&overlay)),
            Some(OverlayDirs { upper: "/s/3/fs".into(), lower })
        );
        assert_eq!(OverlayDirs::of(&[overlay.clone(), overlay]), None);
        assert_eq!(OverlayDirs::of(&[mount("erofs", "/x", &[])]), None);
    }

    #[test]
    fn a_bind_mount_becomes_an_overlay() {
        let overlay = as_overlay(vec![mount("bind", "/s/1/fs", &["rw", "rbind"])]);
        assert_eq!(overlay, [mount("overlay", "overlay", &["rw", "upperdir=/s/1/fs"])]);
        assert_eq!(as_overlay(overlay.clone()), overlay);
    }

    #[test]
    fn nothing_leads_out_of_a_root() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inside")).unwrap();
        std::os::unix::fs::symlink("/inside", folder.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("outside")).unwrap();
        let root = File::open(folder.path()).unwrap();
        assert!(open_within(&root, Path::new("/inside")).is_ok());
        assert!(open_within(&root, Path::new("absolute")).is_ok());
        assert!(open_within(&root, Path::new("../../../inside")).is_ok());
        assert_eq!(open_within(&root, Path::new("outside")).unwrap_err(), rustix::io::Errno::NOENT);
    }
}
