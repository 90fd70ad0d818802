//! What a dockerd is: `GET /info`.

use std::path::{Path, PathBuf};

use http::StatusCode;
use serde::Deserialize;

use crate::docker_api::Api;
use crate::engine::EngineError;

/// The value of `driver-type` with the containerd image store (moby `daemon/containerd/service.go`).
const CONTAINERD_STORE: &str = "io.containerd.snapshotter.v1";

/// The part of `GET /info` that matters here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Info {
    #[serde(default)]
    pub(crate) server_version: String,
    #[serde(default)]
    pub(crate) driver: String,
    /// Made once and kept with its data (moby `daemon/id.go`).
    #[serde(default, rename = "ID")]
    pub(crate) id: String,
    /// Where it keeps that, on its own machine.
    #[serde(default)]
    pub(crate) docker_root_dir: PathBuf,
    #[serde(default)]
    driver_status: Option<Vec<(String, String)>>,
    /// Since 27.
    #[serde(default)]
    containerd: Option<Containerd>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Containerd {
    #[serde(default)]
    address: String,
}

/// Where a dockerd keeps its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store<'a> {
    /// In containerd.
    Containerd { snapshotter: &'a str },
    /// In its own graph driver.
    Classic { driver: &'a str },
}

impl Info {
    /// Where it keeps its images. `Driver` is the snapshotter or the graph driver (moby `daemon/info.go`).
    pub(crate) fn store(&self) -> Store<'_> {
        let is_containerd = |(key, value): &(String, String)| key == "driver-type" && value == CONTAINERD_STORE;
        if self.driver_status.iter().flatten().any(is_containerd) {
            Store::Containerd { snapshotter: &self.driver }
        } else {
            Store::Classic { driver: &self.driver }
        }
    }

    /// The snapshotter.
    ///
    /// # Errors
    /// [`EngineError::ClassicStore`] if the dockerd behind `api` has that: there the content store is that of its builder.
    pub(crate) fn containerd_store(&self, api: &Api) -> Result<&str, EngineError> {
        match self.store() {
            Store::Containerd { snapshotter } => Ok(snapshotter),
            Store::Classic { driver } => Err(EngineError::ClassicStore {
                address: api.address().to_owned(),
                version: self.server_version.clone(),
                driver: driver.to_owned(),
            }),
        }
    }

    /// The graph driver.
    ///
    /// # Errors
    /// [`EngineError::ContainerdStore`] if the dockerd behind `api` has that: it would take an archive for its classic store for
    /// an incomplete one.
    pub(crate) fn classic_store(&self, api: &Api) -> Result<&str, EngineError> {
        match self.store() {
            Store::Classic { driver } => Ok(driver),
            Store::Containerd { snapshotter } => Err(EngineError::ContainerdStore {
                address: api.address().to_owned(),
                version: self.server_version.clone(),
                snapshotter: snapshotter.to_owned(),
            }),
        }
    }

    /// The first number of its version; development builds have none.
    pub(crate) fn major(&self) -> Option<u32> {
        self.server_version.split('.').next()?.parse().ok()
    }

    /// Where its containerd listens, as it reports.
    pub(crate) fn containerd_address(&self) -> Option<&Path> {
        let address = self.containerd.as_ref()?.address.as_str();
        let path = Path::new(address.strip_prefix("unix://").unwrap_or(address));
        path.is_absolute().then_some(path)
    }
}

/// Reads what dockerd is.
pub(crate) async fn info(docker: &Api) -> Result<Info, EngineError> {
    let response = docker.get("/info").await?;
    let broken = |reason: String| EngineError::Protocol {
        operation: format!("asking docker at {} what it is", docker.address()),
        reason,
    };
    // As one does that is starting, or ending.
    if response.status.is_server_error() {
        let reason = format!("it responds with {}: {}", response.status.as_u16(), response.message());
        return Err(EngineError::Unreachable { engine: "docker", address: docker.address().to_owned(), reason });
    }
    if response.status != StatusCode::OK {
        return Err(broken(response.message()));
    }
    serde_json::from_slice(&response.body).map_err(|error| broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Info {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_containerd_store_is_recognised() {
        let info = parse(
            r#"{"ServerVersion":"29.7.2","Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]],
                "Containerd":{"Address":"/run/containerd/containerd.sock","Namespaces":{"Containers":"moby"}},"More":1}"#,
        );
        assert_eq!(info.store(), Store::Containerd { snapshotter: "overlayfs" });
        assert_eq!(info.containerd_address(), Some(Path::new("/run/containerd/containerd.sock")));
    }

    #[test]
    fn the_classic_store_is_recognised() {
        let info = parse(r#"{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]]}"#);
        assert_eq!(info.store(), Store::Classic { driver: "overlay2" });
        assert_eq!(info.containerd_address(), None);
        let info = parse(r#"{"Driver":"vfs","DriverStatus":null,"Containerd":null}"#);
        assert_eq!(info.store(), Store::Classic { driver: "vfs" });
    }
}
