//! The version of the installed buildx.

use std::fmt;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::timeout;

/// The time limit for the program.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest output that is read.
const MAX_BYTES: u64 = 4 << 10;
/// The commands to try: docker's plugin, then the standalone program.
const WAYS: [(&str, &[&str]); 3] =
    [("docker", &["buildx", "version"]), ("docker-buildx", &["version"]), ("buildx", &["version"])];

/// The first release that marks loads into an engine with the containerd image store: `prefer-image-digest` (buildx
/// `build/opt.go`). Earlier ones send the same `oci` exporter as for a file.
const MARKS_LOADS: (u64, u64) = (0, 24);

/// A version of buildx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    text: String,
    /// Major and minor number; `None` for builds without a version.
    numbers: Option<(u64, u64)>,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Version {
    /// Parses the output of `buildx version`: package, version, commit.
    pub fn read(output: &str) -> Option<Self> {
        let mut words = output.lines().next()?.split_whitespace();
        words.next().filter(|package| package.contains("buildx"))?;
        let text = words.next()?.trim_start_matches('v').to_owned();
        let mut parts = text.split(['.', '-', '+', '~']);
        let mut number = || parts.next()?.parse().ok();
        let numbers = number().and_then(|major| Some((major, number()?)));
        // The version of a build without one is `v0.0.0+unknown` (buildx `version/version.go`).
        let numbers = numbers.filter(|numbers| *numbers != (0, 0));
        Some(Self { text, numbers })
    }

    /// Whether it marks loads; `None` if the version is unknown.
    pub fn marks_loads(&self) -> Option<bool> {
        self.numbers.map(|numbers| numbers >= MARKS_LOADS)
    }
}

/// Runs this user's buildx; `None` if there is none.
pub async fn version() -> Option<Version> {
    for (program, arguments) in WAYS {
        if let Some(version) = run(program, arguments).await {
            return Some(version);
        }
    }
    None
}

async fn run(program: &str, arguments: &[&str]) -> Option<Version> {
    let command =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = command.ok()?;
    let stdout = child.stdout.take()?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        stdout.take(MAX_BYTES).read_to_string(&mut text).ok().map(|_| text)
    });
    let output = timeout(TIMEOUT, reading).await;
    // The output is complete, or the time is up. Killing a process that has ended fails, which is fine.
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
        assert_eq!(run("/nonexistent/docker", &["buildx", "version"]).await, None);
        assert_eq!(run("true", &[]).await, None);
    }
}
