//! `linkspan doctor`, and what doors say of themselves, on real daemons.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

#[path = "../common/mod.rs"]
mod common;

mod findings;
mod running;
mod status;

use std::path::PathBuf;

use common::{Run, unix};
use serde_json::Value;
use tempfile::TempDir;

/// A user of the machine, with folders of their own: whatever runs on it besides is not seen.
struct User {
    home: TempDir,
}

impl User {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("run/linkspan")).unwrap();
        Self { home }
    }

    /// A socket in the folder where Linkspan's are looked for.
    fn socket(&self, name: &str) -> PathBuf {
        self.home.path().join("run/linkspan").join(name)
    }

    /// `linkspan ARGS` with their variables alone.
    fn linkspan<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        let neighbours =
            ["DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "BUILDKIT_HOST"];
        let run = neighbours.iter().fold(Run::new(env!("CARGO_BIN_EXE_linkspan")), |run, name| run.without_env(name));
        let home = self.home.path();
        let run = run.without_env("DOCKER_CONFIG").without_env("BUILDX_CONFIG").without_env("NO_COLOR");
        run.env("HOME", home).env("XDG_RUNTIME_DIR", home.join("run")).args(args)
    }

    /// A program called `docker` that says this version of buildx, on their PATH.
    fn has_buildx(&self, run: Run, version: &str) -> Run {
        let folder = self.home.path().join(format!("bin-{version}"));
        std::fs::create_dir_all(&folder).unwrap();
        let script =
            format!("#!/bin/sh\n[ \"$1 $2\" = 'buildx version' ] && echo github.com/docker/buildx {version} x\n");
        let program = folder.join("docker");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        run.env("PATH", format!("{}:/usr/bin:/bin", folder.display()))
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The checks about `about`.
fn checks<'a>(report: &'a Value, about: &str) -> Vec<&'a Value> {
    report["checks"].as_array().unwrap().iter().filter(|check| check["about"] == about).collect()
}
