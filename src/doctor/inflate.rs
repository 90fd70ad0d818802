//! Which decompressor containerd uses for gzip layers.
//!
//! It prefers `igzip`, then `unpigz`, if they are on *its* PATH and not disabled by a variable, else Go's own code
//! (containerd's `pkg/archive/compression/compression.go`). Its environment is read from the process at the other end of its
//! socket.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use tokio::net::UnixStream;

/// A helper and the variable that disables it, in containerd's order of preference.
const HELPERS: [(&str, &str); 2] = [("igzip", "CONTAINERD_DISABLE_IGZIP"), ("unpigz", "CONTAINERD_DISABLE_PIGZ")];

/// The decompressor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Inflate {
    /// A helper program.
    Helper(&'static str),
    /// Go's own code.
    Builtin,
}

/// The decompressor of the containerd at `address` (a path, or `unix://` and a path); `None` if its environment cannot be
/// read, as without root.
pub(super) async fn find(address: &str) -> Option<Inflate> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let peer = UnixStream::connect(path).await.ok()?.peer_cred().ok()?.pid()?;
    let process = Path::new("/proc").join(peer.to_string());
    let environment = tokio::fs::read(process.join("environ")).await.ok()?;
    Some(choose(&variables(&environment), &process.join("root")))
}

/// Parses `/proc/PID/environ` (proc(5)): `NAME=VALUE`, each ended by a zero byte.
fn variables(environment: &[u8]) -> HashMap<OsString, OsString> {
    let pair = |entry: &[u8]| {
        let equals = entry.iter().position(|byte| *byte == b'=')?;
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((text(&entry[..equals]), text(&entry[equals + 1..])))
    };
    environment.split(|byte| *byte == 0).filter_map(pair).collect()
}

fn choose(variables: &HashMap<OsString, OsString>, root: &Path) -> Inflate {
    let variable = |name: &str| variables.get(&OsString::from(name));
    let disabled = |name: &str| {
        // The values that Go's strconv.ParseBool reads as true.
        let value = variable(name).and_then(|value| value.to_str());
        matches!(value, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    };
    let on_path = |program: &str| {
        let folders = variable("PATH").map(std::env::split_paths).into_iter().flatten();
        folders
            .filter_map(|folder| Some(root.join(folder.strip_prefix("/").ok()?)))
            .any(|at| at.join(program).is_file())
    };
    let found = HELPERS.iter().find(|(program, disable)| !disabled(disable) && on_path(program));
    found.map_or(Inflate::Builtin, |(program, _)| Inflate::Helper(program))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn containerds_path_decides() {
        let root = tempfile::tempdir().unwrap();
        for (folder, program) in [("one", "unpigz"), ("two", "igzip"), ("two", "unpigz")] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join(program), "").unwrap();
        }
        let choice = |environment: &[u8]| choose(&variables(environment), root.path());
        assert_eq!(choice(b""), Inflate::Builtin);
        assert_eq!(choice(b"PATH=/none:relative\0"), Inflate::Builtin);
        assert_eq!(choice(b"A=B=C\0PATH=/none:/one\0"), Inflate::Helper("unpigz"));
        assert_eq!(choice(b"PATH=/one:/two\0"), Inflate::Helper("igzip"));
        assert_eq!(choice(b"PATH=/two\0CONTAINERD_DISABLE_IGZIP=0"), Inflate::Helper("igzip"));
        assert_eq!(choice(b"PATH=/two\0CONTAINERD_DISABLE_IGZIP=1"), Inflate::Helper("unpigz"));
        let both = b"CONTAINERD_DISABLE_PIGZ=true\0PATH=/two\0CONTAINERD_DISABLE_IGZIP=T\0";
        assert_eq!(choice(both), Inflate::Builtin);
    }

    #[tokio::test]
    async fn the_process_behind_a_socket_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        // It is this very process, whose environment can be read.
        assert!(find(&format!("unix://{}", path.display())).await.is_some());
        assert_eq!(find("/nonexistent").await, None);
    }
}
