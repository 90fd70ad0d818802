//! What the doctor says, as text and as JSON.

use std::fmt;

use serde::Serialize;

use crate::engine::Storage;

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
    /// What it is about: `engine`, `containerd`, `unpack`, `inflate`, `sharing`, `builder`, `door` or `buildx`.
    pub about: &'static str,
    /// The judgement.
    pub mark: Mark,
    /// What was found, in one line.
    pub found: String,
    /// What mends or improves it.
    pub remedy: Option<String>,
}

/// The engine that an export would go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Engine {
    /// `docker`, `docker-classic` or `containerd`.
    pub kind: &'static str,
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
    /// The command that makes docker and buildx use it.
    pub context: String,
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
    /// The command that leads it through one, if there is one.
    pub remedy: Option<String>,
}

/// The commands that lead a build through a door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commands {
    /// Once.
    pub create: String,
    /// For each build.
    pub build: String,
}

/// All that the doctor says. As JSON its keys are stable: some may be added, none change their meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Linkspan's version.
    pub version: &'static str,
    /// Whether a direct export can work: no check failed.
    pub works: bool,
    /// The engine, if there is a usable one.
    pub engine: Option<Engine>,
    /// Its containerd, if it could be asked.
    pub containerd: Option<Containerd>,
    /// The configured builders.
    pub builders: Vec<Builder>,
    /// The docker door, if one is configured.
    pub docker_door: Option<DockerDoor>,
    /// The builders that the user's buildx has.
    pub buildx: Vec<UsersBuilder>,
    /// Everything that was looked at.
    pub checks: Vec<Check>,
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

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::Fail => "fail",
            Self::Note => "note",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.about.len()).max().unwrap_or(0);
        for Check { about, mark, found, remedy } in &self.checks {
            writeln!(f, "{mark:<4}  {about:<width$}  {found}")?;
            if let Some(remedy) = remedy {
                let why = if *mark == Mark::Note { "" } else { "to mend it: " };
                writeln!(f, "{:4}  {:width$}  {why}{remedy}", "", "")?;
            }
        }
        writeln!(f)?;
        if !self.works {
            return f.write_str("A direct export cannot work.");
        }
        f.write_str("A direct export can work. Use it with:")?;
        if let Some(DockerDoor { context, .. }) = &self.docker_door {
            write!(f, "\n  {context}")?;
        }
        for UsersBuilder { name, .. } in self.buildx.iter().filter(|builder| builder.through.is_some()) {
            write!(f, "\n  docker buildx use {name}")?;
        }
        for Builder { commands: Commands { create, build }, .. } in &self.builders {
            write!(f, "\n  {create}\n  {build}")?;
        }
        Ok(())
    }
}
