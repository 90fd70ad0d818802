//! Which buildx is installed, and what it can say.

use std::fmt;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::timeout;

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const MAX_BYTES: u64 = 4 << 10;
/// The ways to ask: docker's plugin as people use it, or the program by itself.
const WAYS: [(&str, &[&str]); 3] =
    [("docker", &["buildx", "version"]), ("docker-buildx", &["version"]), ("buildx", &["version"])];

/// The first release that marks what it loads into an engine with the containerd image store: `prefer-image-digest`
/// (buildx `build/opt.go`). Those before it, since they know of that store, send the same `oci` exporter as for a file.
const MARKS_LOADS: (u64, u64) = (0, 24);

/// A version of buildx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    text: String,
    /// Its first two numbers; `None` in builds that do not know their version.
    numbers: Option<(u64, u64)>,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Version {
    /// Reads what `buildx version` prints: the package, the version, the commit.
    pub fn read(output: &str) -> Option<Self> {
        let mut words = output.lines().next()?.split_whitespace();
        words.next().filter(|package| package.contains("buildx"))?;
        let text = words.next()?.trim_start_matches('v').to_owned();
        let mut parts = text.split(['.', '-', '+', '~']);
        let mut number = || parts.next()?.parse().ok();
        let numbers = number().and_then(|major| Some((major, number()?)));
        // A build that nobody gave a version says `v0.0.0+unknown` (buildx `version/version.go`).
        let numbers = numbers.filter(|numbers| *numbers != (0, 0));
        Some(Self { text, numbers })
    }

    /// Whether its loads can be told from files; `None` if it does not say which version it is.
    pub fn marks_loads(&self) -> Option<bool> {
        self.numbers.map(|numbers| numbers >= MARKS_LOADS)
    }
}

/// Asks the buildx that this user's `docker` has; `None` if there is none.
pub async fn version() -> Option<Version> {
    for (program, arguments) in WAYS {
        if let Some(version) = ask(program, arguments).await {
            return Some(version);
        }
    }
    None
}

async fn ask(program: &str, arguments: &[&str]) -> Option<Version> {
    let command =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = command.ok()?;
    let stdout = child.stdout.take()?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        stdout.take(MAX_BYTES).read_to_string(&mut text).ok().map(|_| text)
    });
    let output = timeout(PATIENCE, reading).await;
    // It has said what it had to say, or takes too long to. One that has ended by itself cannot be killed.
    let _ = child.kill();
    let _ = child.wait();
    Version::read(&output.ok()?.ok()??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_in_every_distributions_form() {
        for (output, text, marks) in [
            ("github.com/docker/buildx v0.36.1 \n", "0.36.1", Some(true)),
            ("github.com/docker/buildx v0.24.0 d0e5e86c8b88ae4865040bc96917c338f4dd673c", "0.24.0", Some(true)),
            ("github.com/docker/buildx v0.24.0-rc1 d0e5e86", "0.24.0-rc1", Some(true)),
            ("github.com/docker/buildx v1.0.0 d0e5e86", "1.0.0", Some(true)),
            ("github.com/docker/buildx v0.23.0 28c90ea", "0.23.0", Some(false)),
            ("github.com/docker/buildx v0.19.2-desktop.1 x", "0.19.2-desktop.1", Some(false)),
            ("github.com/docker/buildx 0.13.1+ds1-3 ", "0.13.1+ds1-3", Some(false)),
            ("github.com/docker/buildx v0.0.0+unknown ", "0.0.0+unknown", None),
            ("github.com/docker/buildx something", "something", None),
        ] {
            let version = Version::read(output).unwrap();
            assert_eq!((version.to_string().as_str(), version.marks_loads()), (text, marks));
        }
        for output in ["", "\n", "docker: 'buildx' is not a docker command.", "github.com/docker/buildx"] {
            assert_eq!(Version::read(output), None, "{output}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_has_no_version() {
        assert_eq!(ask("/nonexistent/docker", &["buildx", "version"]).await, None);
        assert_eq!(ask("true", &[]).await, None);
    }
}
