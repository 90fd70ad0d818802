//! A store in memory of which each request is one turn, and whose times are those of the model.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The time of one machine, in milliseconds ahead of the real one: that of the store, and how far it is off.
#[derive(Debug, Clone)]
pub(in super::super) struct Time {
    store: Arc<AtomicI64>,
    skew: i64,
}

fn ahead(time: SystemTime, milliseconds: i64) -> SystemTime {
    let by = Duration::from_millis(milliseconds.unsigned_abs());
    if milliseconds < 0 { time - by } else { time + by }
}

impl Time {
    pub(in super::super) fn now(&self) -> SystemTime {
        ahead(SystemTime::now(), self.store.load(Ordering::Relaxed) + self.skew)
    }

    /// Time goes on for all.
    pub(in super::super) async fn pause(&self, duration: Duration) {
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
pub(super) struct Stepped {
    inner: Arc<InMemory>,
    /// Its time, in milliseconds ahead of the real one.
    time: Arc<AtomicI64>,
    /// What was written when, in milliseconds ahead.
    written: Arc<Mutex<HashMap<Path, SystemTime>>>,
}

impl fmt::Display for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stepped")
    }
}

impl Stepped {
    /// The requests to `inner`.
    pub(super) fn over(inner: Arc<InMemory>) -> Self {
        Self { inner, time: Arc::default(), written: Arc::default() }
    }

    /// The time of a machine whose clock is `skew` milliseconds ahead of the store's.
    pub(super) fn time_of(&self, skew: i64) -> Time {
        Time { store: self.time.clone(), skew }
    }

    /// Time goes on for all.
    pub(super) fn pass(&self, milliseconds: i64) {
        self.time.fetch_add(milliseconds, Ordering::Relaxed);
    }

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
        let now = ahead(SystemTime::now(), self.time.load(Ordering::Relaxed));
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
