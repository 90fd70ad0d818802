//! Verification that a containerd is the one that a dockerd uses.
//!
//! dockerd's embedded BuildKit serves its control API on dockerd's own socket, and labels its worker with the UUID of
//! the containerd server it runs on, the namespace and the snapshotter (BuildKit `worker/containerd/containerd.go`;
//! dockerd 24 and later with the containerd image store). A containerd tells its UUID by introspection. If both are
//! the same, so is the store; a path alone proves nothing, for there may be several containerds on a machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::ListWorkersRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use tokio::time::timeout;

use crate::docker_api::{Api, Grpc};
use crate::engine::EngineError;
use crate::engine::containerd::{Client, failure, uuid};

/// How long dockerd may take to respond.
const TIMEOUT: Duration = Duration::from_secs(30);

const UUID: &str = "org.mobyproject.buildkit.worker.containerd.uuid";
const NAMESPACE: &str = "org.mobyproject.buildkit.worker.containerd.namespace";

/// What dockerd reports of its containerd.
#[derive(Debug, PartialEq, Eq)]
struct StoreId {
    /// The server's UUID.
    uuid: String,
    /// Where dockerd keeps its images.
    namespace: String,
}

/// A containerd that was verified to be the one of a dockerd. Either may be restarted later, with another configuration:
/// [`check`](Self::check) verifies it again.
#[derive(Debug)]
pub(crate) struct VerifiedStore {
    workers: Workers,
    id: StoreId,
    client: Client,
}

/// The gRPC side of dockerd's socket.
#[derive(Debug)]
struct Workers(Arc<Grpc>);

impl VerifiedStore {
    /// Finds the containerd of the dockerd behind `socket` among the sockets `candidates`.
    pub(crate) async fn find(socket: &Path, candidates: &[PathBuf]) -> Result<Self, EngineError> {
        let workers = Workers(Arc::new(Grpc::new(Arc::new(Api::new(socket)))));
        let id = workers.store_id().await?;
        let mut met = Vec::new();
        let mut denied = None;
        for candidate in candidates {
            let client = Client::new(candidate, &id.namespace)?;
            match uuid(&client).await {
                Ok(found) if found == id.uuid => return Ok(Self { workers, id, client }),
                Ok(found) => met.push(format!("containerd {found} responds at {}", candidate.display())),
                Err(error) => {
                    met.push(error.to_string());
                    if matches!(error, EngineError::Permission { .. }) {
                        denied = denied.or(Some(error));
                    }
                }
            }
        }
        // A denied connection is the more useful error.
        Err(denied.unwrap_or_else(|| workers.unverified(format!("containerd {}", id.uuid), met.join("; "))))
    }

    /// The client of the containerd, in dockerd's namespace.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Where dockerd keeps its images.
    pub(crate) fn namespace(&self) -> &str {
        &self.id.namespace
    }

    /// Fails unless dockerd still uses this containerd. Two calls over connections that are up already.
    pub(crate) async fn check(&self) -> Result<(), EngineError> {
        let (reported, found) = futures_util::try_join!(self.workers.store_id(), uuid(&self.client))?;
        if reported == self.id && found == self.id.uuid {
            return Ok(());
        }
        let expected = format!("containerd {} and namespace `{}`", reported.uuid, reported.namespace);
        let found = format!(
            "containerd {found} responds at {}, and Linkspan was started for containerd {} and namespace `{}`",
            self.client.address(),
            self.id.uuid,
            self.id.namespace
        );
        Err(self.workers.unverified(expected, found))
    }
}

/// The namespace in which the dockerd behind `grpc` keeps its images.
///
/// # Errors
/// When it does not keep them in a containerd, or does not say in which.
pub(crate) async fn namespace(grpc: Arc<Grpc>) -> Result<String, EngineError> {
    Ok(Workers(grpc).store_id().await?.namespace)
}

impl Workers {
    fn unverified(&self, expected: String, found: String) -> EngineError {
        EngineError::NotProven { docker: self.0.api().address().to_owned(), expected, found }
    }

    /// Asks dockerd which containerd it uses.
    async fn store_id(&self) -> Result<StoreId, EngineError> {
        let operation = || "asking docker which containerd it uses".to_owned();
        let call = self.0.call(|channel| async move {
            ControlClient::new(channel).list_workers(ListWorkersRequest { filter: Vec::new() }).await
        });
        let workers = match timeout(TIMEOUT, call).await {
            Ok(Ok(workers)) => workers.into_inner().record,
            Ok(Err(status)) => return Err(failure("docker", self.0.api().address(), operation(), &status)),
            Err(_) => return Err(EngineError::Timeout { operation: operation(), after: TIMEOUT }),
        };
        let labelled = workers.iter().find_map(|worker| {
            Some(StoreId { uuid: worker.labels.get(UUID)?.clone(), namespace: worker.labels.get(NAMESPACE)?.clone() })
        });
        labelled.ok_or_else(|| {
            let found = "none of its build workers is labelled with one".to_owned();
            self.unverified("a containerd that it does not name".to_owned(), found)
        })
    }
}
