//! The report, as text and as JSON.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::engine::{EngineKind, Storage};
use crate::status::Status;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Good.
    Ok,
    /// Works, but slower than it could.
    Slow,
    /// Keeps a direct export from working.
    Fail,
    /// Neutral information.
    Note,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its subject: `linkspan`, `engine`, `containerd`, `unpack`, `inflate`, `sharing`, `builder`, `door`, `policy`, `load`, `caches` or `buildx`.
    pub about: &'static str,
    /// The result.
    pub mark: Mark,
    /// The finding, in one line.
    pub found: String,
    /// How to fix or improve it.
    pub remedy: Option<Remedy>,
}

/// A check with a remedy in prose.
pub(super) fn check(about: &'static str, mark: Mark, found: impl Into<String>, remedy: Option<&str>) -> Check {
    Check { about, mark, found: found.into(), remedy: remedy.map(|words| Remedy::Words(words.to_owned())) }
}

/// How to fix or improve something; one string in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// As prose.
    Words(String),
    /// As commands, to be run one after another.
    Commands(Vec<String>),
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Commands(commands) => f.write_str(&commands.join(", and then: ")),
        }
    }
}

impl Serialize for Remedy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The engine that an export would go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Engine {
    /// Its kind.
    pub kind: EngineKind,
    /// Its version.
    pub version: String,
    /// Its socket, as a URL.
    pub address: String,
    /// Why it was chosen.
    pub reason: String,
    /// Where it keeps images: `namespace`, `snapshotter` and `parallel_unpack` of containerd, or the `storage_driver` of
    /// docker's classic store.
    #[serde(flatten)]
    pub storage: Storage,
}

/// The containerd that holds the images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Containerd {
    /// Its socket.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Its server UUID.
    pub uuid: String,
    /// Its content sharing policy, if known: `shared` or `isolated`.
    pub sharing: Option<String>,
    /// `igzip`, `unpigz` or `builtin`; `null` if unknown.
    pub inflate: Option<&'static str>,
}

/// The build caches in the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildCaches {
    /// How many refs have one.
    pub caches: usize,
    /// How many versions of parts these have.
    pub versions: usize,
    /// The bytes of all of them, each blob counted once.
    pub bytes: u64,
    /// How many versions are beyond the configured limits.
    pub exceeding: usize,
    /// The bytes that become free with those.
    pub exceeding_bytes: u64,
}

/// One builder and its door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Builder {
    /// Its address.
    pub address: String,
    /// Where its door listens when the daemon runs.
    pub listen: String,
    /// Whether it responded.
    pub reachable: bool,
    /// Its version, if known.
    pub version: Option<String>,
    /// Whether it can export directly.
    pub direct_export: bool,
    /// Whether its door is open now.
    pub door_open: bool,
    /// The commands that use it.
    pub commands: Commands,
}

/// The docker door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DockerDoor {
    /// Where it listens when the daemon runs.
    pub listen: String,
    /// Whether it is open now.
    pub open: bool,
    /// The command that makes docker and buildx use it; `None` if they do.
    pub context: Option<String>,
}

/// The door of the exporter API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportDoor {
    /// Where it listens when the daemon runs.
    pub listen: String,
    /// Whether it is open now.
    pub open: bool,
}

/// A builder of the user's buildx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedBuilder {
    /// Its name.
    pub name: String,
    /// `docker-container`, `remote`, `kubernetes`, …
    pub driver: String,
    /// The addresses of its nodes.
    pub endpoints: Vec<String>,
    /// The door that it goes through, if any: `docker` or `buildkit`.
    pub through: Option<&'static str>,
    /// Whether its loads are direct exports, with this door, engine, policy, BuildKit and buildx.
    pub direct: bool,
    /// How to send it through a door, or to use the door it goes through.
    pub remedy: Option<Remedy>,
}

/// The commands for a build through a door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commands {
    /// To be run once; `None` if a builder goes through the door already.
    pub create: Option<String>,
    /// For each build.
    pub build: String,
}

/// The report. Its JSON keys are stable: keys may be added, and none changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Linkspan's version.
    pub version: &'static str,
    /// Whether a direct export can work: no check failed but those of the user's builders, each of which keeps only itself from it.
    pub works: bool,
    /// The engine, if there is a usable one.
    pub engine: Option<Engine>,
    /// Its containerd, if it could be queried.
    pub containerd: Option<Containerd>,
    /// The build caches in the engine, if it can hold any and responded in time.
    pub caches: Option<BuildCaches>,
    /// The configured builders, and those with open doors.
    pub builders: Vec<Builder>,
    /// The docker door, if one is configured or open.
    pub docker_door: Option<DockerDoor>,
    /// The door of the exporter API, if one is configured or open.
    pub export_door: Option<ExportDoor>,
    /// The status of each running Linkspan.
    pub running: Vec<Status>,
    /// The version of the installed buildx, if known.
    pub buildx_version: Option<String>,
    /// The builders of the user's buildx.
    pub buildx: Vec<ReportedBuilder>,
    /// All checks.
    pub checks: Vec<Check>,
    /// The conclusion, in one sentence.
    pub conclusion: String,
    /// The commands that use the doors.
    pub commands: Vec<String>,
}

impl Report {
    /// Whether any check failed.
    pub fn has_failed(&self) -> bool {
        self.checks.iter().any(|check| check.mark == Mark::Fail)
    }

    /// The report as one indented JSON document.
    ///
    /// # Errors
    /// Never in practice: every value is valid JSON.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}
