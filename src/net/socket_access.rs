//! Why this process may not connect to a unix socket, as far as it can see that.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

/// What keeps this process from connecting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// It may not enter this folder, and so knows nothing of what is there, not even whether there is a socket.
    Folder(PathBuf),
    /// The socket is for its owner and this group.
    Group(u32),
    /// The socket is for this user alone.
    Owner(u32),
    /// Something that cannot be seen.
    Unseen,
}

impl Barrier {
    /// What keeps this process from the socket at `path`.
    pub(crate) fn before(path: &Path) -> Self {
        let mut folders: Vec<_> = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect();
        folders.reverse();
        for folder in folders {
            match access(folder, Access::EXEC_OK) {
                Ok(()) => {}
                Err(Errno::ACCESS) => return Self::Folder(folder.to_owned()),
                Err(_) => return Self::Unseen,
            }
        }
        let Ok(socket) = path.metadata() else { return Self::Unseen };
        let own = rustix::process::getgroups().unwrap_or_default();
        let is_member = rustix::process::getegid().as_raw() == socket.gid()
            || own.iter().any(|group| group.as_raw() == socket.gid());
        match Self::of_socket(socket.mode(), socket.uid(), socket.gid()) {
            Self::Group(_) if is_member => Self::Unseen,
            barrier => barrier,
        }
    }

    /// The same for a socket whose URL is `address`.
    pub(crate) fn at(address: &str) -> Self {
        address.strip_prefix("unix://").map_or(Self::Unseen, |path| Self::before(Path::new(path)))
    }

    /// Who may connect to a socket needs to write it (unix(7)).
    fn of_socket(mode: u32, uid: u32, gid: u32) -> Self {
        match mode & 0o022 {
            // Nobody is a member of root's group who is not root.
            0o020 if gid != 0 => Self::Group(gid),
            0 | 0o020 => Self::Owner(uid),
            _ => Self::Unseen,
        }
    }

    /// What to do about it; begins a sentence.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::Folder(folder) => format!(
                "`ls -ld {folder}` shows whose folder it is: only they know what is there; name a socket that you may reach",
                folder = folder.display()
            ),
            Self::Group(gid) => format!("run this as root or as a member of the group {}", group_name(*gid)),
            Self::Owner(uid) => format!("run this as {}", user_name(*uid)),
            Self::Unseen => "run this as root, or as a user who may use that socket".to_owned(),
        }
    }
}

impl fmt::Display for Barrier {
    /// Continues "no permission to use it".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => {
                write!(f, ": this user may not enter {}, and cannot see what is there", folder.display())
            }
            Self::Group(gid) => write!(f, ", which is of the group {}", group_name(*gid)),
            Self::Owner(uid) => write!(f, ", which is for {} alone", user_name(*uid)),
            Self::Unseen => Ok(()),
        }
    }
}

/// The name of the group `gid`, or its number if it has none here.
fn group_name(gid: u32) -> String {
    name_in("/etc/group", gid).unwrap_or_else(|| gid.to_string())
}

/// The name of the user `uid`, or the number if there is none here.
fn user_name(uid: u32) -> String {
    name_in("/etc/passwd", uid).unwrap_or_else(|| format!("the user {uid}"))
}

/// What `id` is called in a file of group(5) or passwd(5), which begin alike: `name:password:id`.
fn name_in(file: &str, id: u32) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_only_named_that_may_connect() {
        assert_eq!(Barrier::of_socket(0o140_660, 7, 9), Barrier::Group(9));
        // A group of root's has no other members, and one that may not write the socket is no help.
        assert_eq!(Barrier::of_socket(0o140_660, 0, 0), Barrier::Owner(0));
        assert_eq!(Barrier::of_socket(0o140_600, 7, 9), Barrier::Owner(7));
        assert_eq!(Barrier::of_socket(0o140_640, 7, 9), Barrier::Owner(7));
        assert_eq!(Barrier::of_socket(0o140_666, 7, 9), Barrier::Unseen);
        assert_eq!(Barrier::Owner(0).remedy(), "run this as root");
        assert_eq!(Barrier::Owner(4_000_000_000).to_string(), ", which is for the user 4000000000 alone");
        let folder = Barrier::Folder("/tmp/priv".into());
        assert!(!folder.to_string().contains("group") && !folder.remedy().contains("root"), "{folder}");
    }

    #[test]
    fn what_is_not_there_is_of_nobody() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Barrier::before(&folder.path().join("absent/x.sock")), Barrier::Unseen);
        assert_eq!(Barrier::before(&folder.path().join("x.sock")), Barrier::Unseen);
        assert_eq!(Barrier::at("tcp://h:1"), Barrier::Unseen);
    }
}
