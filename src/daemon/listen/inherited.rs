//! Listening sockets that a service manager passes to this process (sd_listen_fds(3)).
//!
//! Such a socket outlives the process: clients that connect during a restart wait in its queue, and a container that
//! mounts the socket keeps the one that is served. So this process neither creates nor removes it, and its owner and
//! mode are the socket unit's. It belongs to the door with its address; if there is none, its name
//! (`FileDescriptorName=`) or a door's default address selects the door.

use std::env;
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;
use tracing::info;

use super::{ListenError, Listener, Socket};
use crate::config::{DEFAULT_DOCKER_LISTEN, DEFAULT_EXPORT_LISTEN, Layer, Origin, Setting};
use crate::net::Address;

/// The most sockets; no service has as many, so a larger number is a mistake.
const MAX_SOCKETS: usize = 256;
const COUNT: &str = "LISTEN_FDS";
const PROCESS: &str = "LISTEN_PID";
const NAMES: &str = "LISTEN_FDNAMES";
/// The doors by the names of their sockets.
const DOORS: [(&str, Setting); 5] = [
    ("docker", Setting::DockerListen),
    ("export", Setting::ExportListen),
    ("registry", Setting::RegistryListen),
    ("buildkit", Setting::BuildkitListen),
    ("metrics", Setting::MetricsListen),
];
/// The doors by their default addresses.
const USUAL: [(&str, Setting); 2] =
    [(DEFAULT_DOCKER_LISTEN, Setting::DockerListen), (DEFAULT_EXPORT_LISTEN, Setting::ExportListen)];

/// The sockets that were passed and are not used yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<PassedSocket>);

#[derive(Debug)]
struct PassedSocket {
    socket: PassedListener,
    name: String,
    address: Address,
}

#[derive(Debug)]
enum PassedListener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Inherited {
    /// Takes the sockets that were passed to this process. Call it once, while no other thread runs: it removes the
    /// variables, so that no child process takes the sockets for its own.
    pub(crate) fn take() -> Result<Self, ListenError> {
        let is_ours = env::var(PROCESS).is_ok_and(|id| id.parse() == Ok(std::process::id()));
        let Some(count) = env::var(COUNT).ok().filter(|_| is_ours) else { return Ok(Self::default()) };
        let count = match count.parse() {
            Ok(count @ 0..=MAX_SOCKETS) => count,
            _ => {
                let reason = format!("{COUNT} is `{count}`; expected a number up to {MAX_SOCKETS}");
                return Err(ListenError::Passed { socket: "of the service manager".to_owned(), reason });
            }
        };
        let names = env::var(NAMES).unwrap_or_default();
        let mut names = names.split(':');
        let mut given = ListenFd::from_env();
        let passed = (0..count).map(|index| {
            let name = names.next().unwrap_or_default();
            PassedSocket::take(&mut given, index, name)
        });
        let passed: Vec<_> = passed.collect::<Result<_, _>>()?;
        check_once(&passed)?;
        Ok(Self(passed))
    }

    /// The doors that the sockets' names or addresses select, as settings that all other sources override. A door that
    /// only its address selects counts as a default: the docker door is then left out if the engine is not Docker.
    pub(crate) fn settings(&self) -> Layer {
        let mut layer = Layer::default();
        for PassedSocket { name, address, .. } in &self.0 {
            if let Some((_, setting)) = DOORS.iter().find(|(door, _)| door == name) {
                layer.add(*setting, address.to_string(), Origin::Variable(NAMES.to_owned()));
            }
        }
        for (usual, setting) in USUAL {
            let is_usual = |passed: &PassedSocket| usual.parse().is_ok_and(|usual| is_same(&passed.address, &usual));
            if layer.last(setting).is_none() && self.0.iter().any(is_usual) {
                layer.add(setting, usual.to_owned(), Origin::Default(setting));
            }
        }
        layer
    }

    /// The socket for the door at `address`, if it was passed.
    pub(in crate::daemon) fn for_door(&mut self, address: &Address) -> Result<Option<Listener>, ListenError> {
        let Some(index) = self.0.iter().position(|passed| is_same(&passed.address, address)) else { return Ok(None) };
        let PassedSocket { socket, name, .. } = self.0.swap_remove(index);
        info!(%address, name, "the service manager listens, and has passed its socket");
        let fail = |source| ListenError::System { address: address.clone(), action: "take it over".to_owned(), source };
        let socket = match socket {
            PassedListener::Unix(socket) => {
                socket.set_nonblocking(true).map_err(fail)?;
                Socket::Unix(tokio::net::UnixListener::from_std(socket).map_err(fail)?)
            }
            PassedListener::Tcp(socket) => {
                socket.set_nonblocking(true).map_err(fail)?;
                Socket::Tcp(tokio::net::TcpListener::from_std(socket).map_err(fail)?)
            }
        };
        Ok(Some(Listener { claim: None, socket, address: address.clone(), is_own: false, tls: None }))
    }

    /// Fails if a socket is unused: its clients would wait forever.
    pub(crate) fn all_used(&self, doors: &[(Setting, &Address)]) -> Result<(), ListenError> {
        let Some(PassedSocket { address, name, .. }) = self.0.first() else { return Ok(()) };
        let named = DOORS.iter().find(|(door, _)| door == name).map(|(_, setting)| *setting);
        let listed = |doors: &mut dyn Iterator<Item = &Address>, form: fn(&Address) -> String| {
            doors.map(form).collect::<Vec<_>>().join(", ")
        };
        let mut of_name = doors.iter().filter(|(setting, _)| Some(*setting) == named).map(|(_, address)| *address);
        let mut all = doors.iter().map(|(_, address)| *address);
        let reason = match named.filter(|_| of_name.clone().next().is_some()) {
            Some(setting) => {
                let flag = setting.name();
                let (expected, streams) =
                    (listed(&mut of_name.clone(), Address::to_string), listed(&mut of_name, listen_stream));
                format!(
                    "FileDescriptorName={name} says that it is for --{flag}, and that (or {variable}, or the configuration file) \
                     names {expected}; make ListenStream= of the socket unit {streams}, or let --{flag} name {address}, as it does \
                     where it is left out",
                    variable = setting.variable()
                )
            }
            None => format!(
                "no door listens there (its name is `{name}`); make ListenStream= of the socket unit one of \
                 {streams}, or say with FileDescriptorName= which door it is for: `docker`, `export`, `registry`, `buildkit` or \
                 `metrics`",
                streams = listed(&mut all, listen_stream)
            ),
        };
        Err(ListenError::Passed { socket: address.to_string(), reason })
    }
}

/// Refuses a socket that was passed twice, and two for a door that has one: the second one's clients would wait forever.
fn check_once(passed: &[PassedSocket]) -> Result<(), ListenError> {
    for (index, PassedSocket { name, address, .. }) in passed.iter().enumerate() {
        let refused = |reason| Err(ListenError::Passed { socket: address.to_string(), reason });
        for (first, other) in passed[..index].iter().enumerate() {
            let (first, second) = (first + 1, index + 1);
            if is_same(&other.address, address) {
                return refused(format!(
                    "it was passed twice, as number {first} (`{}`) and number {second} (`{name}`); expected once: remove \
                     ListenStream={} from one of the socket units",
                    other.name,
                    listen_stream(address)
                ));
            }
            // Each builder has a door of its own.
            let is_one = DOORS.iter().any(|(door, setting)| door == name && *setting != Setting::BuildkitListen);
            if is_one && other.name == *name {
                return refused(format!(
                    "FileDescriptorName={name} is the name of two sockets, number {first} ({}) and number {second} ({address}), \
                     and there is one such door; expected one: a socket unit gives its name to each ListenStream= in it, so \
                     remove one, or move it into a unit with another name",
                    other.address
                ));
            }
        }
    }
    Ok(())
}

/// An address as socket units write it (systemd.socket(5)).
fn listen_stream(address: &Address) -> String {
    match address {
        Address::Unix(path) => path.display().to_string(),
        Address::Tcp { .. } => address.to_string().trim_start_matches("tcp://").to_owned(),
    }
}

impl PassedSocket {
    fn take(given: &mut ListenFd, index: usize, name: &str) -> Result<Self, ListenError> {
        let socket = || format!("number {} of the service manager (`{name}`)", index + 1);
        let refused = |reason: String| ListenError::Passed { socket: socket(), reason };
        if let Ok(Some(socket)) = given.take_unix_listener(index) {
            let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
            let Some(path) = path else { return Err(refused("it has no path, and a door needs one".to_owned())) };
            accepts(&socket).map_err(refused)?;
            return Ok(Self {
                socket: PassedListener::Unix(socket),
                name: name.to_owned(),
                address: Address::Unix(path),
            });
        }
        match given.take_tcp_listener(index) {
            Ok(Some(socket)) => {
                let found = socket.local_addr().map_err(|error| refused(error.to_string()))?;
                accepts(&socket).map_err(refused)?;
                let address = Address::Tcp { host: found.ip().to_string(), port: found.port() };
                Ok(Self { socket: PassedListener::Tcp(socket), name: name.to_owned(), address })
            }
            Ok(None) => Err(refused("it is not there".to_owned())),
            Err(_) => {
                Err(refused("it is no stream socket; expected ListenStream= with a path or an address".to_owned()))
            }
        }
    }
}

fn accepts(socket: &impl AsFd) -> Result<(), String> {
    match socket_acceptconn(socket) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it does not listen; the socket unit must have Accept=no".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether both addresses are the same socket. `/var/run` is a link to `/run` on almost every system.
fn is_same(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => {
            one == other || real(one).is_some_and(|it| Some(it) == real(other))
        }
        (Address::Tcp { host: one, port: left }, Address::Tcp { host: other, port: right }) => {
            left == right && (one == other || (is_this(one, other) || is_this(other, one)))
        }
        _ => false,
    }
}

/// Whether `name` is `localhost` and `address` a loopback address.
fn is_this(name: &str, address: &str) -> bool {
    name == "localhost" && address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `path` with symbolic links resolved in its folder only: if the socket itself is a link, that is not followed.
fn real(path: &Path) -> Option<PathBuf> {
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

#[cfg(test)]
impl Inherited {
    /// A passed `socket`, as if it were at `address`.
    pub(crate) fn of(socket: UnixListener, name: &str, address: &str) -> Self {
        let address = address.parse().unwrap();
        Self(vec![PassedSocket { socket: PassedListener::Unix(socket), name: name.to_owned(), address }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_sockets_open_their_doors_as_if_by_default() {
        let passed = |name: &str, address: &str| {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixListener::bind(folder.path().join("socket")).unwrap();
            Inherited::of(socket, name, address).settings()
        };
        for (usual, setting) in USUAL {
            let given = passed("linkspan.socket", usual);
            let given = given.last(setting).unwrap();
            assert_eq!((given.text.as_str(), &given.origin), (usual, &Origin::Default(setting)));
        }
        let metrics = passed("metrics", "unix:///run/other.sock");
        assert_eq!(metrics.last(Setting::MetricsListen).unwrap().text, "unix:///run/other.sock");
        let named = passed("docker", DEFAULT_DOCKER_LISTEN);
        assert_ne!(named.last(Setting::DockerListen).unwrap().origin, Origin::Default(Setting::DockerListen));
        assert!(passed("linkspan.socket", "unix:///run/other.sock").last(Setting::DockerListen).is_none());
    }

    fn passed(sockets: &[(&str, &str)]) -> Vec<PassedSocket> {
        let folder = tempfile::tempdir().unwrap();
        let each = sockets.iter().enumerate().flat_map(|(number, (name, address))| {
            let socket = UnixListener::bind(folder.path().join(number.to_string())).unwrap();
            Inherited::of(socket, name, address).0
        });
        each.collect()
    }

    #[test]
    fn a_socket_or_a_name_that_was_passed_twice_is_named() {
        let refused = |sockets: &[(&str, &str)]| check_once(&passed(sockets)).map_err(|error| error.to_string());
        let (a, b) = ("unix:///run/a.sock", "unix:///run/b.sock");
        let twice = refused(&[("x", b), ("docker", a), ("export", a)]).unwrap_err();
        assert!(
            twice.contains(
                "passed twice, as number 2 (`docker`) and number 3 (`export`); expected once: remove ListenStream=/run/a.sock"
            ),
            "{twice}"
        );
        let named = refused(&[("docker", a), ("docker", b)]).unwrap_err();
        let words = "FileDescriptorName=docker is the name of two sockets, number 1 (unix:///run/a.sock) and number 2";
        assert!(named.contains(words) && named.contains("move it into a unit with another name"), "{named}");
        // Builders have a door each, and names that are no door's say nothing.
        for fine in [[("buildkit", a), ("buildkit", b)], [("linkspan.socket", a), ("linkspan.socket", b)]] {
            refused(&fine).unwrap();
        }
    }

    #[test]
    fn a_socket_at_another_address_than_its_door_is_compared_with_the_flag() {
        let (door, builder) = ("unix:///run/b.sock".parse().unwrap(), "tcp://127.0.0.1:1".parse().unwrap());
        let doors = [(Setting::DockerListen, &door), (Setting::BuildkitListen, &builder)];
        let unused =
            |name: &str| Inherited(passed(&[(name, "unix:///run/a.sock")])).all_used(&doors).unwrap_err().to_string();
        let named = unused("docker");
        for words in [
            "the socket unix:///run/a.sock, which was passed by the service manager, cannot be used",
            "for --docker-listen, and that (or LINKSPAN_DOCKER_LISTEN, or the configuration file) names unix:///run/b.sock",
            "make ListenStream= of the socket unit /run/b.sock, or let --docker-listen name unix:///run/a.sock",
        ] {
            assert!(named.contains(words), "{words}: {named}");
        }
        for name in ["linkspan.socket", "export"] {
            let unnamed = unused(name);
            assert!(unnamed.contains("one of /run/b.sock, 127.0.0.1:1, or say"), "{unnamed}");
        }
    }

    #[test]
    fn a_door_is_found_by_its_address_through_linked_folders() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        std::os::unix::fs::symlink("run", folder.path().join("linked")).unwrap();
        let unix = |name: &str| Address::Unix(folder.path().join(name));
        let tcp = |text: &str| text.parse::<Address>().unwrap();
        assert!(is_same(&unix("run/d.sock"), &unix("linked/d.sock")));
        assert!(!is_same(&unix("run/d.sock"), &unix("linked/e.sock")));
        assert!(!is_same(&unix("run/d.sock"), &unix("absent/d.sock")));
        assert!(is_same(&tcp("tcp://localhost:1"), &tcp("tcp://127.0.0.1:1")));
        assert!(is_same(&tcp("tcp://[::1]:1"), &tcp("tcp://localhost:1")));
        assert!(!is_same(&tcp("tcp://127.0.0.1:1"), &tcp("tcp://127.0.0.1:2")));
        assert!(!is_same(&tcp("tcp://127.0.0.1:1"), &tcp("tcp://127.0.0.2:1")));
        assert!(!is_same(&tcp("tcp://127.0.0.1:1"), &unix("run/d.sock")));
    }
}
