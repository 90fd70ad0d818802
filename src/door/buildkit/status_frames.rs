//! The status frames that a build's client gets from us, beside and after those of the builder.

use bytes::Bytes;
use tokio::sync::watch;

/// The frames of one build.
#[derive(Debug)]
pub(super) struct StatusFrames {
    /// The id of the build.
    pub(super) id: String,
    progress: watch::Sender<Progress>,
}

/// The progress frames for the client, in order.
#[derive(Debug, Default)]
struct Progress {
    /// Whether we export the build's image, so that its status stream is kept open for that.
    ours: bool,
    finished: bool,
    /// `StatusResponse` frames, which follow the builder's own.
    frames: Vec<Bytes>,
    /// Frames to be sent among the builder's own.
    live: Vec<Bytes>,
}

impl StatusFrames {
    /// Those of the build called `id`.
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), progress: watch::Sender::default() }
    }

    /// Whether the build's image is ours to export.
    pub(super) fn are_ours(&self) -> bool {
        self.progress.borrow().ours
    }

    /// The status stream is kept open from now on.
    pub(super) fn track(&self) {
        self.progress.send_modify(|progress| progress.ours = true);
    }

    /// The status stream may end.
    pub(super) fn finish(&self) {
        self.progress.send_modify(|progress| progress.finished = true);
    }

    /// Shows the client a `StatusResponse` frame.
    pub(super) fn show(&self, frame: Bytes) {
        self.progress.send_modify(|progress| progress.frames.push(frame));
    }

    /// Shows the client a `StatusResponse` frame among the builder's own.
    pub(super) fn show_now(&self, frame: Bytes) {
        self.progress.send_modify(|progress| progress.live.push(frame));
    }

    /// Subscribes to the frames.
    pub(super) fn watch(&self) -> Watch {
        Watch { progress: self.progress.subscribe(), seen: 0, seen_live: 0 }
    }
}

/// A reader of a build's frames.
#[derive(Debug)]
pub(super) struct Watch {
    progress: watch::Receiver<Progress>,
    seen: usize,
    seen_live: usize,
}

impl Watch {
    /// The next frames to be sent among the builder's own; pends forever if there are none.
    pub(super) async fn live(&mut self) -> Vec<Bytes> {
        let seen = self.seen_live;
        let progress = self.progress.wait_for(|progress| progress.live.len() > seen).await;
        let frames = progress.map(|progress| progress.live[seen..].to_vec());
        // The build was dropped: no frames can follow.
        let Ok(frames) = frames else { return std::future::pending().await };
        self.seen_live += frames.len();
        frames
    }

    /// The next frames of either kind; `None` when no more can follow, which for a build that is not ours is at once.
    pub(super) async fn next(&mut self) -> Option<Vec<Bytes>> {
        let (seen, seen_live) = (self.seen, self.seen_live);
        // An error means that the build was dropped: no frames can follow.
        let progress = self.progress.wait_for(|progress| {
            progress.live.len() > seen_live || progress.frames.len() > seen || progress.finished || !progress.ours
        });
        let progress = progress.await.ok()?;
        let live = progress.live.get(seen_live..).unwrap_or_default();
        let frames = [live, progress.frames.get(seen..).unwrap_or_default()].concat();
        (self.seen, self.seen_live) = (progress.frames.len(), progress.live.len());
        Some(frames).filter(|frames| !frames.is_empty())
    }
}
