//! Our own calls to the builder, beside the forwarded ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryRequest, Descriptor as HistoryDescriptor, InfoRequest, UpdateBuildHistoryRequest,
};
use http::Uri;
use tonic::{Code, Status};

use super::frontend_metadata::FrontendMetadata;
use super::local_content::BuilderContent;
use crate::http2::{Calls, ConnectionPool};

/// The deadline for the builder's response to a small request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A builder's control socket, as we use it ourselves.
#[derive(Debug)]
pub(super) struct Builder {
    /// Its name, for messages.
    pub(super) name: String,
    /// The connections to it.
    pub(super) connections: Arc<ConnectionPool>,
    control: ControlClient<Calls>,
    content: Arc<BuilderContent>,
    reported_too_old: AtomicBool,
}

/// What a builder can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Capabilities {
    /// Its content store can be read: since v0.11, like `Control.Info`.
    pub(super) exports_directly: bool,
    /// It calls its client's session when all exporters are done (`finalize`).
    pub(super) finalizes: bool,
    /// It lets a session replace the sources of a build: since v0.27.
    pub(super) converts_sources: bool,
}

/// What the builder's history holds of a build.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The root descriptor of each image exporter, by the exporter's index in the request. The builder's response
    /// merges them.
    pub(super) roots: Vec<(usize, HistoryDescriptor)>,
    /// The frontend's metadata.
    pub(super) frontend: FrontendMetadata,
    /// Whether the build itself completed, whatever its exporters did: the history then has its provenance.
    pub(super) is_built: bool,
}

impl Builder {
    /// The builder behind `connections`.
    pub(super) fn new(name: String, connections: Arc<ConnectionPool>) -> Self {
        let calls = Calls::new(Arc::clone(&connections));
        let content = Arc::new(BuilderContent::new(&name, calls.clone(), Arc::clone(&connections)));
        let control = ControlClient::with_origin(calls, Uri::from_static("http://localhost"));
        Self { name, connections, control, content, reported_too_old: AtomicBool::new(false) }
    }

    /// The builder's content store.
    pub(super) fn content(&self) -> Arc<BuilderContent> {
        self.content.clone()
    }

    /// What it can do. If it cannot export directly, that is logged once.
    pub(super) async fn capabilities(&self) -> Result<Capabilities, Status> {
        let mut request = tonic::Request::new(InfoRequest {});
        request.set_timeout(TIMEOUT);
        match within(self.control.clone().info(request)).await {
            Ok(response) => {
                let version = response.into_inner().buildkit_version.unwrap_or_default().version;
                let (finalizes, converts_sources) = (is_since(&version, FINALIZES), is_since(&version, CONVERTS));
                Ok(Capabilities { exports_directly: true, finalizes, converts_sources })
            }
            Err(status) if status.code() == Code::Unimplemented => {
                if !self.reported_too_old.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        builder = %self.name,
                        "the builder is older than BuildKit 0.11: it cannot export directly; \
                         everything else works, `--load` sends a tarball; hint: update the builder"
                    );
                }
                Ok(Capabilities::default())
            }
            Err(status) => Err(status),
        }
    }

    /// The history's record of a build that has ended; empty if there is none.
    pub(super) async fn record(&self, build: &str) -> Result<Record, Status> {
        let mut request = tonic::Request::new(BuildHistoryRequest {
            r#ref: build.to_owned(),
            early_exit: true,
            ..Default::default()
        });
        request.set_timeout(TIMEOUT);
        let mut control = self.control.clone();
        within(async move {
            let mut events = control.listen_build_history(request).await?.into_inner();
            while let Some(event) = events.message().await? {
                let Some(record) = event.record.filter(|record| record.completed_at.is_some()) else { continue };
                let result = record.result.unwrap_or_default();
                return Ok(Record {
                    is_built: !(result.attestations.is_empty() && record.results.is_empty()),
                    roots: result
                        .results
                        .into_iter()
                        .filter_map(|(index, root)| Some((usize::try_from(index).ok()?, root)))
                        .collect(),
                    frontend: FrontendMetadata::from_record(&record.exporter_response),
                });
            }
            Ok(Record::default())
        })
        .await
    }

    /// Removes a build of ours from the builder's history.
    pub(super) async fn forget(&self, build: &str) -> Result<(), Status> {
        let mut request = tonic::Request::new(UpdateBuildHistoryRequest {
            r#ref: build.to_owned(),
            delete: true,
            ..Default::default()
        });
        request.set_timeout(TIMEOUT);
        within(self.control.clone().update_build_history(request)).await.map(drop)
    }
}

/// Since which minor version of v0 builders call `FinalizeExport`.
const FINALIZES: u32 = 32;
/// Since which one they act on `CONVERT` of a policy that their client's session has (BuildKit `solver/llbsolver/policy.go`).
const CONVERTS: u32 = 27;

/// Whether `version` is v0.`minor` or later. One that is not reported is taken for older.
fn is_since(version: &str, minor: u32) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(0), Some(minor))
}

/// The outcome of `call`, or a timeout. The builder gets the same deadline, but it may be stuck.
async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded(format!("no response within {} s", TIMEOUT.as_secs())));
    tokio::time::timeout(TIMEOUT, call).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_that_finalizes_is_known_by_its_version() {
        for version in ["v0.32.0", "v0.32.2", "v0.33.0-rc1", "0.40.0", "v1.0.0", "v0.32.0-5-gabc.m"] {
            assert!(is_since(version, FINALIZES), "{version}");
        }
        for version in ["v0.31.9", "v0.11.6", "0.0.0+unknown", "v0", "", "master", "8d19a9b"] {
            assert!(!is_since(version, FINALIZES), "{version}");
        }
        assert!(is_since("v0.27.0", CONVERTS) && !is_since("v0.26.3", CONVERTS));
    }
}
