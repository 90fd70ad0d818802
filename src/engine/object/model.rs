//! Histories of writers, collectors, crashes and clocks over one bucket in memory: the code of the engine, whose every request
//! waits for its turn, so that a generated schedule orders the requests of all of them. After each request, every blob and
//! every link that a tag needs must be there.

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin as StdPin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use proptest::prelude::*;
use serde_json::json;

use super::bucket::Bucket;
use super::host::{Host, SKEW};
use super::keys::{self, Repository};
use super::lease::ObjectLease;
use super::stores::Stores;
use super::survey::key;
use super::*;
use crate::engine::Precondition;
use crate::engine::collect::Collection;
use crate::image::{Digest, Walk};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const TAGS: [&str; 3] = ["a/app:1", "b/app:1", "b/app:2"];
const MINUTE: i64 = 60_000;

/// The time of one machine, in milliseconds ahead of the real one: that of the store, and how far it is off.
#[derive(Debug, Clone)]
pub(super) struct Time {
    store: Arc<AtomicI64>,
    skew: i64,
}

fn ahead(time: SystemTime, milliseconds: i64) -> SystemTime {
    let by = Duration::from_millis(milliseconds.unsigned_abs());
    if milliseconds < 0 { time - by } else { time + by }
}

impl Time {
    pub(super) fn now(&self) -> SystemTime {
        ahead(SystemTime::now(), self.store.load(Ordering::Relaxed) + self.skew)
    }

    /// Time goes on for all.
    pub(super) async fn pause(&self, duration: Duration) {
        self.store.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::Relaxed);
        turn().await;
    }
}

/// Waits until it is this task's turn again.
async fn turn() {
    let mut is_first = true;
    poll_fn(|context| {
        context.waker().wake_by_ref();
        if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

/// A store in memory of which each request is one turn, and whose times are those of the model.
#[derive(Debug, Clone)]
struct Stepped {
    inner: Arc<InMemory>,
    store: Arc<AtomicI64>,
    /// What was written when, in milliseconds ahead.
    written: Arc<Mutex<std::collections::HashMap<Path, SystemTime>>>,
}

impl fmt::Display for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stepped")
    }
}

impl Stepped {
    fn dated(&self, meta: &mut ObjectMeta) {
        if let Some(time) = self.written.lock().unwrap().get(&meta.location) {
            meta.last_modified = (*time).into();
        }
    }
}

#[async_trait]
impl ObjectStore for Stepped {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        turn().await;
        let result = self.inner.put_opts(location, payload, options).await?;
        let now = ahead(SystemTime::now(), self.store.load(Ordering::Relaxed));
        self.written.lock().unwrap().insert(location.clone(), now);
        Ok(result)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(object_store::Error::NotImplemented { operation: "parts".to_owned(), implementer: "model".to_owned() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        turn().await;
        let mut found = self.inner.get_opts(location, options).await?;
        self.dated(&mut found.meta);
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = self.inner.clone();
        let locations = locations.then(async |location| {
            turn().await;
            location
        });
        inner.delete_stream(locations.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            turn().await;
            let mut found: Vec<_> = this.inner.list(prefix.as_ref()).try_collect().await?;
            found.iter_mut().for_each(|meta| this.dated(meta));
            Ok::<_, object_store::Error>(futures_util::stream::iter(found.into_iter().map(Ok)))
        };
        listed.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        turn().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        turn().await;
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for Stepped {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.inner.create_multipart(path).await
    }
    async fn put_part(&self, path: &Path, id: &MultipartId, at: usize, data: PutPayload) -> Result<PartId> {
        self.inner.put_part(path, id, at, data).await
    }
    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.inner.complete_multipart(path, id, parts).await
    }
    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.inner.abort_multipart(path, id).await
    }
}

/// An image of three layers, of which others have some as well.
fn made(number: usize) -> (Arc<Graph>, Vec<Bytes>) {
    let document = |media_type: &str, value: serde_json::Value| {
        let bytes = Bytes::from(value.to_string());
        (Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64), bytes)
    };
    let layers: Vec<_> = [number, number + 1, number + 2].map(|layer| Bytes::from(format!("layer {layer}"))).to_vec();
    let leaves: Vec<_> =
        layers.iter().map(|bytes| Descriptor::new(LAYER, Digest::sha256(bytes), bytes.len() as u64)).collect();
    let diff_ids: Vec<_> = leaves.iter().map(|leaf| &leaf.digest).collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let (config, config_bytes) = document(CONFIG, json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs}));
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": leaves});
    let (root, bytes) = document(MANIFEST, manifest);
    let mut walk = Walk::new(root.clone(), Limits::default()).unwrap();
    walk.supply(&root.digest, bytes).unwrap();
    walk.supply(&config.digest, config_bytes).unwrap();
    (Arc::new(walk.finish().unwrap()), layers)
}

const IMAGES: usize = 3;

fn image(number: usize) -> &'static (Arc<Graph>, Vec<Bytes>) {
    static MADE: LazyLock<Vec<(Arc<Graph>, Vec<Bytes>)>> = LazyLock::new(|| (0..IMAGES).map(made).collect());
    &MADE[number]
}

/// What one process does.
#[derive(Debug, Clone)]
enum Task {
    /// Exports an image as a tag.
    Export {
        image: usize,
        tag: usize,
    },
    /// Gives the image of a tag another one, and removes the first.
    Rename {
        from: usize,
        to: usize,
    },
    Remove {
        tag: usize,
    },
    Collect {
        grace: u64,
    },
}

async fn export(stores: Arc<Stores>, number: usize, image: usize, tag: &str) -> Result<(), EngineError> {
    let (graph, layers) = self::image(image);
    let lease = ObjectLease::open(&stores, &format!("export-{number}"), None).await?;
    let plan = lease.plan(graph).await?;
    for blob in &plan.missing {
        let bytes = layers.iter().find(|bytes| Digest::sha256(bytes) == blob.digest).unwrap();
        stores.blobs.store(vec![(blob.digest.clone(), bytes.clone())]).await?;
    }
    lease.pins.check_held().await?;
    stores.names.publish(graph, &BTreeSet::new(), &[tag.parse().unwrap()], &[] as &[Precondition]).await?;
    crate::engine::Lease::release(&lease).await
}

async fn rename(engine: ObjectEngine, from: &str, to: &str) -> Result<(), EngineError> {
    let Some(root) = engine.images()?.resolve(&from.parse().unwrap()).await? else { return Ok(()) };
    engine.tag(&root, &to.parse().unwrap()).await?;
    let record = Record { name: Some(from.to_owned()), target: root };
    if from == to { Ok(()) } else { engine.remove(&record, false).await }
}

async fn remove(engine: ObjectEngine, tag: &str) -> Result<(), EngineError> {
    let Some(root) = engine.images()?.resolve(&tag.parse().unwrap()).await? else { return Ok(()) };
    engine.remove(&Record { name: Some(tag.to_owned()), target: root }, false).await
}

struct World {
    stepped: Stepped,
    /// The same objects, without turns.
    objects: Bucket,
    started: usize,
}

type Running = StdPin<Box<dyn Future<Output = Result<(), EngineError>> + Send>>;

impl World {
    fn new() -> Self {
        let (inner, store) = (Arc::new(InMemory::new()), Arc::new(AtomicI64::new(0)));
        let objects = Bucket::new(inner.clone(), "s3://model", "");
        Self { stepped: Stepped { inner, store, written: Arc::default() }, objects, started: 0 }
    }

    fn start(&mut self, task: &Task, skew: i64) -> Running {
        self.started += 1;
        let number = self.started;
        let mut bucket = Bucket::new(Arc::new(self.stepped.clone()), "s3://model", "");
        let time = Time { store: self.stepped.store.clone(), skew };
        // Of another boot, so that only times tell whether it lives.
        bucket.host = Host::model(&format!("machine-{number}/pid:[1]/1/1"), time);
        let engine = ObjectEngine::new(&bucket);
        match task.clone() {
            Task::Export { image, tag } => export(engine.stores.clone(), number, image, TAGS[tag]).boxed(),
            Task::Rename { from, to } => rename(engine, TAGS[from], TAGS[to]).boxed(),
            Task::Remove { tag } => remove(engine, TAGS[tag]).boxed(),
            Task::Collect { grace } => Box::pin(async move {
                let wanted = Collection {
                    grace: Duration::from_secs(grace),
                    wait: Duration::from_secs(30),
                    is_dry: false,
                    deleted: &|_, _| {},
                };
                engine.collect(&wanted).await.map(drop)
            }),
        }
    }

    fn pass(&self, milliseconds: i64) {
        self.stepped.store.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// The blobs that tags need, of which all must be there, with their links.
    fn check(&self, history: &str) -> BTreeSet<Digest> {
        let now = |future: BoxFuture<'_, bool>| future.now_or_never().unwrap();
        let exists = |key: String| now(async move { self.objects.size(&key).await.unwrap().is_some() }.boxed());
        let mut needed = BTreeSet::new();
        for tag in TAGS {
            let name: Reference = tag.parse().unwrap();
            let repository = Repository::of(&name).unwrap();
            let current = repository.current(name.tag().unwrap());
            let Some(found) = self.objects.get(&current, 1024).now_or_never().unwrap().unwrap() else { continue };
            let root: Digest = std::str::from_utf8(&found.bytes).unwrap().parse().unwrap();
            let (graph, _) = (0..IMAGES).map(image).find(|(graph, _)| graph.root().digest == root).unwrap();
            for blob in graph.descriptors() {
                assert!(exists(keys::blob(&blob.digest)), "{tag} lacks {}\n{history}", blob.digest);
                let link =
                    if blob.digest == root { repository.revision(&root) } else { repository.layer(&blob.digest) };
                assert!(exists(link.clone()), "{tag} lacks the link {link}\n{history}");
                needed.insert(blob.digest.clone());
            }
        }
        needed
    }

    fn below(&self, folder: &str) -> Vec<String> {
        let listed = self.objects.list(folder, 1000).now_or_never().unwrap().unwrap();
        listed.into_iter().map(|(key, _)| key).collect()
    }
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Event {
    Start(Task, i64),
    /// The next requests of one of those that run.
    Step(usize, usize),
    Crash(usize),
    Minutes(i64),
}

fn task() -> impl Strategy<Value = Task> {
    prop_oneof![
        4 => (0..IMAGES, 0..TAGS.len()).prop_map(|(image, tag)| Task::Export { image, tag }),
        1 => (0..TAGS.len(), 0..TAGS.len()).prop_map(|(from, to)| Task::Rename { from, to }),
        2 => (0..TAGS.len()).prop_map(|tag| Task::Remove { tag }),
        4 => prop_oneof![Just(0), Just(600)].prop_map(|grace| Task::Collect { grace }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let half = i64::try_from(SKEW.as_millis()).unwrap() / 2;
    prop_oneof![
        3 => (task(), -half..half).prop_map(|(task, skew)| Event::Start(task, skew)),
        16 => (0..8usize, 1..12usize).prop_map(|(which, steps)| Event::Step(which, steps)),
        1 => (0..8usize).prop_map(Event::Crash),
        1 => (1..6i64).prop_map(Event::Minutes),
    ]
}

/// Runs all that run until they have ended, a request of each in turn.
fn finish(world: &World, running: &mut Vec<Running>, context: &mut Context<'_>, history: &str) {
    for _ in 0..100_000 {
        running.retain_mut(|task| task.as_mut().poll(context).is_pending());
        world.check(history);
        if running.is_empty() {
            return;
        }
    }
    panic!("a task does not end\n{history}");
}

fn play(epochs: &[Vec<Event>]) {
    let (mut world, mut context) = (World::new(), Context::from_waker(Waker::noop()));
    let history = format!("{epochs:#?}");
    for events in epochs {
        let mut running: Vec<Running> = Vec::new();
        for event in events {
            match event {
                Event::Start(task, skew) if running.len() < 4 => running.push(world.start(task, *skew)),
                Event::Start(..) => {}
                Event::Minutes(minutes) => world.pass(minutes * MINUTE),
                Event::Crash(which) if !running.is_empty() => drop(running.remove(which % running.len())),
                Event::Crash(_) => {}
                Event::Step(which, steps) => {
                    for _ in 0..*steps {
                        let count = running.len();
                        let Some(task) = running.get_mut(which % count.max(1)) else { break };
                        let is_over = task.as_mut().poll(&mut context).is_ready();
                        world.check(&history);
                        if is_over {
                            drop(running.remove(which % count));
                            break;
                        }
                    }
                }
            }
        }
        finish(&world, &mut running, &mut context, &history);
        // Leases and collections of those that crashed are over.
        world.pass(30 * 60 * MINUTE);
    }
    let mut last = vec![world.start(&Task::Collect { grace: 0 }, 0)];
    finish(&world, &mut last, &mut context, &history);
    let needed: BTreeSet<_> = world.check(&history).iter().map(key).collect();
    let left = world.below(keys::BLOBS).iter().map(|path| key(&keys::digest_of_blob(path).unwrap())).collect();
    assert_eq!(needed, left, "garbage stays, or what is needed went\n{history}");
    assert_eq!((world.below(keys::CONDEMNED), world.below(keys::LEASES)), (vec![], vec![]), "{history}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_tag_needs_is_never_deleted(epochs in prop::collection::vec(prop::collection::vec(event(), 20..80), 1..4)) {
        play(&epochs);
    }
}

/// A collector that is stopped after each of its requests in turn, while a writer exports what it collects.
#[test]
fn a_collector_that_crashes_anywhere_harms_nobody_and_is_finished() {
    for at in 1..200 {
        let first = vec![Event::Start(Task::Export { image: 0, tag: 0 }, 0), Event::Step(0, 500)];
        let gone = vec![Event::Start(Task::Remove { tag: 0 }, 0), Event::Step(0, 500)];
        let crash = vec![
            Event::Start(Task::Collect { grace: 0 }, 0),
            Event::Start(Task::Export { image: 1, tag: 1 }, 0),
            Event::Step(0, at),
            Event::Step(1, 7),
            Event::Crash(0),
        ];
        play(&[first, gone, crash]);
    }
}

/// What loses its tag stays for the grace, however old it is: somebody may be reading it.
#[test]
fn what_loses_its_tag_stays_for_the_grace() {
    let day = 24 * 60 * MINUTE;
    for loss in [Task::Export { image: 2, tag: 0 }, Task::Remove { tag: 0 }] {
        let (mut world, mut context) = (World::new(), Context::from_waker(Waker::noop()));
        let mut run = |world: &mut World, task: &Task| {
            let mut running = vec![world.start(task, 0)];
            finish(world, &mut running, &mut context, "");
        };
        let collect = Task::Collect { grace: 24 * 3600 };
        run(&mut world, &Task::Export { image: 0, tag: 0 });
        let (graph, _) = image(0);
        let is_whole = |world: &World| {
            let exists = |digest| world.objects.size(&keys::blob(digest)).now_or_never().unwrap().unwrap().is_some();
            graph.descriptors().all(|blob| exists(&blob.digest))
        };
        world.pass(3 * day);
        run(&mut world, &collect);
        run(&mut world, &loss);
        world.pass(day - 10 * MINUTE);
        run(&mut world, &collect);
        assert!(is_whole(&world), "{loss:?}");
        world.pass(day);
        run(&mut world, &collect);
        assert!(!is_whole(&world), "{loss:?}");
    }
}
