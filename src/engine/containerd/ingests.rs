//! The ingests of a lease: containerd's own, under refs that begin with the lease ([`content::client_ref`]).

use std::collections::HashSet;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::{ListStatusesRequest, Status as Ingested, WriteAction, WriteContentRequest};
use prost_types::Timestamp;
use tokio::sync::OnceCell;
use tonic::Code;

use super::client::Client;
use super::content;
use super::cross_namespace;
use super::lease_calls;
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestManager, IngestStatus, IngestWriter, OpenedIngest, check_ref};
use crate::engine::stream::{Stream, is_locked};
use crate::image::Digest;

/// The ingests of one lease.
#[derive(Debug)]
pub(crate) struct ContainerdIngests {
    client: Client,
    lease: String,
    /// The namespace, if blobs of others can be had.
    shared: Option<String>,
    /// The refs of ingests that an earlier Linkspan began; looked up when they are needed first, and only under a lease
    /// that may be as old.
    old: OnceCell<HashSet<String>>,
}

impl ContainerdIngests {
    /// `client` must act in the name of `lease`, which `is_new` if it was made just now. `shared` is its namespace where
    /// blobs of others can be had in it.
    pub(crate) fn new(client: Client, lease: String, is_new: bool, shared: Option<&str>) -> Self {
        let old = OnceCell::new_with(is_new.then(HashSet::new));
        Self { client, lease, shared: shared.map(str::to_owned), old }
    }

    /// containerd's ref of a client's. One that an earlier Linkspan began is resumed under the one that it had then.
    async fn full_ref(&self, reference: &str) -> Result<String, EngineError> {
        let old = self.old.get_or_try_init(|| async {
            let owned = self.ingests().await?.into_iter();
            Ok::<_, EngineError>(owned.filter(|id| id.starts_with(&self.old_prefix())).collect())
        });
        let old_ref = format!("{}{reference}", self.old_prefix());
        if old.await?.contains(&old_ref) { Ok(old_ref) } else { Ok(content::client_ref(&self.lease, reference)) }
    }

    /// How the refs of an earlier Linkspan begin. So do those of a lease whose id is longer by a dash and more.
    fn old_prefix(&self) -> String {
        format!("{}-", self.lease)
    }

    /// The refs of the ingests that the lease owns.
    async fn ingests(&self) -> Result<HashSet<String>, EngineError> {
        let owned = lease_calls::resources(&self.client, &self.lease).await?.into_iter();
        Ok(owned.filter(|owned| owned.r#type == lease_calls::INGESTS).map(|owned| owned.id).collect())
    }
}

fn status(reference: String, ingest: &Ingested) -> IngestStatus {
    let time = |stamp: &Option<Timestamp>| {
        stamp.and_then(|stamp| SystemTime::try_from(stamp).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    IngestStatus {
        reference,
        offset: u64::try_from(ingest.offset).unwrap_or(0),
        expected: Expected {
            digest: ingest.expected.parse().ok(),
            size: u64::try_from(ingest.total).ok().filter(|size| *size > 0),
        },
        started: time(&ingest.started_at),
        updated: time(&ingest.updated_at),
    }
}

/// A message that says what is expected. containerd takes 0 for a size that is not known.
fn message(expected: &Expected) -> Result<WriteContentRequest, EngineError> {
    let total = i64::try_from(expected.size.unwrap_or(0)).map_err(|_| EngineError::Protocol {
        operation: "opening an ingest".to_owned(),
        reason: "its size is out of range".to_owned(),
    })?;
    let expected = expected.digest.as_ref().map(ToString::to_string).unwrap_or_default();
    Ok(WriteContentRequest { total, expected, ..WriteContentRequest::default() })
}

#[async_trait]
impl IngestManager for ContainerdIngests {
    async fn mountable(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>, EngineError> {
        match &self.shared {
            Some(own) if !digests.is_empty() => cross_namespace::sizes(&self.client, own, digests).await,
            _ => Ok(vec![None; digests.len()]),
        }
    }

    async fn open(&self, reference: &str, expected: &Expected) -> Result<OpenedIngest, EngineError> {
        check_ref(reference)?;
        let full = self.full_ref(reference).await?;
        let first = WriteContentRequest { action: WriteAction::Stat.into(), r#ref: full, ..message(expected)? };
        let operation = format!("writing the ingest {reference}");
        let (mut stream, response) = match Stream::open(&self.client, &operation, first).await {
            Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => {
                if let Some(digest) = &expected.digest {
                    content::pin(&self.client, &self.lease, digest).await?;
                }
                return Ok(OpenedIngest::Present);
            }
            Err(error) if is_locked(&error) => {
                return Err(EngineError::Busy { what: format!("the ingest `{reference}`") });
            }
            outcome => outcome?,
        };
        stream.seek(u64::try_from(response.offset).unwrap_or(0));
        Ok(OpenedIngest::Writer(Box::new(ContainerdIngest {
            client: self.client.clone(),
            lease: self.lease.clone(),
            expected: expected.clone(),
            operation,
            stream,
        })))
    }

    async fn status(&self, reference: &str) -> Result<Option<IngestStatus>, EngineError> {
        Ok(self.statuses().await?.into_iter().find(|status| status.reference == reference))
    }

    /// The ingests of this lease, under the clients' refs.
    async fn statuses(&self) -> Result<Vec<IngestStatus>, EngineError> {
        let prefixes = [content::client_ref(&self.lease, ""), self.old_prefix()];
        // The old ones may be of another lease: so only what the lease says is its own counts.
        let filters = prefixes.iter().map(|prefix| format!("ref~=\"^{prefix}\"")).collect();
        let mut client = self.client.content();
        let call = client.list_statuses(self.client.request(ListStatusesRequest { filters }));
        let list = async { self.client.unary("listing ingests", call).await };
        let (found, owned) = tokio::try_join!(list, self.ingests())?;
        let named = |ingest: &Ingested| {
            let reference = prefixes.iter().find_map(|prefix| ingest.r#ref.strip_prefix(prefix))?;
            Some(status(reference.to_owned(), ingest))
        };
        let found = found.statuses.iter().filter(|ingest| owned.contains(&ingest.r#ref));
        let mut statuses: Vec<_> = found.filter_map(named).collect();
        statuses.sort_by(|one, other| one.reference.cmp(&other.reference));
        Ok(statuses)
    }

    async fn abort(&self, reference: &str) -> Result<(), EngineError> {
        content::abort(&self.client, &self.full_ref(reference).await?).await
    }
}

/// An ingest that is being written.
#[derive(Debug)]
struct ContainerdIngest {
    client: Client,
    lease: String,
    expected: Expected,
    operation: String,
    stream: Stream,
}

impl ContainerdIngest {}

#[async_trait]
impl IngestWriter for ContainerdIngest {
    fn offset(&self) -> u64 {
        self.stream.length()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let left = self.expected.size.map(|size| size.saturating_sub(self.stream.length()));
        self.stream.push(bytes, left).await
    }

    async fn digest(&mut self) -> Result<Digest, EngineError> {
        let digest = self.stream.digest().await?;
        digest.parse().map_err(|_| EngineError::Protocol {
            operation: self.operation.clone(),
            reason: format!("the store gave the digest `{digest}`"),
        })
    }

    async fn restart(&mut self) -> Result<(), EngineError> {
        self.stream.seek(0);
        Ok(())
    }

    async fn suspend(self: Box<Self>) -> Result<(), EngineError> {
        self.stream.close().await
    }

    async fn commit(self: Box<Self>, expected: Expected) -> Result<(Digest, u64), EngineError> {
        let Self { client, lease, expected: before, operation, stream } = *self;
        let expected = Expected { digest: expected.digest.or(before.digest), size: expected.size.or(before.size) };
        let size = stream.length();
        let end = stream.commit(message(&expected)?).await?;
        let malformed = |digest: &str| EngineError::Protocol {
            operation: operation.clone(),
            reason: format!("the store gave the digest `{digest}`"),
        };
        match end.outcome {
            Ok(Some(response)) => {
                let digest = response.digest.parse().map_err(|_| malformed(&response.digest))?;
                Ok((digest, u64::try_from(response.offset).unwrap_or(size)))
            }
            Ok(None) => Err(malformed("")),
            Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => {
                let digest = match expected.digest {
                    Some(digest) => digest,
                    None => end.digest.parse().map_err(|_| malformed(&end.digest))?,
                };
                content::pin(&client, &lease, &digest).await?;
                Err(EngineError::Present { digest })
            }
            Err(error) => {
                let named = expected.digest.or_else(|| end.digest.parse().ok());
                Err(named.map_or_else(|| error.clone(), |digest| content::refused(error.clone(), &digest)))
            }
        }
    }
}
