//! The caches behind a daemon, through its caching API.

mod copy;
mod messages;
mod open;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::{Code, Response, Status};

use self::messages::{absent, amount, descriptor, failure, version};
use super::{CacheAccess, Contents, Measured, Pruned, Readable, Usage, is_folder};
use crate::cache_v1::features;
use crate::cache_v1::proto::prune_response::Event;
use crate::cache_v1::proto::{
    CapabilitiesRequest, CapabilitiesResponse, DeleteRequest, DeleteResponse, InspectRequest, InspectedVersion,
    ListRequest, PruneRequest, ReleaseRequest, UsageRequest, VersionUsage,
};
use crate::caches::{CacheError, CachePolicy, CacheRef, Copied, CopySource, Selection};
use crate::cli::Leftover;
use crate::cli::daemon::logging_in;
use crate::engine::caches::{CacheVersion, sort};
use crate::engine::remote::{CacheBlobs, Daemon, DaemonConnection};
use crate::engine::stream::SILENCE;
use crate::engine::{EngineError, Origin};
use crate::export_v1::ApiError;
use crate::export_v1::convert::duration_message;
use crate::export_v1::proto::Reason;
use crate::net::Principal;

/// What to do about a daemon that has no such API, or one of an earlier version.
const UPGRADE: &str =
    "upgrade the Linkspan that serves there, or work on its engine itself, without --to and LINKSPAN_TO";
/// How long the release of what is held may take at the end of a command. It ends by itself, too.
const RELEASE: Duration = Duration::from_secs(5);

/// Caches behind a daemon.
#[derive(Debug)]
pub(super) struct RemoteCaches {
    connection: DaemonConnection,
    capabilities: CapabilitiesResponse,
    /// Which refs the daemon lets this client write and delete.
    policy: CachePolicy,
    holds: Arc<Mutex<Vec<Arc<CacheBlobs>>>>,
    /// Calls of which the responses are holds.
    resolving: TaskTracker,
    /// Whether an export is open, which an interrupted command leaves to the next one.
    is_copying: AtomicBool,
}

impl RemoteCaches {
    /// Connects to `daemon`.
    pub(super) async fn connect(daemon: &Daemon) -> Result<Self, CacheError> {
        let address = &daemon.address;
        let (connection, capabilities) = logging_in(daemon, async |daemon| {
            let connection = DaemonConnection::open(daemon).await?;
            let call = async {
                match connection.caches().capabilities(CapabilitiesRequest {}).await {
                    Err(status) if status.code() == Code::Unimplemented => Ok(Response::new(None)),
                    response => Ok(response?.map(Some)),
                }
            };
            let capabilities = connection.unary("asking what can be done with build caches", call).await?;
            Ok((connection, capabilities))
        })
        .await?;
        let Some(capabilities) = capabilities else {
            let message = format!("the daemon at {address} serves no caching API");
            return Err(EngineError::Daemon { message, hint: Some(UPGRADE.to_owned()), is_lost: false }.into());
        };
        let policy = CachePolicy { allowed: capabilities.allowed_refs.clone() };
        let (holds, resolving, is_copying) = (Arc::default(), TaskTracker::new(), AtomicBool::default());
        Ok(Self { connection, capabilities, policy, holds, resolving, is_copying })
    }

    /// Fails unless the daemon has `feature`.
    fn require(&self, feature: &str) -> Result<(), CacheError> {
        Ok(require(&self.capabilities, self.connection.address(), feature)?)
    }

    /// Refuses a ref that the daemon does not let this client write.
    fn check(&self, reference: &str) -> Result<CacheRef, CacheError> {
        let reference = reference.parse()?;
        self.policy.check(&reference, &Principal::Internal)?;
        Ok(reference)
    }

    /// All versions as they are listed, with what they take if `usage` says so.
    async fn list(&self, usage: bool) -> Result<Vec<(CacheVersion, VersionUsage)>, CacheError> {
        let operation = "listing build caches";
        let (mut listed, mut request) = (Vec::new(), ListRequest { usage, ..ListRequest::default() });
        loop {
            let call = async { self.connection.caches().list(request.clone()).await };
            let page = self.connection.unary(operation, call).await?;
            if usage && page.usage.len() != page.versions.len() {
                return Err(absent(operation, "what each version takes"));
            }
            let taken = page.usage.into_iter().chain(std::iter::repeat(VersionUsage::default()));
            for (message, taken) in page.versions.into_iter().zip(taken) {
                listed.push((version(operation, Some(message))?, taken));
            }
            // A server that gives the same page again would be queried for ever.
            if page.next_page_token.is_empty() || page.next_page_token == request.page_token {
                return Ok(listed);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// One version, as the daemon sees it.
    async fn inspected(&self, version: &CacheVersion) -> Result<InspectedVersion, CacheError> {
        let operation = "inspecting a build cache";
        let request = InspectRequest { r#ref: version.reference.clone(), version_id: version.id.clone() };
        let call = async { self.connection.caches().inspect(request).await };
        let mut versions = self.connection.unary(operation, call).await?.versions;
        versions.pop().ok_or_else(|| absent(operation, "the version"))
    }
}

#[async_trait]
impl CacheAccess for RemoteCaches {
    fn is_folder(&self) -> bool {
        let engine = self.capabilities.engine.as_ref();
        engine.and_then(|engine| engine.kind.parse().ok()).is_some_and(is_folder)
    }

    async fn versions(&self) -> Result<Vec<CacheVersion>, CacheError> {
        let mut versions: Vec<_> = self.list(false).await?.into_iter().map(|(version, _)| version).collect();
        sort(&mut versions);
        Ok(versions)
    }

    async fn usage(&self) -> Result<Usage, CacheError> {
        self.require(features::USAGE)?;
        let listed = self.list(true).await?;
        let call = async { self.connection.caches().usage(UsageRequest {}).await };
        let totals = self.connection.unary("asking what build caches take", call).await?;
        let exceeding: HashSet<_> = listed.iter().filter(|(_, it)| it.exceeding).map(|(it, _)| it.id.clone()).collect();
        let mut versions: Vec<_> = listed.iter().map(|(version, _)| version.clone()).collect();
        sort(&mut versions);
        let taken = |version: CacheVersion| {
            let taken = listed.iter().find(|(listed, _)| listed.id == version.id).map(|(_, taken)| *taken);
            let VersionUsage { unique_bytes, shared_bytes, .. } = taken.unwrap_or_default();
            Measured { version, unique: amount(unique_bytes), shared: amount(shared_bytes) }
        };
        let versions: Vec<_> = versions.into_iter().map(taken).collect();
        Ok(Usage {
            total: amount(totals.bytes),
            exceeding: versions.iter().map(|it| it.version.id.clone()).filter(|id| exceeding.contains(id)).collect(),
            exceeding_bytes: amount(totals.exceeding_bytes),
            versions,
        })
    }

    async fn inspect(&self, version: &CacheVersion) -> Result<Contents, CacheError> {
        self.require(features::INSPECT_VERSION)?;
        let operation = "inspecting a build cache";
        let found = self.inspected(version).await?;
        if let Some(error) = found.error {
            return Err(failure(error.into()));
        }
        Ok(Contents {
            config: descriptor(operation, found.config.as_ref())?,
            layers: found.layers.iter().map(|it| descriptor(operation, Some(it))).collect::<Result<_, _>>()?,
            records: amount(found.records),
            results: amount(found.results),
            missing: amount(found.missing_layers),
        })
    }

    async fn delete(
        &self,
        versions: Vec<CacheVersion>,
        is_dry: bool,
    ) -> Result<(Vec<CacheVersion>, Vec<CacheError>), CacheError> {
        let (mut deleted, mut refused, mut denied) = (Vec::new(), Vec::new(), HashSet::new());
        for version in versions {
            let reference = version.reference.clone();
            if let Err(error) = self.check(&reference) {
                // Once for a cache, however many versions of it are meant.
                if denied.insert(reference) {
                    refused.push(error);
                }
                continue;
            }
            if !is_dry {
                let request = DeleteRequest { r#ref: reference, version_id: version.id.clone(), ..Default::default() };
                let call = async {
                    match self.connection.caches().delete(request).await {
                        Err(status) if is_gone(&status) => Ok(Response::new(DeleteResponse::default())),
                        response => response,
                    }
                };
                self.connection.unary("deleting a build cache", call).await?;
            }
            deleted.push(version);
        }
        Ok((deleted, refused))
    }

    async fn prune(&self, selection: &Selection, is_dry: bool) -> Result<Pruned, CacheError> {
        let operation = "pruning build caches";
        let request = PruneRequest {
            refs: selection.references.clone(),
            older_than: selection.unused_for.map(duration_message),
            keep_bytes: selection.keep_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            dry_run: is_dry,
        };
        let late = |_| self.connection.late(operation, SILENCE);
        let failed = |status: Status| self.connection.failure(operation, &status);
        let mut caches = self.connection.caches();
        let call = timeout(SILENCE, caches.prune(request)).await.map_err(late)?;
        let (mut responses, mut versions) = (call.map_err(failed)?.into_inner(), Vec::new());
        loop {
            let message = timeout(SILENCE, responses.message()).await.map_err(late)?.map_err(failed)?;
            match message.and_then(|message| message.event) {
                Some(Event::Version(pruned)) => versions.push(Measured {
                    version: version(operation, pruned.version)?,
                    unique: amount(pruned.unique_bytes),
                    shared: 0,
                }),
                Some(Event::Total(total)) => {
                    return Ok(Pruned { versions, bytes: amount(total.bytes), denied: amount(total.denied) });
                }
                None => return Err(absent(operation, "the total")),
            }
        }
    }

    async fn open(&self, versions: Vec<CacheVersion>) -> Result<Readable, CacheError> {
        self.require(features::COPIES)?;
        self.resolve(versions).await
    }

    async fn copy(&self, from: &CopySource, reference: &CacheRef, origin: &Origin) -> Result<Copied, CacheError> {
        self.require(features::COPIES)?;
        self.check(reference.as_str())?;
        self.store(from, reference, origin).await
    }

    fn remains(&self) -> Leftover {
        if self.is_copying.load(Ordering::Relaxed) { Leftover::Kept } else { Leftover::Nothing }
    }

    async fn finish(&self) {
        self.resolving.close();
        if timeout(RELEASE, self.resolving.wait()).await.is_err() {
            tracing::debug!("the daemon does not respond: what it holds of caches is held until that expires");
            return;
        }
        let holds = std::mem::take(&mut *self.holds.lock().unwrap_or_else(PoisonError::into_inner));
        for hold in holds {
            let request = ReleaseRequest { hold_id: hold.id().to_owned() };
            let mut caches = self.connection.caches();
            match timeout(RELEASE, caches.release(request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "what was read of caches is held until that expires"),
                // The daemon does not respond: neither will it for the others.
                Err(_) => return,
            }
        }
    }
}

/// Fails unless the daemon at `address` can do what `feature` stands for.
fn require(capabilities: &CapabilitiesResponse, address: &str, feature: &str) -> Result<(), EngineError> {
    let CapabilitiesResponse { features, server, .. } = capabilities;
    if features.iter().any(|it| it == feature) {
        return Ok(());
    }
    let message = format!("the daemon at {address} ({server}) cannot do that: its caching API has no `{feature}`");
    Err(EngineError::Daemon { message, hint: Some(UPGRADE.to_owned()), is_lost: false })
}

/// Whether a version that is to be deleted is gone already.
fn is_gone(status: &Status) -> bool {
    ApiError::from_status(status).is_some_and(|error| error.reason == Reason::CacheUnknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_of_an_earlier_version_is_named_with_what_to_do() {
        let server = "linkspan 0.0.9".to_owned();
        let mut capabilities = CapabilitiesResponse { server, ..CapabilitiesResponse::default() };
        let old = require(&capabilities, "unix:///x.sock", features::USAGE).unwrap_err();
        let expected = "the daemon at unix:///x.sock (linkspan 0.0.9) cannot do that: its caching API has no `usage`";
        assert_eq!((old.to_string().as_str(), old.hint().as_deref()), (expected, Some(UPGRADE)));
        capabilities.features = vec!["watch".to_owned(), features::USAGE.to_owned()];
        assert!(require(&capabilities, "unix:///x.sock", features::USAGE).is_ok());
    }
}
