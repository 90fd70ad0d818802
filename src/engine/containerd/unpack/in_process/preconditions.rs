//! Whether this process can do with containerd's files exactly what containerd does.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::super::host::Host;

/// What creating arbitrary files takes: chown, reading and writing everywhere, chmod of others' files, set-group-id for any
/// group, `trusted` attributes, devices, file capabilities (`linux/capability.h`). Without `CAP_FSETID`, chmod(2) leaves bits out
/// and does not fail.
const CAPABILITIES: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 21 | 1 << 27 | 1 << 31;
/// The user namespace in which every id is itself (user_namespaces(7)).
const ALL_IDS: [&str; 3] = ["0", "0", "4294967295"];

/// Checks it. Returns this process's umask.
///
/// # Errors
/// The reason why it cannot.
pub(super) fn check(host: &Host) -> Result<u32, String> {
    let pid = host.pid();
    match is_unmapped(pid) {
        Ok(true) => {}
        Ok(false) => return Err("containerd is in another user namespace, or one that maps ids".to_owned()),
        Err(error) => return Err(format!("containerd's user namespace cannot be seen: {error}")),
    }
    let status = fs::read_to_string("/proc/thread-self/status").map_err(|error| error.to_string())?;
    umask_of_root(&status)
}

/// Whether containerd and this process are in one user namespace, which maps no ids.
fn is_unmapped(pid: u64) -> std::io::Result<bool> {
    let ours = fs::metadata("/proc/self/ns/user")?;
    let theirs = fs::metadata(format!("/proc/{pid}/ns/user"))?;
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) && map.split_whitespace().eq(ALL_IDS))
}

/// The umask, if the process with this `/proc/PID/status` is root with all that root may do to files.
fn umask_of_root(status: &str) -> Result<u32, String> {
    let fields: HashMap<_, _> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
    let field = |name| fields.get(name).copied().unwrap_or_default().trim();
    // The last is what files that it creates belong to (credentials(7)).
    let is_root = |name| field(name).split_whitespace().next_back() == Some("0");
    if !is_root("Uid") || !is_root("Gid") {
        return Err("this process is not root's".to_owned());
    }
    let capabilities = u64::from_str_radix(field("CapEff"), 16).unwrap_or_default();
    if capabilities & CAPABILITIES != CAPABILITIES {
        return Err(format!("this process has only the capabilities {capabilities:x}"));
    }
    u32::from_str_radix(field("Umask"), 8).map_err(|_| "the kernel does not say the umask".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_with_all_capabilities_is_root() {
        let status = |uid: &str, gid: &str, capabilities: &str| {
            format!("Name:\tx\nUmask:\t0027\nUid:\t{uid}\nGid:\t{gid}\nCapEff:\t{capabilities}\n")
        };
        let (root, all) = ("0\t0\t0\t0", "000001ffffffffff");
        assert_eq!(umask_of_root(&status(root, root, all)), Ok(0o27));
        assert!(umask_of_root(&status("0\t0\t0\t1000", root, all)).is_err());
        assert!(umask_of_root(&status(root, "5\t5\t5\t5", all)).is_err());
        assert!(umask_of_root(&status(root, root, "000001ffffffffef")).is_err());
        assert!(umask_of_root("").is_err());
    }
}
