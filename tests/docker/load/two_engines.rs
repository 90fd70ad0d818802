//! One stack, a door in front of its dockerd, and a meter behind the door.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::meter::Meter;
use crate::common::{Linkspan, Output, Part, Run, Stack, unix};

/// The part of a progress line that is always there.
pub(super) const LEFT_OUT: &str = "linkspan: left out";

/// Two dockerds of one's own that get the same archives: one directly, the other through the door.
#[derive(Debug)]
pub(super) struct TwoEngines {
    /// First, because its log is in a stack's folder.
    pub(super) linkspan: Linkspan,
    /// The one without a door.
    pub(super) direct: Stack,
    /// The one behind the door.
    pub(super) behind: Stack,
    pub(super) meter: Meter,
    door: PathBuf,
}

/// What dockerd has and what its users see of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// `docker images --digests`.
    list: Vec<String>,
    /// `docker inspect` of each, without times of this load.
    inspected: Vec<Value>,
    /// containerd's records.
    records: Vec<(String, String)>,
    blobs: Vec<String>,
    snapshots: Vec<(String, String)>,
}

/// What a load printed, and what there was afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) seen: Seen,
}

impl TwoEngines {
    #[track_caller]
    pub(super) fn new() -> Self {
        Self::with(&[])
    }

    /// With more parts beside the dockerd that has no door.
    #[track_caller]
    pub(super) fn with(parts: &[Part]) -> Self {
        let direct = Stack::start(&[&[Part::Containerd, Part::Dockerd], parts].concat());
        let behind = Stack::start(&[Part::Containerd, Part::Dockerd]);
        let meter = Meter::new(behind.fresh_path("-meter.sock"), behind.docker_host());
        let door = behind.fresh_path("-docker.sock");
        let containerd = ["--containerd-address", behind.containerd_address()];
        let linkspan = Linkspan::docker_door_at(&behind, &unix(meter.path()), door.clone(), &containerd);
        Self { direct, behind, linkspan, meter, door }
    }

    /// `docker …` through the door.
    pub(super) fn through<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.behind.docker(args).env("DOCKER_HOST", unix(&self.door))
    }

    /// Where the door listens.
    pub(super) fn door(&self) -> &Path {
        &self.door
    }

    /// Removes every image from both, and everything that nothing refers to.
    #[track_caller]
    pub(super) fn clear(&self) {
        for stack in [&self.direct, &self.behind] {
            for (name, _) in stack.images("moby") {
                stack.ctr("moby", ["images", "rm", &name]).ok();
            }
            stack.collect_garbage("moby");
            assert_eq!(stack.blobs("moby"), Vec::<String>::new(), "what is left when nothing should be");
        }
    }

    /// Waits until nothing of ours is left.
    #[track_caller]
    pub(super) fn quiet(&self) {
        self.behind.until_released("moby");
    }

    /// Loads `archive` with `args` into both, compares, and returns what it was through the door.
    #[track_caller]
    pub(super) fn compare(&self, name: &str, archive: &Path, args: &[&str]) -> Loaded {
        let (direct, through) = (self.load(archive, args, false), self.load(archive, args, true));
        assert_eq!(direct, through, "{name}");
        through
    }

    /// Loads `archive` with `args`, directly or through the door.
    #[track_caller]
    pub(super) fn load(&self, archive: &Path, args: &[&str], through: bool) -> Loaded {
        let args = [&["load"], args, &["-i", archive.to_str().unwrap()]].concat();
        let (stack, run) =
            if through { (&self.behind, self.through(args)) } else { (&self.direct, self.direct.docker(args)) };
        let Output { status, stdout, stderr, .. } = run.output();
        self.quiet();
        Loaded { code: status.code(), stdout, stderr, seen: seen(stack) }
    }
}

#[track_caller]
pub(super) fn seen(stack: &Stack) -> Seen {
    stack.collect_garbage("moby");
    let format = "{{.Repository}} {{.Tag}} {{.Digest}} {{.ID}} {{.Size}}";
    let mut list = stack.docker(["images", "-a", "--digests", "--no-trunc", "--format", format]).ok().lines();
    list.sort();
    let ids = list.iter().map(|line| line.split(' ').nth(3).unwrap());
    let mut inspected: Vec<Value> = Vec::new();
    if !list.is_empty() {
        let text = stack.docker(["inspect"]).args(ids).ok().stdout;
        inspected = serde_json::from_str(&text).unwrap();
    }
    for image in &mut inspected {
        // When it was tagged, which is now.
        image.as_object_mut().unwrap().remove("Metadata");
    }
    let (mut records, mut blobs, mut snapshots) = (stack.images("moby"), stack.blobs("moby"), stack.snapshots("moby"));
    records.sort();
    blobs.sort();
    snapshots.sort();
    Seen { list, inspected, records, blobs, snapshots }
}
