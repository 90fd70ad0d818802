//! Addresses over ssh. No part of one can be an option of ssh.

use std::fmt;
use std::str::FromStr;

/// The scheme of such addresses.
const SCHEME: &str = "ssh://";
/// The longest name of a user or host (RFC 1035).
const MAX_NAME: usize = 255;

/// `ssh://[user@]host[:port][/path/of/socket]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SshAddress {
    pub(super) user: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    socket: Option<String>,
}

/// Why a text is not an address over ssh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address `{text}`: {reason}")]
pub struct SshAddressError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it and what was expected.
    pub reason: &'static str,
}

impl SshAddress {
    /// Whether `text` has this scheme.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// The socket on that host, an absolute path; `None` is the default of the program there.
    pub fn socket(&self) -> Option<&str> {
        self.socket.as_deref()
    }

    /// User, host and port, as they are between the scheme and the path.
    pub fn authority(&self) -> String {
        let whole = self.to_string();
        let path = self.socket.as_deref().unwrap_or_default();
        whole.trim_start_matches(SCHEME).trim_end_matches(path).to_owned()
    }

    /// The host and the user, as `ssh` takes them in messages: `ssh user@host`.
    pub fn destination(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        }
    }
}

impl FromStr for SshAddress {
    type Err = SshAddressError;

    fn from_str(text: &str) -> Result<Self, SshAddressError> {
        let error = |reason| SshAddressError { text: text.escape_debug().to_string(), reason };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| error("expected `ssh://[user@]host[:port][/path]`"))?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        if user.is_some_and(|user| user.contains(':')) {
            return Err(error("a password in an address can be read by everybody; ssh asks for it, or use a key"));
        }
        if user.is_some_and(|user| !is_name(user, b"._-+@")) {
            return Err(error("expected a user of letters, digits and `._-+@`, which does not begin with `-`"));
        }
        let (host, port) = match host.strip_prefix('[').map(|host| host.split_once(']')) {
            Some(Some((host, ""))) if is_name(host, b"._-:%") => (host, None),
            Some(Some((host, port))) if is_name(host, b"._-:%") && port.starts_with(':') => (host, Some(&port[1..])),
            Some(_) => return Err(error("expected an IPv6 address in brackets, as in `ssh://[::1]:22`")),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        // Between brackets it has been checked, with other characters.
        if !authority.contains('[') && !is_name(host, b"._-") {
            return Err(error("expected a host of letters, digits and `._-`, which does not begin with `-`"));
        }
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(error("the port must be a number from 1 to 65535")),
        };
        if path.contains(['?', '#', '%']) {
            return Err(error("expected the path of a socket behind the host, without `?`, `#` and `%`"));
        }
        if path.chars().any(char::is_control) || path.len() > 107 {
            return Err(error("a socket path has at most 107 bytes and no control characters"));
        }
        let socket = (!path.trim_matches('/').is_empty()).then(|| path.to_owned());
        Ok(Self { user: user.map(str::to_owned), host: host.to_owned(), port, socket })
    }
}

fn is_name(text: &str, others: &[u8]) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    !text.is_empty() && text.len() <= MAX_NAME && !text.starts_with('-') && text.bytes().all(is_plain)
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_was_read() {
        for text in [
            "ssh://host",
            "ssh://user@host",
            "ssh://user@host.example:2222",
            "ssh://user@host:2222/run/linkspan/docker.sock",
            "ssh://host/run/a b.sock",
            "ssh://user@realm@host",
            "ssh://[::1]",
            "ssh://u@[fe80::1%eth0]:22/run/x",
        ] {
            assert_eq!(text.parse::<SshAddress>().unwrap().to_string(), text);
        }
        assert_eq!("ssh://host/".parse::<SshAddress>().unwrap().to_string(), "ssh://host");
    }

    #[test]
    fn what_could_be_an_option_or_a_command_is_no_address() {
        for text in [
            "ssh://",
            "ssh:///run/x",
            "ssh://-oProxyCommand=touch%20x",
            "ssh://-oProxyCommand=x@host",
            "ssh://user@-oProxyCommand=x",
            "ssh://-l@host",
            "ssh://$(touch x)@host",
            "ssh://user@$(touch x)",
            "ssh://`x`",
            "ssh://a b",
            "ssh://user name@host",
            "ssh://host;x",
            "ssh://host\n",
            "ssh://user:secret@host",
            "ssh://host:0",
            "ssh://host:-1",
            "ssh://host:22x",
            "ssh://host:",
            "ssh://[::1",
            "ssh://[-x]",
            "ssh://[]:22",
            "ssh://[::1]x:22",
            "ssh://host/x?y",
            "ssh://host/x#y",
            "ssh://host/x\ny",
            "tcp://host:1",
            "host",
        ] {
            text.parse::<SshAddress>().unwrap_err();
        }
    }

    #[test]
    fn a_password_is_refused_and_not_repeated_as_an_argument() {
        let error = "ssh://user:secret@host".parse::<SshAddress>().unwrap_err();
        assert!(error.reason.contains("password"), "{error}");
    }
}
