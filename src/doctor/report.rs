//! What the doctor says, as text and as JSON.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::engine::{EngineKind, Storage};
use crate::status::Status;

/// The judgement of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// As it should be.
    Ok,
    /// Works, but slower than it could.
    Slow,
    /// Keeps a direct export from working.
    Fail,
    /// Neither good nor bad, but worth knowing.
    Note,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about: `linkspan`, `engine`, `containerd`, `unpack`, `inflate`, `sharing`, `builder`, `door` or `buildx`.
    pub about: &'static str,
    /// The judgement.
    pub mark: Mark,
    /// What was found, in one line.
    pub found: String,
    /// What mends or improves it.
    pub remedy: Option<Remedy>,
}

/// What mends or improves something; one string in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Said in words.
    Words(String),
    /// Commands, to be given one after another as they are.
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
    /// `docker`, `docker-classic`, `containerd` or `layout`.
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
    /// The content sharing policy, if it says: `shared` or `isolated`.
    pub sharing: Option<String>,
    /// `igzip`, `unpigz` or `builtin`; `null` if it could not be found out.
    pub inflate: Option<&'static str>,
}

/// One builder and its door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Builder {
    /// How it is reached.
    pub address: String,
    /// Where its door listens when the daemon runs.
    pub listen: String,
    /// Whether it answered.
    pub reachable: bool,
    /// Its version, if it says.
    pub version: Option<String>,
    /// Whether it can export directly.
    pub direct_export: bool,
    /// Whether its door is open now.
    pub door_open: bool,
    /// How it is used.
    pub commands: Commands,
}

/// The docker door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DockerDoor {
    /// Where it listens when the daemon runs.
    pub listen: String,
    /// Whether it is open now.
    pub open: bool,
    /// The command that makes docker and buildx use it; `None` where they do.
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

/// A builder that the user's buildx has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsersBuilder {
    /// Its name.
    pub name: String,
    /// `docker-container`, `remote`, `kubernetes`, …
    pub driver: String,
    /// The addresses of its nodes.
    pub endpoints: Vec<String>,
    /// The door that it goes through, if any: `docker` or `buildkit`.
    pub through: Option<&'static str>,
    /// Whether what it loads is a direct export: door, engine, policy, BuildKit and buildx are such that it is.
    pub direct: bool,
    /// What leads it through one, or makes use of the one that it goes through, if there is something.
    pub remedy: Option<Remedy>,
}

/// The commands that lead a build through a door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commands {
    /// Once; `None` where there is a builder that goes through the door.
    pub create: Option<String>,
    /// For each build.
    pub build: String,
}

/// All that the doctor says. As JSON its keys are stable: some may be added, none change their meaning.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Linkspan's version.
    pub version: &'static str,
    /// Whether a direct export can work: no check failed.
    pub works: bool,
    /// The engine, if there is a usable one.
    pub engine: Option<Engine>,
    /// Its containerd, if it could be asked.
    pub containerd: Option<Containerd>,
    /// The builders that are configured, and those that have open doors.
    pub builders: Vec<Builder>,
    /// The docker door, if one is configured or open.
    pub docker_door: Option<DockerDoor>,
    /// The door of the exporter API, if one is configured or open.
    pub export_door: Option<ExportDoor>,
    /// What the Linkspans say that run here.
    pub running: Vec<Status>,
    /// The version of the buildx that is installed, if it says one.
    pub buildx_version: Option<String>,
    /// The builders that the user's buildx has.
    pub buildx: Vec<UsersBuilder>,
    /// Everything that was looked at.
    pub checks: Vec<Check>,
    /// What it comes to.
    pub conclusion: String,
    /// The commands that lead builds and images through the doors.
    pub commands: Vec<String>,
}

impl Report {
    /// The report as one indented JSON document.
    ///
    /// # Errors
    /// In theory only: the serializer's signature allows for values that JSON cannot hold.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}
