//! The running builds whose image we export: the state that their calls share.
//!
//! `Solve`, `Status` and the gateway calls of one build arrive independently, perhaps on different
//! connections; only the build's id ties them together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bollard_buildkit_proto::moby::buildkit::v1::frontend::SolveRequest;
use bytes::Bytes;
use prost::Message as _;

use super::cache::CacheBuild;
use super::slow::LayersExport;
use super::solve::NO_CACHE;
use super::status_frames::StatusFrames;

/// The limit of what is recorded of one build's gateway calls. Frontend requests are a few KiB.
const MAX_RECORDING_BYTES: usize = 32 << 20;

/// The builds of one builder.
#[derive(Debug, Default)]
pub(super) struct Builds(Mutex<HashMap<String, Weak<Build>>>);

/// One build.
#[derive(Debug)]
pub(super) struct Build {
    /// What its client is shown.
    pub(super) frames: Arc<StatusFrames>,
    recording: Mutex<Recording>,
    /// The caches that it reads and writes, while it runs.
    cache: Mutex<Weak<CacheBuild>>,
    /// When its layers were made.
    layers: Mutex<LayersExport>,
}

/// The gateway calls that made the build's result, so that the build can be repeated.
#[derive(Debug, Clone, Default)]
pub(super) struct Recording {
    /// `LLBBridge.Solve`: requests and responses, in order.
    pub(super) solves: Vec<(Bytes, Bytes)>,
    /// `LLBBridge.Return`.
    pub(super) result: Option<Bytes>,
    /// Whether a message was too large to record.
    pub(super) incomplete: bool,
    bytes: usize,
}

impl Recording {
    /// Whether a repetition would run steps again, because the client disabled the cache for them.
    pub(super) fn is_uncached(&self) -> bool {
        let requests = self.solves.iter().filter_map(|(request, _)| SolveRequest::decode(&**request).ok());
        requests.into_iter().any(|request| request.frontend_opt.contains_key(NO_CACHE))
    }
}

impl Builds {
    /// The build called `id`, which is kept while a reference to it exists.
    pub(super) fn get(&self, id: &str) -> Arc<Build> {
        let mut builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(build) = builds.get(id).and_then(Weak::upgrade) {
            return build;
        }
        builds.retain(|_, build| build.strong_count() > 0);
        let build = Arc::new(Build {
            frames: Arc::new(StatusFrames::new(id)),
            recording: Mutex::default(),
            cache: Mutex::default(),
            layers: Mutex::default(),
        });
        builds.insert(id.to_owned(), Arc::downgrade(&build));
        build
    }

    /// The build called `id`, if its image is ours to export.
    pub(super) fn tracked(&self, id: &str) -> Option<Arc<Build>> {
        let builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        builds.get(id).and_then(Weak::upgrade).filter(|build| build.frames.are_ours())
    }
}

impl Build {
    /// Marks the build as ours until the [`TrackedBuild`] is dropped.
    pub(super) fn track(self: &Arc<Self>) -> TrackedBuild {
        self.frames.track();
        TrackedBuild(self.clone())
    }

    /// The id that the client chose.
    pub(super) fn id(&self) -> &str {
        &self.frames.id
    }

    /// The caches of the build, if it has any of ours.
    pub(super) fn cache(&self) -> Option<Arc<CacheBuild>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Sets the caches of the build.
    pub(super) fn set_cache(&self, cache: &Arc<CacheBuild>) {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(cache);
    }

    /// Reads a frame of the builder's own progress.
    pub(super) fn read_progress(&self, frame: &[u8]) {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).read(frame);
    }

    /// When its layers were made, as far as the builder's progress has said it.
    pub(super) fn layers_export(&self) -> LayersExport {
        *self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a gateway call for a repetition.
    pub(super) fn record(&self, size: usize, keep: impl FnOnce(&mut Recording)) {
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        recording.bytes += size;
        if recording.bytes > MAX_RECORDING_BYTES {
            *recording = Recording { incomplete: true, bytes: recording.bytes, ..Recording::default() };
        } else {
            keep(&mut recording);
        }
    }

    /// The gateway calls so far.
    pub(super) fn recording(&self) -> Recording {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Holds a build's status stream open. Dropping it lets the stream end.
#[derive(Debug)]
pub(super) struct TrackedBuild(Arc<Build>);

impl Drop for TrackedBuild {
    fn drop(&mut self) {
        self.0.frames.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_status_stream_that_came_first_sees_everything_until_the_build_is_untracked() {
        let builds = Builds::default();
        let status = builds.get("a");
        let mut watch = status.frames.watch();
        let claim = builds.get("a").track();
        assert!(builds.tracked("a").is_some());
        status.frames.show(Bytes::from_static(b"1"));
        status.frames.show(Bytes::from_static(b"2"));
        assert_eq!(watch.next().await.unwrap().len(), 2);
        drop(claim);
        assert_eq!(watch.next().await, None);
    }

    #[tokio::test]
    async fn builds_that_are_not_ours_end_at_once_and_are_forgotten() {
        let builds = Builds::default();
        assert_eq!(builds.get("a").frames.watch().next().await, None);
        assert!(builds.tracked("a").is_none());
        drop(builds.get("b"));
        assert_eq!(builds.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_build_without_a_cache_is_known_by_its_frontends_options() {
        let recording = |options: &[(&str, &str)]| {
            let frontend_opt = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let request = SolveRequest { frontend_opt, ..SolveRequest::default() }.encode_to_vec();
            Recording { solves: vec![(request.into(), Bytes::new())], ..Recording::default() }
        };
        assert!(!recording(&[("target", "no-cache")]).is_uncached());
        assert!(recording(&[("no-cache", "")]).is_uncached());
        assert!(recording(&[("no-cache", "one,two")]).is_uncached());
    }

    #[test]
    fn a_recording_is_bounded() {
        let build = Builds::default().get("a");
        build.record(3, |recording| recording.result = Some(Bytes::from_static(b"abc")));
        assert!(build.recording().result.is_some());
        build.record(MAX_RECORDING_BYTES, |_| unreachable!());
        assert!(build.recording().incomplete && build.recording().result.is_none());
    }
}
