//! The engine's images that the builds of one session are made from.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OnceCell;

use super::super::progress::remark_now;
use super::super::status_frames::StatusFrames;
use super::STORE_PREFIX;
use super::context::EngineContext;
use super::engine_image::EngineImage;
use crate::caches::{CacheBlobs, CacheError, CacheReader};
use crate::engine::Origin;
use crate::export::unique_id;
use crate::export_v1::ApiError;
use crate::image::{Platform, Reference};
use crate::net::Principal;

/// How many images the builds of a session take from the engine; others stay with the registry.
const MAX_IMAGES: usize = 512;

/// `image.layerlimit` and `oci.layerlimit` (BuildKit `solver/pb/attr.go`).
const IMAGE_LIMIT: &str = "image.layerlimit";
const OCI_LIMIT: &str = "oci.layerlimit";
/// `oci.session` and `oci.store`.
const OCI_SESSION: &str = "oci.session";
const OCI_STORE: &str = "oci.store";

type Found = Arc<OnceCell<Option<EngineImage>>>;

/// The images, as long as builds of the session run.
#[derive(Debug)]
pub(in super::super) struct SessionImages {
    session: String,
    /// The id of the store in which the builder reads them.
    pub(super) store: String,
    context: Arc<EngineContext>,
    client: Principal,
    /// Whether the client has a policy that it is asked for.
    client_decides: AtomicBool,
    reader: Arc<CacheReader>,
    found: Mutex<HashMap<(Reference, String), Found>>,
    /// What the clients of the builds are shown.
    frames: Mutex<Vec<Weak<StatusFrames>>>,
}

impl SessionImages {
    pub(super) fn new(session: &str, context: &Arc<EngineContext>, client: &Principal) -> Self {
        Self {
            session: session.to_owned(),
            store: format!("{STORE_PREFIX}{}", unique_id()),
            context: context.clone(),
            client: client.clone(),
            client_decides: AtomicBool::new(false),
            reader: CacheReader::new(context.images.clone()),
            found: Mutex::default(),
            frames: Mutex::default(),
        }
    }

    /// Another build of the session, whose client has a policy of its own or not.
    pub(super) fn add(&self, frames: &Arc<StatusFrames>, client_decides: bool) {
        self.client_decides.fetch_or(client_decides, Ordering::Relaxed);
        let mut known = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|frames| frames.strong_count() > 0);
        known.push(Arc::downgrade(frames));
    }

    /// Whether the client is asked first.
    pub(super) fn client_decides(&self) -> bool {
        self.client_decides.load(Ordering::Relaxed)
    }

    /// The source that replaces the image `name`, with its attributes; `None` if the engine has it not, or it is not to be taken
    /// from there.
    pub(super) async fn source(
        &self,
        name: &Reference,
        platform: Option<&Platform>,
        attrs: &BTreeMap<String, String>,
    ) -> Option<(String, BTreeMap<String, String>)> {
        if !self.context.is_wanted(name, &self.client) {
            return None;
        }
        let host = Platform::host();
        let platform = platform.unwrap_or(&host).normalised();
        let found = self.known(name, &platform.to_string())?;
        let image = found.get_or_init(async || self.look_up(name, &platform).await).await.as_ref()?;
        let identifier = match name.digest() {
            Some(_) => format!("oci-layout://{name}"),
            None => format!("oci-layout://{name}@{}", image.root.digest),
        };
        let mut of_store = BTreeMap::from([
            (OCI_SESSION.to_owned(), self.session.clone()),
            (OCI_STORE.to_owned(), self.store.clone()),
        ]);
        of_store.extend(attrs.get(IMAGE_LIMIT).map(|limit| (OCI_LIMIT.to_owned(), limit.clone())));
        Some((identifier, of_store))
    }

    /// Where the result for a name is. A builder resolves a tag and then asks for it with its digest: that is the same image,
    /// whatever the tag names by then.
    fn known(&self, name: &Reference, platform: &str) -> Option<Found> {
        let mut found = self.found();
        if let Some(digest) = name.digest() {
            let is_it = |(known, of): &(Reference, String), image: &Found| {
                let root = image.get().and_then(|image| Some(&image.as_ref()?.root.digest));
                known.name() == name.name() && of == platform && root == Some(digest)
            };
            if let Some(image) = found.iter().find(|(key, image)| is_it(key, image)).map(|(_, image)| image.clone()) {
                return Some(image);
            }
        }
        let key = (name.clone(), platform.to_owned());
        if found.len() >= MAX_IMAGES && !found.contains_key(&key) {
            return None;
        }
        Some(found.entry(key).or_default().clone())
    }

    async fn look_up(&self, name: &Reference, platform: &Platform) -> Option<EngineImage> {
        let EngineContext { exports, images, builder, .. } = &*self.context;
        let (builder, principal) = (builder.clone(), self.client.clone());
        let origin = Origin { export: unique_id(), door: "buildkit", builder, principal };
        let engine = self.context.engine();
        match EngineImage::find(exports, images, &origin, name, platform).await {
            Ok(Some(image)) => {
                self.reader.add_blobs(&image.blobs);
                let digest = &image.root.digest;
                self.show(&format!("{} comes from {engine}: {digest}", name.familiar()));
                tracing::info!(%name, %platform, %digest, "a build takes an image from the engine");
                Some(image)
            }
            Ok(None) => {
                tracing::debug!(%name, %platform, "the engine does not have this image whole; a registry is asked");
                None
            }
            Err(reason) => {
                self.show(&format!("{} is not taken from {engine}: {reason}", name.familiar()));
                tracing::warn!(%name, %platform, %reason, "an image is not taken from the engine");
                None
            }
        }
    }

    /// What the builder reads in our store.
    pub(super) fn blobs(self: &Arc<Self>) -> Arc<ServedImages> {
        Arc::new(ServedImages(self.clone()))
    }

    fn show(&self, text: &str) {
        let known = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter_map(Weak::upgrade).for_each(|frames| remark_now(&frames, text));
    }

    fn found(&self) -> MutexGuard<'_, HashMap<(Reference, String), Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SessionImages {
    fn drop(&mut self) {
        let totals = self.reader.totals();
        if totals.bytes > 0 || !self.found().is_empty() {
            tracing::info!(blobs = totals.blobs, bytes = totals.bytes, "builds have read images of the engine");
        }
    }
}

/// The blobs of a session's images.
#[derive(Debug)]
pub(super) struct ServedImages(Arc<SessionImages>);

impl CacheBlobs for ServedImages {
    fn reader(&self) -> &Arc<CacheReader> {
        &self.0.reader
    }

    fn error(error: CacheError) -> ApiError {
        let hint = error.hint().unwrap_or_else(|| "build or load that image again".to_owned());
        let message = format!("linkspan: an image of the engine that this build is made from: {error}; hint: {hint}");
        ApiError { code: tonic::Code::Unknown, message, ..ApiError::from(error) }
    }
}
