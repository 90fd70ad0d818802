//! The global options of docker's command line (docker/cli `cli/flags/options.go`, `cli/cobra.go`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The file of this program, whatever has become of its name.
const ITSELF: &str = "/proc/self/exe";

/// Options with a value: the long name, the short one.
const VALUES: [(&str, Option<&str>); 7] = [
    ("--config", None),
    ("--context", Some("-c")),
    ("--host", Some("-H")),
    ("--log-level", Some("-l")),
    ("--tlscacert", None),
    ("--tlscert", None),
    ("--tlskey", None),
];
/// Options without one.
const SWITCHES: [&str; 4] = ["--debug", "-D", "--tls", "--tlsverify"];

/// Our own variable for docker's address, which an option of docker's overrides.
const OWN_HOST: (&str, Option<OsString>) = ("LINKSPAN_DOCKER_HOST", None);

/// Why docker's own options cannot be followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::cli) enum GlobalsError {
    /// An option lacks its value.
    #[error("docker's option {option} has no value")]
    NoValue {
        /// The option.
        option: String,
    },
    /// Both say which docker is meant.
    #[error("docker's options --host and --context exclude each other")]
    Both,
    /// More than one engine is named.
    #[error("docker's option --host is there more than once")]
    Hosts,
    /// An option has no meaning for Linkspan.
    #[error("`docker linkspan` does not take docker's option {option}")]
    Unknown {
        /// The option.
        option: String,
    },
}

impl GlobalsError {
    /// What a user can do about it.
    pub(in crate::cli) fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { option } if option.starts_with("--tls") => Some(
                "make a docker context with these files, or put ca.pem, cert.pem and key.pem into a folder and name it with \
                 DOCKER_CERT_PATH"
                    .to_owned(),
            ),
            Self::Unknown { .. } => Some("put Linkspan's own options behind `linkspan`".to_owned()),
            _ => None,
        }
    }
}

/// What docker's options change: variables that mean the same; `None` removes one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Globals(Vec<(&'static str, Option<OsString>)>);

impl Globals {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The options before the first word, and all from that word on. What is no option of docker's ends them as well.
    pub(super) fn split(arguments: &[OsString]) -> Result<(Self, &[OsString]), GlobalsError> {
        let mut found = Vec::new();
        let mut at = 0;
        // What is left of a word with several short options.
        let mut joined: Option<String> = None;
        while let Some(word) = joined.clone().or_else(|| Some(arguments.get(at)?.to_str()?.to_owned())) {
            if let Some(rest) = word.strip_prefix("-D").filter(|rest| !rest.is_empty() && !rest.starts_with('=')) {
                joined = Some(format!("-{rest}"));
                continue;
            }
            let (name, value) = word.split_once('=').map_or((&*word, None), |(name, value)| (name, Some(value)));
            if let Some(switch) = SWITCHES.iter().find(|switch| **switch == name) {
                (at, joined) = (at + 1, None);
                // As Go reads it.
                if value.is_none_or(|value| ["1", "t", "T", "true", "TRUE", "True"].contains(&value)) {
                    found.push((*switch, OsString::new()));
                }
                continue;
            }
            let Some((name, value)) = option(name, value, &word) else { break };
            (at, joined) = (at + 1, None);
            let value = match value {
                Some(value) => OsString::from(value),
                None => {
                    at += 1;
                    let next = arguments.get(at - 1);
                    next.cloned().ok_or_else(|| GlobalsError::NoValue { option: name.to_owned() })?
                }
            };
            found.push((name, value));
        }
        let rest = &arguments[at..];
        match rest.first() {
            // An option of docker's that this does not know, before the plugin's name.
            Some(word) if is_option(word) && rest.iter().any(|word| word == super::NAME) => {
                Err(GlobalsError::Unknown { option: word.to_string_lossy().into_owned() })
            }
            _ => Ok((Self::of(found)?, rest)),
        }
    }

    fn of(found: Vec<(&str, OsString)>) -> Result<Self, GlobalsError> {
        let count = |option: &str| found.iter().filter(|(name, _)| *name == option).count();
        match (count("--host"), count("--context")) {
            (0 | 1, 0) | (0, _) => {}
            (_, 0) => return Err(GlobalsError::Hosts),
            _ => return Err(GlobalsError::Both),
        }
        let mut variables = Vec::new();
        for (name, value) in found {
            match name {
                "--config" => variables.push(("DOCKER_CONFIG", Some(value))),
                // As docker does, they override the variables.
                "--context" => variables.extend([("DOCKER_CONTEXT", Some(value)), ("DOCKER_HOST", None), OWN_HOST]),
                "--host" => variables.extend([("DOCKER_HOST", Some(value)), OWN_HOST]),
                "--tls" => variables.push(("DOCKER_TLS", Some("1".into()))),
                "--tlsverify" => variables.push(("DOCKER_TLS_VERIFY", Some("1".into()))),
                "--tlscacert" | "--tlscert" | "--tlskey" => {
                    return Err(GlobalsError::Unknown { option: name.to_owned() });
                }
                // What docker itself logs.
                _ => {}
            }
        }
        Ok(Self(variables))
    }

    /// Replaces this process by the same program, called `program NAME ARGUMENTS`, with these variables. Returns only if that
    /// fails.
    pub(super) fn start_again(&self, program: &OsStr, name: &str, arguments: &[OsString]) -> io::Error {
        let mut command = Command::new(ITSELF);
        command.arg0(program).arg(name).args(arguments);
        for (variable, value) in &self.0 {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        command.exec()
    }
}

fn is_option(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| word.starts_with('-'))
}

/// The long name of an option with a value, and the value if it is in the same word: `--name=value`, `-nvalue`, `-n=value`.
fn option<'a>(name: &'a str, value: Option<&'a str>, word: &'a str) -> Option<(&'static str, Option<&'a str>)> {
    for (long, short) in VALUES {
        if name == long || Some(name) == short {
            return Some((long, value));
        }
        if let Some(joined) = short.and_then(|short| word.strip_prefix(short)) {
            return Some((long, Some(joined)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables = Vec<(&'static str, Option<OsString>)>;

    fn split(line: &str) -> Result<(Variables, usize), GlobalsError> {
        let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
        let (globals, rest) = Globals::split(&arguments)?;
        Ok((globals.0, rest.len()))
    }

    #[test]
    fn options_become_the_variables_that_mean_the_same() {
        let host = || ("DOCKER_HOST", Some("unix:///d".into()));
        for line in ["-H unix:///d linkspan ps", "--host=unix:///d linkspan ps", "-Hunix:///d linkspan ps"] {
            assert_eq!(split(line), Ok((vec![host(), OWN_HOST], 2)), "{line}");
        }
        let context = vec![("DOCKER_CONTEXT", Some("far".into())), ("DOCKER_HOST", None), OWN_HOST];
        assert_eq!(split("-D -c far linkspan"), Ok((context, 1)));
        let both = vec![("DOCKER_CONFIG", Some("/c".into())), ("DOCKER_TLS_VERIFY", Some("1".into()))];
        assert_eq!(split("--config /c --tlsverify -l=info linkspan -c x"), Ok((both, 3)));
        assert_eq!(split("linkspan -H x"), Ok((Vec::new(), 3)));
        let verified = || vec![("DOCKER_TLS_VERIFY", Some("1".into()))];
        assert_eq!(split("--tlsverify=true --tls=false --debug=true linkspan"), Ok((verified(), 1)));
        for line in ["-Dc far linkspan", "-DDcfar linkspan", "-Dc=far linkspan"] {
            let context = vec![("DOCKER_CONTEXT", Some("far".into())), ("DOCKER_HOST", None), OWN_HOST];
            assert_eq!(split(line), Ok((context, 1)), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_name() {
        let unknown = |option: &str| GlobalsError::Unknown { option: option.to_owned() };
        assert_eq!(split("-H a -H b linkspan").unwrap_err(), GlobalsError::Hosts);
        assert_eq!(split("-H a --context b linkspan").unwrap_err(), GlobalsError::Both);
        assert_eq!(split("--tlskey k linkspan").unwrap_err(), unknown("--tlskey"));
        assert_eq!(split("-D --new linkspan").unwrap_err(), unknown("--new"));
        assert_eq!(split("--new linkspan").unwrap_err(), unknown("--new"));
        assert_eq!(split("--context").unwrap_err(), GlobalsError::NoValue { option: "--context".to_owned() });
    }
}
