//! One export into a classic store.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use serde::Serialize;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::upload::{Upload, broken, place};
use super::wanted::Wanted;
use super::{Classic, Known};
use crate::engine::docker::{Info, check_loaded};
use crate::engine::{BlobWriter, Condition, EngineError, Ingest, Opened, Plan};
use crate::image::{Descriptor, Digest, Graph, Reference};
use crate::progress::Events;
use crate::tar;

/// What an archive is made into an image by.
const MANIFEST: &str = "manifest.json";
/// The first plan believes what the store says, the second nothing of what turned out to be gone, the third sends all.
const PLANS_THAT_BELIEVE: usize = 2;

/// An export, of which nothing is in dockerd but the files that it has received so far.
#[derive(Debug)]
pub(super) struct ClassicIngest {
    docker: Arc<Classic>,
    info: Info,
    events: Events,
    planned: Mutex<Planned>,
    /// Files come in parallel and an archive has one after the other: whoever holds this writes. It is taken before a
    /// blob is read, so what waits takes no memory; and who holds it waits for nobody but the blob's source and
    /// dockerd, not for another blob of this export or of another, so that it is always given back.
    archive: Arc<Turn<Archive>>,
    released: CancellationToken,
    /// What names must stand for when they are set.
    conditions: Mutex<Vec<Condition>>,
}

/// What the latest plan found.
#[derive(Debug, Default)]
struct Planned {
    wanted: Option<Arc<Wanted>>,
    /// Whether dockerd has this very image.
    is_there: bool,
    plans: usize,
    /// The lowest layer that was believed to be there and was not.
    gone: Option<usize>,
}

/// The archive that is being written.
#[derive(Debug)]
enum Archive {
    NotBegun,
    Open(Upload),
    /// A file broke off, or dockerd has it all.
    Closed,
}

impl ClassicIngest {
    pub(super) fn new(docker: Arc<Classic>, info: Info, events: Events) -> Self {
        Self {
            docker,
            info,
            events,
            planned: Mutex::default(),
            archive: Arc::new(Turn::new(Archive::NotBegun)),
            released: CancellationToken::new(),
            conditions: Mutex::default(),
        }
    }

    fn planned<T>(&self, work: impl FnOnce(&mut Planned) -> T) -> T {
        work(&mut self.planned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wanted(&self) -> Result<Arc<Wanted>, EngineError> {
        self.planned(|planned| planned.wanted.clone()).ok_or_else(|| broken("nothing was planned".to_owned()))
    }

    /// The turn to write, with the load begun.
    async fn turn(&self) -> Result<OwnedMutexGuard<Archive>, EngineError> {
        let mut archive = self.archive.clone().lock_owned().await;
        match *archive {
            Archive::Open(_) => {}
            Archive::NotBegun if !self.released.is_cancelled() => {
                let (docker, wanted) = (self.docker.clone(), self.wanted()?);
                let upload = Upload::start(docker, wanted, self.events.clone(), self.released.clone());
                *archive = Archive::Open(upload);
            }
            Archive::NotBegun | Archive::Closed => return Err(closed()),
        }
        Ok(archive)
    }

    async fn plan_image(&self, graph: &Graph) -> Result<Plan, EngineError> {
        let wanted = Arc::new(Wanted::of(graph, &self.info.server_version)?);
        let id = &wanted.config.descriptor.digest;
        let chains: Vec<_> = wanted.layers.iter().map(|layer| layer.chain.clone()).collect();
        let (plans, gone) = self.planned(|planned| (planned.plans, planned.gone));
        let known = async {
            if plans >= PLANS_THAT_BELIEVE {
                return Ok(Default::default());
            }
            self.docker.chains.known(&self.docker.api, &self.info, &chains).await
        };
        let name = id.to_string();
        let (known, image) = futures_util::try_join!(known, self.docker.image(&name))?;
        // dockerd needs all of the chain below a layer, too.
        let unbroken = chains.iter().take_while(|chain| known.contains(*chain)).count();
        let unbroken = unbroken.min(gone.unwrap_or(usize::MAX));
        let missing = wanted.missing(|at| at < unbroken)?;
        let is_there = image.as_ref() == Some(id);
        let mut plan = Plan { missing, ..Plan::default() };
        for blob in wanted.layers[..unbroken].iter().map(|layer| &layer.blob) {
            if !plan.missing.iter().chain(&plan.present).any(|counted| counted.digest == blob.digest) {
                plan.present.push(blob.clone());
            }
        }
        let config = wanted.config.descriptor.clone();
        if is_there {
            plan.present.push(config)
        } else {
            plan.stored.push(config)
        }
        let blobs = plan.present.len() + plan.missing.len() + plan.stored.len();
        self.docker.remember(&graph.root().digest, Known { id: id.clone(), blobs });
        *self.archive.lock().await = Archive::NotBegun;
        self.planned(|planned| {
            *planned = Planned { wanted: Some(wanted), is_there, plans: plans + 1, gone };
        });
        Ok(plan)
    }

    async fn commit_image(&self, names: &[Reference]) -> Result<(), EngineError> {
        let wanted = self.wanted()?;
        let id = &wanted.config.descriptor.digest;
        if let Some(name) = names.iter().find(|name| name.tag().is_none() || name.digest().is_some()) {
            let reason = format!("`{}` cannot be a name there: expected a tag, and no digest", name.familiar());
            return Err(refused(reason));
        }
        self.check_conditions(&wanted).await?;
        let is_there = self.planned(|planned| planned.is_there);
        let nothing_sent = matches!(*self.archive.lock().await, Archive::NotBegun);
        if is_there && nothing_sent && self.docker.stands(id, names).await? {
            return Ok(());
        }
        let mut archive = self.turn().await?;
        let Archive::Open(upload) = std::mem::replace(&mut *archive, Archive::Closed) else {
            return Err(closed());
        };
        let sent = async {
            upload.file(&place(id), wanted.config.bytes.clone()).await?;
            upload.file(MANIFEST, manifest(&wanted, names)?).await?;
            upload.finish().await
        };
        match sent.await {
            Ok(notes) => self.check(&notes, id, names).await,
            Err(EngineError::Vanished { digests }) => {
                let at = wanted.layers.iter().position(|layer| digests.contains(&layer.blob.digest));
                self.planned(|planned| planned.gone = at.into_iter().chain(planned.gone).min());
                Err(EngineError::Vanished { digests })
            }
            Err(error) => Err(error),
        }
    }

    /// That names stand for what they must. Roots are none of dockerd's: the only one that it can be asked for is that of
    /// this image, by the image's id.
    async fn check_conditions(&self, wanted: &Wanted) -> Result<(), EngineError> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for condition in conditions {
            let current = self.docker.image(&condition.name.to_string()).await?;
            let is_this = current.as_ref() == Some(&wanted.config.descriptor.digest);
            condition.check(if is_this { Some(&wanted.root) } else { current.as_ref() })?;
        }
        Ok(())
    }

    /// That dockerd did what it was asked: it says of a name that it loaded it even where it refused to tag it (moby
    /// `tarexport/load.go`, `setLoadedTag`). A name that stands for another image by now was moved by somebody else.
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

impl Ingest for ClassicIngest {
    fn plan<'a>(&'a self, graph: &'a Arc<Graph>) -> BoxFuture<'a, Result<Plan, EngineError>> {
        Box::pin(self.plan_image(graph))
    }

    fn require(&self, conditions: Vec<Condition>) {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).extend(conditions);
    }

    fn writer<'a>(&'a self, blob: &'a Descriptor) -> BoxFuture<'a, Result<Opened, EngineError>> {
        Box::pin(async move {
            let archive = self.turn().await?;
            let writer = Writer { archive, blob: blob.clone(), left: blob.size, complete: false };
            writer.upload()?.send(tar::member(&place(&blob.digest), blob.size)).await?;
            Ok(Opened::Writer(Box::new(writer)))
        })
    }

    /// dockerd verifies and unpacks everything after the commit has begun, and before it makes an image of it.
    fn settle(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }

    fn commit<'a>(&'a self, names: &'a [Reference]) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(self.commit_image(names))
    }

    fn release(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        // Whoever still writes learns of it with the next piece.
        self.released.cancel();
        Box::pin(async { Ok(()) })
    }
}

/// A file of the archive. Whoever drops it before its end breaks the whole archive off.
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

impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| self.corrupt("more"))?;
            self.upload()?.send(bytes).await
        })
    }

    /// dockerd verifies the digest of what is in the layer when it unpacks it, so it is not done here.
    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>> {
        Box::pin(async move {
            if self.left > 0 {
                return Err(self.corrupt("less"));
            }
            self.upload()?.pad(self.blob.size).await?;
            self.complete = true;
            Ok(())
        })
    }
}

fn manifest(wanted: &Wanted, names: &[Reference]) -> Result<Bytes, EngineError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Item {
        config: String,
        repo_tags: Vec<String>,
        layers: Vec<String>,
    }
    let item = Item {
        config: place(&wanted.config.descriptor.digest),
        repo_tags: names.iter().map(ToString::to_string).collect(),
        layers: wanted.layers.iter().map(|layer| place(&layer.blob.digest)).collect(),
    };
    Ok(serde_json::to_vec(&[item]).map_err(|error| broken(error.to_string()))?.into())
}

fn refused(reason: String) -> EngineError {
    EngineError::Commit { engine: "docker", reason }
}

fn closed() -> EngineError {
    broken("the archive broke off".to_owned())
}
