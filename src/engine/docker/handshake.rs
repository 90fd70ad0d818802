//! The proof that a containerd is the one that a dockerd uses.
//!
//! dockerd's embedded BuildKit serves its control API on dockerd's own socket, and labels its worker with the UUID of
//! the containerd server it runs on, the namespace and the snapshotter (BuildKit `worker/containerd/containerd.go`;
//! dockerd 24 and later with the containerd image store). A containerd tells its UUID by introspection. If both are
//! the same, so is the store; a path alone proves nothing, for there may be several containerds on a machine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::ListWorkersRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bytes::Bytes;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::docker_api::{Answer, Api};
use crate::engine::EngineError;
use crate::engine::containerd::{Client, dial, failure, uuid};

/// How long dockerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

const UUID: &str = "org.mobyproject.buildkit.worker.containerd.uuid";
const NAMESPACE: &str = "org.mobyproject.buildkit.worker.containerd.namespace";

/// What dockerd says of its containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// The server's UUID.
    pub(crate) uuid: String,
    /// Where dockerd keeps its images.
    pub(crate) namespace: String,
}

/// The gRPC side of dockerd's socket.
#[derive(Debug)]
pub(crate) struct Handshake {
    address: String,
    /// HTTP/2 right away: dockerd 29.2 and later.
    direct: Channel,
    /// HTTP/2 after an upgrade of `POST /grpc`: older ones.
    upgraded: Channel,
    /// Which of them worked last.
    prefer_upgraded: AtomicBool,
}

impl Handshake {
    pub(crate) fn new(socket: &Path) -> Result<Self, EngineError> {
        Ok(Self {
            address: format!("unix://{}", socket.display()),
            direct: dial(socket, "docker")?,
            upgraded: dial_upgraded(socket),
            prefer_upgraded: AtomicBool::new(false),
        })
    }

    /// Finds the containerd of dockerd among the sockets `candidates`.
    pub(crate) async fn prove(&self, candidates: &[PathBuf]) -> Result<(Proof, Client), EngineError> {
        let proof = self.ask().await?;
        let mut met = Vec::new();
        let mut denied = None;
        for candidate in candidates {
            let client = Client::new(candidate, &proof.namespace)?;
            match uuid(&client).await {
                Ok(found) if found == proof.uuid => return Ok((proof, client)),
                Ok(found) => met.push(format!("containerd {found} answers at {}", candidate.display())),
                Err(error) => {
                    met.push(error.to_string());
                    if matches!(error, EngineError::Permission { .. }) {
                        denied = denied.or(Some(error));
                    }
                }
            }
        }
        // Whoever may not ask cannot know: that is the more useful thing to say.
        Err(denied.unwrap_or_else(|| self.unproven(format!("containerd {}", proof.uuid), met.join("; "))))
    }

    /// Makes sure that dockerd and `client` still agree on `proof`.
    pub(crate) async fn check(&self, proof: &Proof, client: &Client) -> Result<(), EngineError> {
        let (told, found) = futures_util::try_join!(self.ask(), uuid(client))?;
        if told == *proof && found == proof.uuid {
            return Ok(());
        }
        let expected = format!("containerd {} and namespace `{}`", told.uuid, told.namespace);
        let found = format!(
            "containerd {found} answers at {}, and Linkspan was started for containerd {} and namespace `{}`",
            client.address(),
            proof.uuid,
            proof.namespace
        );
        Err(self.unproven(expected, found))
    }

    fn unproven(&self, expected: String, found: String) -> EngineError {
        EngineError::NotProven { docker: self.address.clone(), expected, found }
    }

    /// Asks dockerd which containerd it uses.
    async fn ask(&self) -> Result<Proof, EngineError> {
        let upgraded_first = self.prefer_upgraded.load(Ordering::Relaxed);
        match self.ask_over(upgraded_first).await {
            // Not how this dockerd speaks gRPC; it may have been replaced by an older or newer one.
            Err(EngineError::Unreachable { .. } | EngineError::Rpc { .. }) => {
                let proof = self.ask_over(!upgraded_first).await?;
                self.prefer_upgraded.store(!upgraded_first, Ordering::Relaxed);
                Ok(proof)
            }
            outcome => outcome,
        }
    }

    async fn ask_over(&self, upgraded: bool) -> Result<Proof, EngineError> {
        let operation = || "asking docker which containerd it uses".to_owned();
        let channel = if upgraded { &self.upgraded } else { &self.direct };
        let mut control = ControlClient::new(channel.clone());
        let workers = match timeout(PATIENCE, control.list_workers(ListWorkersRequest { filter: Vec::new() })).await {
            Ok(Ok(workers)) => workers.into_inner().record,
            Ok(Err(status)) => return Err(failure("docker", &self.address, operation(), &status)),
            Err(_) => return Err(EngineError::Timeout { operation: operation(), after: PATIENCE }),
        };
        let labelled = workers.iter().find_map(|worker| {
            Some(Proof { uuid: worker.labels.get(UUID)?.clone(), namespace: worker.labels.get(NAMESPACE)?.clone() })
        });
        labelled.ok_or_else(|| {
            let found = "none of its build workers is labelled with one".to_owned();
            self.unproven("a containerd that it does not name".to_owned(), found)
        })
    }
}

/// A connection to the gRPC server behind `POST /grpc` of the HTTP/1 server behind `socket`.
fn dial_upgraded(socket: &Path) -> Channel {
    let docker = Arc::new(Api::new(socket));
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
        let docker = Arc::clone(&docker);
        // Already an implementation of hyper's I/O traits, which is what tonic asks of a connector.
        async move {
            let refused =
                |answer: Answer| io::Error::other(format!("docker refused `POST /grpc`: {}", answer.message()));
            docker.upgrade("/grpc", "h2c", Bytes::new()).await.map_err(io::Error::other)?.map_err(refused)
        }
    }))
}
