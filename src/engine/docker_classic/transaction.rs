//! An image on its way into a classic store.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use serde::Serialize;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::load::place;
use super::response::read;
use super::selected::SelectedImage;
use super::{Classic, KnownImage};
use crate::engine::docker::{Info, Upload, broken, check_loaded};
use crate::engine::{
    BlobWriter, EngineError, ImageTransaction, Opened, Plan, Precondition, PreparedImage, TransactionOptions,
};
use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::progress::Events;
use crate::tar;

/// The member by which an archive becomes an image.
const MANIFEST: &str = "manifest.json";
/// The first plan relies on what the store says, the second on nothing that turned out to be gone, the third sends all.
const PLANS_THAT_RELY: usize = 2;

/// What earlier transactions of the export came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempts {
    pub(super) plans: usize,
    /// The lowest layer that dockerd was believed to have, and had not.
    pub(super) gone: Option<usize>,
}

/// An image, of which nothing is in dockerd but the files that it has received so far.
#[derive(Debug)]
pub(super) struct ClassicTransaction {
    docker: Arc<Classic>,
    events: Events,
    selected: Arc<SelectedImage>,
    plan: Plan,
    /// Whether dockerd has this very image.
    is_there: bool,
    attempts: Arc<Mutex<Attempts>>,
    /// Files come in parallel and an archive has one after the other, so that the lock is held while a file is written. It is
    /// taken before a blob is read, so that waiting takes no memory; its holder waits only for the blob's source and for
    /// dockerd, not for another blob, so that it is always released.
    archive: Arc<AsyncMutex<Archive>>,
    cancelled: CancellationToken,
}

/// The archive that is being written.
#[derive(Debug)]
enum Archive {
    NotBegun,
    Open(Upload),
    /// A file broke off, or dockerd has it all.
    Closed,
}

impl ClassicTransaction {
    /// Plans `graph`.
    pub(super) async fn begin(
        docker: Arc<Classic>,
        info: &Info,
        attempts: Arc<Mutex<Attempts>>,
        cancelled: CancellationToken,
        graph: &Graph,
        options: TransactionOptions,
    ) -> Result<Self, EngineError> {
        let selected = Arc::new(SelectedImage::of(graph, &info.server_version)?);
        let id = &selected.config.descriptor.digest;
        let chains: Vec<_> = selected.layers.iter().map(|layer| layer.chain.clone()).collect();
        let Attempts { plans, gone } = {
            let mut attempts = attempts.lock().unwrap_or_else(PoisonError::into_inner);
            let before = attempts.clone();
            attempts.plans += 1;
            before
        };
        let known = async {
            if plans >= PLANS_THAT_RELY {
                return Ok(Default::default());
            }
            docker.chains.known(&docker.api, info, &chains).await
        };
        let name = id.to_string();
        let (known, image) = futures_util::try_join!(known, docker.image(&name))?;
        // dockerd needs all of the chain below a layer, too.
        let unbroken = chains.iter().take_while(|chain| known.contains(*chain)).count();
        let unbroken = unbroken.min(gone.unwrap_or(usize::MAX));
        let missing = selected.missing(|at| at < unbroken)?;
        let is_there = image.as_ref() == Some(id);
        let mut plan = Plan { missing, ..Plan::default() };
        for blob in selected.layers[..unbroken].iter().map(|layer| &layer.blob) {
            if !plan.missing.iter().chain(&plan.present).any(|counted| counted.digest == blob.digest) {
                plan.present.push(blob.clone());
            }
        }
        let config = selected.config.descriptor.clone();
        if is_there {
            plan.present.push(config)
        } else {
            plan.stored.push(config)
        }
        let blobs = plan.present.len() + plan.missing.len() + plan.stored.len();
        docker.remember(&graph.root().digest, KnownImage { id: id.clone(), blobs });
        let (events, archive) = (options.events, Arc::new(AsyncMutex::new(Archive::NotBegun)));
        Ok(Self { docker, events, selected, plan, is_there, attempts, archive, cancelled })
    }

    /// The turn to write, with the load begun.
    async fn turn(&self) -> Result<OwnedMutexGuard<Archive>, EngineError> {
        let mut archive = self.archive.clone().lock_owned().await;
        match *archive {
            Archive::Open(_) => {}
            Archive::NotBegun if !self.cancelled.is_cancelled() => {
                let (api, selected, events) = (self.docker.api.clone(), self.selected.clone(), self.events.clone());
                let path = "/images/load?quiet=0";
                *archive =
                    Archive::Open(Upload::start(api, path, self.cancelled.clone(), async move |api, response| {
                        read(&api, response, &selected, &events).await
                    }));
            }
            Archive::NotBegun | Archive::Closed => return Err(closed()),
        }
        Ok(archive)
    }

    /// Compares what names resolve to with what is expected. dockerd keeps no roots: the only one that it can be asked for
    /// is that of this image, by the image's id.
    async fn check_names(&self, preconditions: &[Precondition]) -> Result<(), EngineError> {
        for precondition in preconditions {
            let current = self.docker.image(&precondition.name.to_string()).await?;
            let is_this = current.as_ref() == Some(&self.selected.config.descriptor.digest);
            precondition.check(if is_this { Some(&self.selected.root) } else { current.as_ref() })?;
        }
        Ok(())
    }

    /// That dockerd did what was requested: it reports of a name that it loaded it even where it refused to tag it (moby
    /// `tarexport/load.go`, `setLoadedTag`). A name that points to another image by now was moved by another client.
    async fn check(&self, notes: &[String], id: &Digest, names: &[Reference]) -> Result<(), EngineError> {
        check_loaded(notes, names, id.as_str()).map_err(refused)?;
        let full: Vec<_> = names.iter().map(ToString::to_string).collect();
        let found = try_join_all(full.iter().map(|name| self.docker.image(name))).await?;
        match names.iter().zip(found).find(|(_, found)| found.is_none()) {
            Some((name, _)) => Err(refused(format!("it did not give the image the name `{}`", name.familiar()))),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ImageTransaction for ClassicTransaction {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn writer(&self, blob: &Descriptor) -> Result<Opened, EngineError> {
        let archive = self.turn().await?;
        let writer = Writer { archive, blob: blob.clone(), left: blob.size, complete: false };
        writer.upload()?.send(tar::member(&place(&blob.digest), blob.size)).await?;
        Ok(Opened::Writer(Box::new(writer)))
    }

    /// dockerd verifies and unpacks everything after the commit has begun, and before it makes an image of it.
    async fn prepare(&self) -> Result<&dyn PreparedImage, EngineError> {
        Ok(self)
    }

    async fn cancel(&self) {
        // A writer fails at its next piece.
        self.cancelled.cancel();
    }
}

#[async_trait]
impl PreparedImage for ClassicTransaction {
    async fn commit(&self, names: &[Reference], preconditions: &[Precondition]) -> Result<(), EngineError> {
        let selected = &self.selected;
        let id = &selected.config.descriptor.digest;
        if let Some(name) = names.iter().find(|name| name.tag().is_none() || name.digest().is_some()) {
            let reason = format!("`{}` cannot be a name there: expected a tag, and no digest", name.familiar());
            return Err(refused(reason));
        }
        self.check_names(preconditions).await?;
        let nothing_sent = matches!(*self.archive.lock().await, Archive::NotBegun);
        if self.is_there && nothing_sent && self.docker.resolves_to(id, names).await? {
            return Ok(());
        }
        let mut archive = self.turn().await?;
        let Archive::Open(upload) = std::mem::replace(&mut *archive, Archive::Closed) else {
            return Err(closed());
        };
        let sent = async {
            upload.file(&place(id), selected.config.bytes.clone()).await?;
            upload.file(MANIFEST, manifest(selected, names)?).await?;
            upload.finish().await
        };
        match sent.await {
            Ok(notes) => self.check(&notes, id, names).await,
            Err(EngineError::Vanished { digests }) => {
                let at = selected.layers.iter().position(|layer| digests.contains(&layer.blob.digest));
                let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
                attempts.gone = at.into_iter().chain(attempts.gone).min();
                Err(EngineError::Vanished { digests })
            }
            Err(error) => Err(error),
        }
    }
}

/// A file of the archive. Dropping it before its end breaks the whole archive off.
#[derive(Debug)]
struct Writer {
    archive: OwnedMutexGuard<Archive>,
    blob: Descriptor,
    /// Bytes that are still to come.
    left: u64,
    complete: bool,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.complete {
            *self.archive = Archive::Closed;
        }
    }
}

impl Writer {
    fn upload(&self) -> Result<&Upload, EngineError> {
        match &*self.archive {
            Archive::Open(upload) => Ok(upload),
            Archive::NotBegun | Archive::Closed => Err(closed()),
        }
    }

    fn corrupt(&self, what: &str) -> EngineError {
        let (digest, size) = (self.blob.digest.clone(), self.blob.size);
        EngineError::Corrupt { digest, reason: format!("it has {what} than the {size} bytes that were announced") }
    }
}

#[async_trait]
impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| self.corrupt("more"))?;
            self.upload()?.send(bytes).await
        })
    }

    /// dockerd verifies the digest of what is in the layer when it unpacks it, so it is not done here.
    async fn commit(mut self: Box<Self>) -> Result<(), EngineError> {
        if self.left > 0 {
            return Err(self.corrupt("less"));
        }
        self.upload()?.pad(self.blob.size).await?;
        self.complete = true;
        Ok(())
    }
}

fn manifest(selected: &SelectedImage, names: &[Reference]) -> Result<Bytes, EngineError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Item {
        config: String,
        repo_tags: Vec<String>,
        layers: Vec<String>,
    }
    let item = Item {
        config: place(&selected.config.descriptor.digest),
        repo_tags: names.iter().map(ToString::to_string).collect(),
        layers: selected.layers.iter().map(|layer| place(&layer.blob.digest)).collect(),
    };
    Ok(serde_json::to_vec(&[item]).map_err(|error| broken(error.to_string()))?.into())
}

fn refused(reason: String) -> EngineError {
    EngineError::Commit { engine: "docker", reason }
}

fn closed() -> EngineError {
    broken("the archive broke off".to_owned())
}
