//! Build caches in a containerd: one lease for each version, which does not expire.
//!
//! ```text
//! lease linkspan-cache-…   labels: ref, part, mode, builder, created, process
//!  └─ record               a document of ours; labels: root, bytes, layers, last use
//!      └─ root             the OCI index or manifest; labels refer to config and layers
//!          ├─ config
//!          └─ layers
//! ```
//!
//! Leases cannot be labelled again, so what is not known when one is created are labels of the *record*, a document whose digest
//! follows from the lease's id. Its commit makes a version complete: a lease without one is an export under way, or one
//! that was left behind.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::{CreateRequest, Lease as LeaseRecord, ListRequest};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tonic::Code;

use super::ContainerdEngine;
use super::client::{Client, Expect as _};
use super::content::{self, Put};
use super::labels::{self, Labels};
use super::lease::ContainerdLease;
use super::lease_calls::{self, Collect};
use super::names::Records;
use super::read::ContainerdImages;
use super::release::{abort_ingests, release_all};
use super::writer::{self, Begun};
use crate::engine::caches::{
    CacheContent, CacheDocument, CacheStore, CacheVersion, NewVersion, PendingVersion, VERSION_PREFIX, check_ids,
    check_new, check_sizes, id_prefix, is_touch_due, lease_origin, milliseconds, new_id, sort, time,
};
use crate::engine::images::Images;
use crate::engine::process::Process;
use crate::engine::{BlobWriter as _, EngineError, Lease, Lifetime, Origin};
use crate::image::{Descriptor, Digest};

/// Marks the leases of caches. The value is the ref.
const CACHE: &str = "dev.linkspan.cache";
const PART: &str = "dev.linkspan.cache.part";
const TITLE: &str = "dev.linkspan.cache.title";
const MODE: &str = "dev.linkspan.cache.mode";
const BUILDER: &str = "dev.linkspan.cache.builder";
const CREATED: &str = "dev.linkspan.cache.created";
/// Which process stores the version: an unfinished one of a process that is gone is released. Not the label by which leases
/// of exports are recovered.
const PROCESS: &str = "dev.linkspan.cache.process";
/// The labels of a record.
const ROOT: &str = "dev.linkspan.cache.root";
const ROOT_TYPE: &str = "dev.linkspan.cache.root.type";
const ROOT_SIZE: &str = "dev.linkspan.cache.root.size";
const BYTES: &str = "dev.linkspan.cache.bytes";
const LAYERS: &str = "dev.linkspan.cache.layers";
const USED: &str = "dev.linkspan.cache.used";

/// The longest document that is sent in one message; containerd takes 16 MiB.
const MESSAGE: usize = 4 << 20;
/// How many look-ups are under way at once.
const LOOKUPS: usize = 64;

/// The caches of one namespace.
#[derive(Debug, Clone)]
pub(crate) struct ContainerdCaches {
    engine: ContainerdEngine,
    /// What the engine is called where its blobs are read.
    name: &'static str,
}

impl ContainerdCaches {
    pub(crate) fn new(engine: ContainerdEngine, name: &'static str) -> Self {
        Self { engine, name }
    }

    fn client(&self) -> &Client {
        self.engine.client()
    }

    /// The leases of versions, complete or not.
    async fn leases(&self, reference: Option<&str>) -> Result<Vec<LeaseRecord>, EngineError> {
        let filter = match reference {
            // Letters, digits and dashes.
            Some(reference) => format!("id~=\"^{}\"", id_prefix(reference)),
            None => format!("labels.\"{CACHE}\""),
        };
        let mut leases = self.client().leases();
        let call = leases.list(self.client().request(ListRequest { filters: vec![filter] }));
        let found = self.client().unary("listing caches", call).await?.leases.into_iter();
        let is_match = |lease: &LeaseRecord| {
            let found = lease.labels.get(CACHE);
            lease.id.starts_with(VERSION_PREFIX) && found.is_some_and(|found| reference.is_none_or(|it| it == found))
        };
        Ok(found.filter(is_match).collect())
    }

    /// Each lease, and what its record says if there is one.
    async fn records(&self, reference: Option<&str>) -> Result<Vec<(LeaseRecord, Option<Labels>)>, EngineError> {
        let look = async |lease: LeaseRecord| {
            let record = content::info(self.client(), &record(&lease.id).0.digest).await?;
            Ok::<_, EngineError>((lease, record.map(|record| record.labels)))
        };
        let lookups: Vec<_> = self.leases(reference).await?.into_iter().map(look).collect();
        stream::iter(lookups).buffered(LOOKUPS).try_collect().await
    }
}

/// The record of the version `id`.
fn record(id: &str) -> (Descriptor, Bytes) {
    let bytes = Bytes::from(format!("{{\"cache\":\"{id}\"}}"));
    (Descriptor::new("application/json", Digest::sha256(&bytes), bytes.len() as u64), bytes)
}

/// What a lease and its record say; `None` if they make no sense, as after somebody else changed them.
fn version(lease: LeaseRecord, record: &Labels) -> Option<CacheVersion> {
    let text = |key: &str| lease.labels.get(key).cloned().unwrap_or_default();
    let number = |key: &str| record.get(key).and_then(|text| text.parse::<u64>().ok());
    let root = Descriptor::new(record.get(ROOT_TYPE)?, record.get(ROOT)?.parse().ok()?, number(ROOT_SIZE)?);
    Some(CacheVersion {
        reference: text(CACHE),
        part: text(PART),
        title: text(TITLE),
        mode: text(MODE),
        builder: text(BUILDER),
        created: time(lease.labels.get(CREATED).map(String::as_str)),
        used: time(record.get(USED).map(String::as_str)),
        root,
        layers: number(LAYERS).unwrap_or_default(),
        bytes: number(BYTES).unwrap_or_default(),
        id: lease.id,
    })
}

#[async_trait]
impl CacheStore for ContainerdCaches {
    async fn versions(&self, reference: Option<&str>) -> Result<Vec<CacheVersion>, EngineError> {
        let records = self.records(reference).await?.into_iter();
        let mut versions: Vec<_> = records.filter_map(|(lease, record)| version(lease, &record?)).collect();
        sort(&mut versions);
        Ok(versions)
    }

    async fn begin(&self, new: &NewVersion, origin: &Origin) -> Result<Arc<dyn PendingVersion>, EngineError> {
        check_new(new)?;
        let created = SystemTime::now();
        let id = new_id(&new.reference, created);
        let labels = [
            (CACHE, new.reference.as_str()),
            (PART, &new.part),
            (TITLE, &new.title),
            (MODE, &new.mode),
            (BUILDER, &origin.builder),
            (CREATED, &milliseconds(created).to_string()),
            (PROCESS, &Process::this().to_string()),
        ];
        let given = labels.into_iter().filter(|(_, value)| !value.is_empty());
        let labels: Labels = given.map(|(key, value)| (key.to_owned(), lease_calls::cut(key, value))).collect();
        let lease = LeaseRecord { id: id.clone(), labels: labels.clone(), ..LeaseRecord::default() };
        let mut leases = self.client().leases();
        let call = leases.create(self.client().request(CreateRequest { id: id.clone(), labels }));
        self.client().unary(format!("creating the lease {id}"), call).await?;
        let leased = self.engine.open_lease(id, true, Arc::new(Records))?;
        Ok(Arc::new(PendingCache { client: self.client().clone(), record: lease, lease: Arc::new(leased) }))
    }

    /// The record keeps the root, and that all the rest: one synced write for each version, and one for the lease.
    async fn lease(&self, ids: &[String], _: bool) -> Result<Option<Arc<dyn Lease>>, EngineError> {
        let origin = lease_origin();
        let leased = self.engine.lease_for(&origin, Lifetime::Process, Arc::new(Records)).await?;
        let name = lease_calls::id(&origin.export);
        for id in ids {
            let record = record(id).0.digest;
            if let Err(error) = lease_calls::add(self.client(), &name, lease_calls::CONTENT, record.as_str()).await {
                if let Err(error) = leased.release().await {
                    tracing::debug!(%error, lease = name, "it is released by the next start, or expires");
                }
                return Err(error);
            }
        }
        Ok(Some(Arc::new(leased)))
    }

    async fn delete(&self, ids: &[String]) -> Result<(), EngineError> {
        check_ids(ids)?;
        for id in ids {
            lease_calls::delete(self.client(), id, Collect::Later).await?;
        }
        Ok(())
    }

    async fn touch(&self, version: &CacheVersion) -> Result<(), EngineError> {
        let now = SystemTime::now();
        if !is_touch_due(version, now) {
            return Ok(());
        }
        let used = Labels::from([(USED.to_owned(), milliseconds(now).to_string())]);
        content::label(self.client(), &record(&version.id).0.digest, used).await.unless(Code::NotFound).map(|_| ())
    }

    async fn recover(&self) -> Result<usize, EngineError> {
        let is_left = |(lease, record): &(LeaseRecord, Option<Labels>)| {
            let process = lease.labels.get(PROCESS).and_then(|text| text.parse::<Process>().ok());
            record.is_none() && process.is_none_or(|process| process.is_gone())
        };
        let left = self.records(None).await?.into_iter().filter(is_left);
        let left: Vec<_> = left.map(|(lease, _)| lease.id).collect();
        release_all(self.client(), &left).await?;
        Ok(left.len())
    }

    fn blobs(&self) -> Arc<dyn Images> {
        Arc::new(ContainerdImages::new(self.client().clone(), self.name))
    }
}

/// A version that is being stored.
#[derive(Debug)]
struct PendingCache {
    client: Client,
    record: LeaseRecord,
    lease: Arc<ContainerdLease>,
}

impl PendingCache {
    /// Fails unless all `layers` are there.
    async fn check(&self, layers: &[Descriptor]) -> Result<(), EngineError> {
        let digests: Vec<_> = layers.iter().map(|layer| layer.digest.clone()).collect();
        let sizes = content::sizes(&self.client, &digests).await?;
        check_sizes(layers, &sizes)
    }

    /// Stores the config, which may be longer than a message.
    async fn store_config(&self, client: &Client, config: &CacheDocument) -> Result<(), EngineError> {
        if config.bytes.len() <= MESSAGE {
            return content::put(client, self.id(), &config.descriptor, &config.bytes, Labels::new()).await.map(drop);
        }
        match writer::begin(client, self.id(), &config.descriptor).await? {
            Begun::Present => Ok(()),
            Begun::Writer(mut writer) => {
                writer.write(config.bytes.clone()).await?;
                writer.commit().await
            }
        }
    }
}

#[async_trait]
impl PendingVersion for PendingCache {
    fn id(&self) -> &str {
        &self.record.id
    }

    fn lease(&self) -> Arc<dyn Lease> {
        self.lease.clone()
    }

    async fn commit(&self, content: &CacheContent) -> Result<CacheVersion, EngineError> {
        let (id, root, config) = (&self.record.id, &content.root, &content.config);
        let client = self.client.leased(id)?;
        let layers = content.present();
        self.check(&layers).await?;
        self.store_config(&client, config).await?;
        let references = labels::references([&config.descriptor].into_iter().chain(&layers).map(|it| &it.digest));
        if content::put(&client, id, &root.descriptor, &root.bytes, references.clone()).await? == Put::Present {
            // Another version has the same root, or another client stored it.
            let have = content::info(&client, &root.descriptor.digest).await?.unwrap_or_default().labels;
            let lacks = labels::missing(&references, &have);
            if !lacks.is_empty() {
                content::label(&client, &root.descriptor.digest, lacks).await?;
            }
        }
        // What is there now stays, by the labels of the root.
        self.check(&layers).await?;
        let own_labels = [
            (ROOT, root.descriptor.digest.to_string()),
            (ROOT_TYPE, root.descriptor.media_type.clone()),
            (ROOT_SIZE, root.descriptor.size.to_string()),
            (BYTES, content.bytes().to_string()),
            (LAYERS, layers.len().to_string()),
            (USED, milliseconds(SystemTime::now()).to_string()),
        ];
        let own_labels: Labels = own_labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let (document, bytes) = record(id);
        let labels = own_labels.clone().into_iter().chain(labels::references([&root.descriptor.digest])).collect();
        content::put(&client, id, &document, &bytes, labels).await?;
        // The lease stays, and with it what nobody wrote to its end.
        if let Err(error) = abort_ingests(&self.client, id).await {
            tracing::debug!(%error, id, "ingests of a complete build cache stay as long as it does");
        }
        version(self.record.clone(), &own_labels).ok_or_else(|| EngineError::Protocol {
            operation: format!("storing a cache as {id}"),
            reason: "its own record cannot be read".to_owned(),
        })
    }

    async fn abort(&self) -> Result<(), EngineError> {
        // Somebody may abort to be sure, after a commit that succeeded.
        match content::info(&self.client, &record(&self.record.id).0.digest).await? {
            Some(_) => Ok(()),
            None => self.lease.release().await,
        }
    }
}
