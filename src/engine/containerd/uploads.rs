//! Uploads: containerd's own ingests, under refs of their export's ([`content::upload`]).

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use bytes::Bytes;
use containerd_client::services::v1::{ListStatusesRequest, Status as Ingested, WriteAction, WriteContentRequest};
use futures_util::future::BoxFuture;
use prost_types::Timestamp;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard, OnceCell};
use tonic::Code;

use super::client::Client;
use super::content;
use super::lease;
use super::neighbours;
use super::pins::{self, Pins};
use crate::engine::EngineError;
use crate::engine::stream::{Stream, is_locked};
use crate::engine::uploads::{Begun, Expected, Upload, UploadStatus, Uploads, check_name};
use crate::image::Digest;

/// From how many blobs on they are pinned by a document, which is made in two synced writes.
const MANY: usize = 3;

/// The uploads of one lease.
#[derive(Debug)]
pub(crate) struct ContainerdUploads {
    client: Client,
    lease: String,
    /// The namespace, if blobs of others can be had.
    shared: Option<String>,
    /// Loaded when they are needed first.
    pins: Mutex<Option<Pins>>,
    /// The refs of uploads that an earlier Linkspan began; looked for when they are needed first, and only under a lease
    /// that may be as old.
    old: OnceCell<HashSet<String>>,
}

impl ContainerdUploads {
    /// `client` must act in the name of `lease`, which `is_new` if it was made just now. `shared` is its namespace where
    /// blobs of others can be had in it.
    pub(crate) fn new(client: Client, lease: String, is_new: bool, shared: Option<&str>) -> Self {
        let old = OnceCell::new_with(is_new.then(HashSet::new));
        Self { client, lease, shared: shared.map(str::to_owned), pins: Mutex::default(), old }
    }

    /// The ref of an upload. One that an earlier Linkspan began goes on under its own.
    async fn reference(&self, name: &str) -> Result<String, EngineError> {
        let old = self.old.get_or_try_init(|| async {
            let owned = self.ingests().await?.into_iter();
            Ok::<_, EngineError>(owned.filter(|id| id.starts_with(&self.old_prefix())).collect())
        });
        let old_name = format!("{}{name}", self.old_prefix());
        if old.await?.contains(&old_name) { Ok(old_name) } else { Ok(content::upload(&self.lease, name)) }
    }

    /// How the refs of an earlier Linkspan begin. Those of a lease whose id goes on behind the dash do so, too.
    fn old_prefix(&self) -> String {
        format!("{}-", self.lease)
    }

    /// The refs of the ingests that the lease owns.
    async fn ingests(&self) -> Result<HashSet<String>, EngineError> {
        let owned = lease::resources(&self.client, &self.lease).await?.into_iter();
        Ok(owned.filter(|owned| owned.r#type == lease::INGESTS).map(|owned| owned.id).collect())
    }

    /// Leased first, looked up second: what is found then stays. What is not there at first needs no lease.
    async fn keep(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>, EngineError> {
        let found = content::sizes(&self.client, digests).await?;
        let there: Vec<_> = digests.iter().zip(&found).filter(|(_, size)| size.is_some()).collect();
        let there: Vec<Digest> = there.into_iter().map(|(digest, _)| digest.clone()).collect();
        if there.len() < MANY {
            for digest in &there {
                lease::add(&self.client, &self.lease, lease::CONTENT, digest.as_str()).await?;
            }
        } else {
            let mut pins = self.pins().await?;
            pins.add(&self.client, &self.lease, &there).await?;
        }
        let kept: HashMap<_, _> = there.iter().zip(content::sizes(&self.client, &there).await?).collect();
        Ok(digests.iter().map(|digest| kept.get(digest).copied().flatten()).collect())
    }

    async fn pins(&self) -> Result<MappedMutexGuard<'_, Pins>, EngineError> {
        let mut pins = self.pins.lock().await;
        if pins.is_none() {
            let leased = pins::leased(&self.client, &self.lease).await?;
            *pins = Some(Pins::load(&self.client, &self.lease, &leased).await?);
        }
        Ok(MutexGuard::map(pins, |pins| pins.get_or_insert_default()))
    }

    async fn open(&self, name: &str, expected: &Expected) -> Result<Begun, EngineError> {
        check_name(name)?;
        let reference = self.reference(name).await?;
        let first = WriteContentRequest { action: WriteAction::Stat.into(), r#ref: reference, ..message(expected)? };
        let operation = format!("writing the upload {name}");
        let (mut stream, answer) = match Stream::open(&self.client, &operation, first).await {
            Err(EngineError::Rpc { code: Code::AlreadyExists, .. }) => {
                if let Some(digest) = &expected.digest {
                    content::pin(&self.client, &self.lease, digest).await?;
                }
                return Ok(Begun::Present);
            }
            Err(error) if is_locked(&error) => {
                return Err(EngineError::Busy { what: format!("the upload `{name}`") });
            }
            outcome => outcome?,
        };
        stream.seek(u64::try_from(answer.offset).unwrap_or(0));
        Ok(Begun::Upload(Box::new(ContainerdUpload {
            client: self.client.clone(),
            lease: self.lease.clone(),
            expected: expected.clone(),
            operation,
            stream,
        })))
    }

    /// The ingests of this lease, under the names of their uploads.
    async fn list(&self) -> Result<Vec<UploadStatus>, EngineError> {
        let prefixes = [content::upload(&self.lease, ""), self.old_prefix()];
        // The old ones may be of another lease: so only what the lease says is its own counts.
        let filters = prefixes.iter().map(|prefix| format!("ref~=\"^{prefix}\"")).collect();
        let mut client = self.client.content();
        let call = client.list_statuses(self.client.request(ListStatusesRequest { filters }));
        let list = async { self.client.unary("listing ingests", call).await };
        let (found, owned) = tokio::try_join!(list, self.ingests())?;
        let named = |ingest: &Ingested| {
            let name = prefixes.iter().find_map(|prefix| ingest.r#ref.strip_prefix(prefix))?;
            Some(status(name.to_owned(), ingest))
        };
        let found = found.statuses.iter().filter(|ingest| owned.contains(&ingest.r#ref));
        let mut statuses: Vec<_> = found.filter_map(named).collect();
        statuses.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(statuses)
    }
}

fn status(name: String, ingest: &Ingested) -> UploadStatus {
    let time = |stamp: &Option<Timestamp>| {
        stamp.and_then(|stamp| SystemTime::try_from(stamp).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    UploadStatus {
        name,
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
        operation: "opening an upload".to_owned(),
        reason: "its size is out of range".to_owned(),
    })?;
    let expected = expected.digest.as_ref().map(ToString::to_string).unwrap_or_default();
    Ok(WriteContentRequest { total, expected, ..WriteContentRequest::default() })
}

impl Uploads for ContainerdUploads {
    fn pin<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        Box::pin(self.keep(digests))
    }

    fn adoptable<'a>(&'a self, digests: &'a [Digest]) -> BoxFuture<'a, Result<Vec<Option<u64>>, EngineError>> {
        Box::pin(async move {
            match &self.shared {
                Some(own) if !digests.is_empty() => neighbours::sizes(&self.client, own, digests).await,
                _ => Ok(vec![None; digests.len()]),
            }
        })
    }

    fn pinned(&self) -> BoxFuture<'_, Result<Vec<Digest>, EngineError>> {
        Box::pin(async move {
            let mut held = pins::leased(&self.client, &self.lease).await?;
            let pins = self.pins().await?;
            held.retain(|digest| !pins.is_document(&self.lease, digest));
            let mut known: HashSet<_> = held.iter().cloned().collect();
            held.extend(pins.pinned().filter(|digest| known.insert((*digest).clone())).cloned());
            Ok(held)
        })
    }

    fn unpin<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            self.pins().await?.remove(&self.client, digest).await?;
            lease::remove(&self.client, &self.lease, lease::CONTENT, digest.as_str()).await
        })
    }

    fn begin<'a>(&'a self, name: &'a str, expected: &'a Expected) -> BoxFuture<'a, Result<Begun, EngineError>> {
        Box::pin(self.open(name, expected))
    }

    fn status<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<UploadStatus>, EngineError>> {
        Box::pin(async move { Ok(self.list().await?.into_iter().find(|status| status.name == name)) })
    }

    fn statuses(&self) -> BoxFuture<'_, Result<Vec<UploadStatus>, EngineError>> {
        Box::pin(self.list())
    }

    fn abort<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { content::abort(&self.client, &self.reference(name).await?).await })
    }
}

/// An open upload.
#[derive(Debug)]
struct ContainerdUpload {
    client: Client,
    lease: String,
    expected: Expected,
    operation: String,
    stream: Stream,
}

impl ContainerdUpload {
    async fn finish(self, expected: Expected) -> Result<(Digest, u64), EngineError> {
        let Self { client, lease, expected: before, operation, stream } = self;
        let expected = Expected { digest: expected.digest.or(before.digest), size: expected.size.or(before.size) };
        let size = stream.length();
        let end = stream.commit(message(&expected)?).await?;
        let malformed = |digest: &str| EngineError::Protocol {
            operation: operation.clone(),
            reason: format!("the store gave the digest `{digest}`"),
        };
        match end.outcome {
            Ok(Some(answer)) => {
                let digest = answer.digest.parse().map_err(|_| malformed(&answer.digest))?;
                Ok((digest, u64::try_from(answer.offset).unwrap_or(size)))
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

impl Upload for ContainerdUpload {
    fn offset(&self) -> u64 {
        self.stream.length()
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        let left = self.expected.size.map(|size| size.saturating_sub(self.stream.length()));
        Box::pin(self.stream.push(bytes, left))
    }

    fn digest(&mut self) -> BoxFuture<'_, Result<Digest, EngineError>> {
        Box::pin(async {
            let digest = self.stream.digest().await?;
            digest.parse().map_err(|_| EngineError::Protocol {
                operation: self.operation.clone(),
                reason: format!("the store gave the digest `{digest}`"),
            })
        })
    }

    fn restart(&mut self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.stream.seek(0);
        Box::pin(async { Ok(()) })
    }

    fn suspend(self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>> {
        Box::pin(self.stream.close())
    }

    fn commit(self: Box<Self>, expected: Expected) -> BoxFuture<'static, Result<(Digest, u64), EngineError>> {
        Box::pin(self.finish(expected))
    }
}
