//! Groups of this machine.

use std::fs;
use std::path::Path;

/// The id of group `name` according to the group file at `groups` (group(5): `name:password:id:members`).
///
/// Groups of other sources (LDAP and the like) are not found: that needs the C library, whose plugins would run inside
/// this privileged process. Such a group can be given by its id.
pub(super) fn find(groups: &Path, name: &str) -> Option<u32> {
    let text = fs::read_to_string(groups).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The default group of our sockets: `docker` if it exists, so that users of dockerd can use them, else root. A process
/// that is not root cannot change groups and keeps its own.
pub(super) fn default(groups: &Path) -> u32 {
    if !rustix::process::geteuid().is_root() {
        return rustix::process::getegid().as_raw();
    }
    find(groups, "docker").unwrap_or(0)
}
