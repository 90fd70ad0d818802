//! Our own calls to the builder, beside those that are passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryRequest, Descriptor as HistoryDescriptor, InfoRequest, UpdateBuildHistoryRequest,
};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::proxy::Upstream;
use crate::source::BuildkitContent;

/// How long the builder may take to answer a small question.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What one blob may have in flight, and all of them together.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// A builder's control socket, as we use it ourselves.
#[derive(Debug)]
pub(super) struct Builder {
    /// Its name, for messages.
    pub(super) name: String,
    /// How it is reached.
    pub(super) upstream: Upstream,
    control: ControlClient<Channel>,
    content: Arc<BuildkitContent>,
    told_too_old: AtomicBool,
}

impl Builder {
    /// Connects when first needed, and again when the builder was restarted.
    pub(super) fn new(name: String, upstream: Upstream) -> Self {
        let dial = upstream.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let upstream = dial.clone();
            async move { upstream.connect().await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_with_connector_lazy(connector);
        let content = Arc::new(BuildkitContent::new(&name, channel.clone()));
        Self { name, upstream, control: ControlClient::new(channel), content, told_too_old: AtomicBool::new(false) }
    }

    /// The builder's content store.
    pub(super) fn content(&self) -> Arc<BuildkitContent> {
        self.content.clone()
    }

    /// Whether its content store can be read: since v0.11, like `Control.Info`. Where not, that is said once.
    pub(super) async fn exports_directly(&self) -> Result<bool, Status> {
        let mut request = tonic::Request::new(InfoRequest {});
        request.set_timeout(TIMEOUT);
        match self.control.clone().info(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::Unimplemented => {
                if !self.told_too_old.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        builder = %self.name,
                        "the builder is older than BuildKit 0.11: it cannot export directly; \
                         everything else works, `--load` sends a tarball. Update the builder to mend it"
                    );
                }
                Ok(false)
            }
            Err(status) => Err(status),
        }
    }

    /// The root that each image exporter of a finished build gave, by its place in the request. Only the history
    /// tells them apart: the builder's answer merges them.
    pub(super) async fn roots(&self, build: &str) -> Result<Vec<(usize, HistoryDescriptor)>, Status> {
        let mut request = tonic::Request::new(BuildHistoryRequest {
            r#ref: build.to_owned(),
            early_exit: true,
            ..Default::default()
        });
        request.set_timeout(TIMEOUT);
        let mut events = self.control.clone().listen_build_history(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            if let Some(result) = event.record.and_then(|record| record.result) {
                return Ok(result
                    .results
                    .into_iter()
                    .filter_map(|(index, root)| Some((usize::try_from(index).ok()?, root)))
                    .collect());
            }
        }
        Ok(Vec::new())
    }

    /// Removes a build of ours from the builder's history.
    pub(super) async fn forget(&self, build: &str) -> Result<(), Status> {
        let mut request = tonic::Request::new(UpdateBuildHistoryRequest {
            r#ref: build.to_owned(),
            delete: true,
            ..Default::default()
        });
        request.set_timeout(TIMEOUT);
        self.control.clone().update_build_history(request).await.map(drop)
    }
}
