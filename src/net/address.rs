//! Socket addresses in the syntax of Docker and BuildKit.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on or to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `unix:///absolute/path`, or the path alone.
    Unix(PathBuf),
    /// `tcp://host:port`.
    Tcp {
        /// A host name or IP address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address `{text}`: {reason}")]
pub struct AddressError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it and what was expected.
    pub reason: String,
}

impl Address {
    /// Whether only programs of this machine can reach it: a unix socket or a loopback address.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

/// The end of what is expected of an address, and what it is where a host may also be reached by ssh.
const SOCKETS: &str = ", or `tcp://host:port`";
const WITH_SSH: &str = ", `tcp://host:port` or `ssh://[user@]host[:port][/path]`";

impl AddressError {
    /// The same error, where an address over ssh is taken, too.
    pub(crate) fn or_ssh(self) -> Self {
        Self { reason: self.reason.replace(SOCKETS, WITH_SSH), ..self }
    }
}

const TOO_LONG: &str = "a socket path has at most 107 bytes";

/// The socket at `path`, which is absolute; `None` if it is too long for one.
fn socket(path: PathBuf) -> Option<Address> {
    // sun_path holds 108 bytes with its terminator (unix(7)).
    (path.as_os_str().len() <= 107).then_some(Address::Unix(path))
}

/// Whether this is a host and a port, as a TCP address has them behind its scheme.
fn is_authority(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason: &str| AddressError { text: text.to_owned(), reason: reason.to_owned() };
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(error("expected an absolute path, as in `unix:///run/name.sock`"));
            }
            return socket(path.into()).ok_or_else(|| error(TOO_LONG));
        }
        let Some(rest) = text.strip_prefix("tcp://") else {
            // A path alone is a unix socket. A word could be meant as a host, a builder or a context.
            if !text.starts_with(['/', '.']) {
                let mut reason =
                    "expected `unix:///path`, a path that begins with `/` or `.`, or `tcp://host:port`".to_owned();
                if is_authority(text) {
                    reason.push_str(&format!("; did you mean `tcp://{text}`?"));
                }
                return Err(error(&reason));
            }
            let path = std::path::absolute(text).map_err(|_| error("the folder that it begins at is not there"))?;
            return socket(path).ok_or_else(|| error(TOO_LONG));
        };
        let (host, port) = rest
            .trim_end_matches('/')
            .rsplit_once(':')
            .ok_or_else(|| error("expected a port, as in `tcp://127.0.0.1:1234`"))?;
        if host.contains('@') {
            return Err(error("there is no user in an address; expected `tcp://HOST:PORT`"));
        }
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // A scope may follow (RFC 4007 section 11).
        let is_ipv6 = || host.split('%').next().is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
        if host.contains(':') && !is_ipv6() {
            return Err(error("expected one host and one port, as in `tcp://127.0.0.1:1234` or `tcp://[::1]:1234`"));
        }
        let port = port.parse().map_err(|_| error("the port must be a number below 65536"))?;
        if host.is_empty() {
            return Err(error("expected a host, as in `tcp://127.0.0.1:1234`"));
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_a_scheme_is_a_socket() {
        let here = std::env::current_dir().unwrap();
        for (text, expected) in [
            ("unix:///run/a.sock", "/run/a.sock".into()),
            ("/run/a.sock", "/run/a.sock".into()),
            ("/run/a:1/b.sock", "/run/a:1/b.sock".into()),
            ("./a.sock", here.join("a.sock")),
            ("../a.sock", here.join("../a.sock")),
        ] {
            assert_eq!(text.parse(), Ok(Address::Unix(expected)), "{text}");
        }
        for text in [
            "",
            "foo",
            "tcp://user:word@host:1",
            "tcp://host:1:2",
            "a.sock",
            "localhost:1234",
            "ssh://host",
            "unix://a.sock",
            "tcp://host",
            &"/x".repeat(60),
        ] {
            text.parse::<Address>().unwrap_err();
        }
    }

    #[test]
    fn a_host_and_a_port_are_told_their_scheme() {
        for (text, meant) in [
            ("127.0.0.1:5000", Some("tcp://127.0.0.1:5000")),
            ("[::1]:80", Some("tcp://[::1]:80")),
            ("localhost:1234", Some("tcp://localhost:1234")),
            ("localhost", None),
            ("http://localhost:1234", None),
            ("demo:latest", None),
        ] {
            let reason = text.parse::<Address>().unwrap_err().reason;
            assert_eq!(reason.contains("did you mean"), meant.is_some(), "{text}: {reason}");
            if let Some(meant) = meant {
                assert!(reason.ends_with(&format!("; did you mean `{meant}`?")), "{reason}");
                meant.parse::<Address>().unwrap();
            }
        }
    }
}
