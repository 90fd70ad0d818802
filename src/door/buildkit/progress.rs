//! Shows an export in the client's own progress display, as a vertex of its build.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexStatus, VertexWarning};
use bytes::Bytes;
use prost::Message;

use super::grpc::frame;
use super::status_frames::StatusFrames;
use crate::byte_size;
use crate::export::Outcome;
use crate::image::Digest;
use crate::progress::{Event, Events};

/// How often the bytes of one blob are shown.
const INTERVAL: Duration = Duration::from_millis(100);

/// One export, shown as a vertex called `importing to <engine>`, as buildx itself names a load.
#[derive(Debug, Clone)]
pub(super) struct Display(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    frames: Arc<StatusFrames>,
    engine: &'static str,
    vertex: Vertex,
    placement: Placement,
    blobs: Mutex<HashMap<String, Blob>>,
    warned: AtomicBool,
    ended: AtomicBool,
}

/// Where an export is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// Among the builder's own progress.
    Inline,
    /// After it.
    AfterBuild,
}

/// What was last shown of a blob.
#[derive(Debug)]
struct Blob {
    started: Timestamp,
    shown: Instant,
}

impl Display {
    /// Starts the vertex of the export with the given index.
    pub(super) fn start(frames: Arc<StatusFrames>, engine: &'static str, index: usize, placement: Placement) -> Self {
        let digest = Digest::sha256(format!("{}-linkspan-{index}", frames.id).as_bytes()).to_string();
        let name = format!("importing to {engine}");
        let vertex = Vertex { digest, name, started: Some(now()), ..Vertex::default() };
        let display = Self::new(frames, engine, vertex, placement);
        display.0.show(vec![display.0.vertex.clone()], Vec::new());
        display
    }

    /// Shows an export in a vertex of the builder's own, while that runs.
    pub(super) fn beside(frames: Arc<StatusFrames>, engine: &'static str, digest: String) -> Self {
        Self::new(frames, engine, Vertex { digest, ..Vertex::default() }, Placement::Inline)
    }

    fn new(frames: Arc<StatusFrames>, engine: &'static str, vertex: Vertex, placement: Placement) -> Self {
        let (blobs, warned, ended) = Default::default();
        Self(Arc::new(Inner { frames, engine, vertex, placement, blobs, warned, ended }))
    }

    /// The receiver of the export's events.
    pub(super) fn events(&self) -> Events {
        let inner = self.0.clone();
        Events::new(move |event| inner.event(event))
    }

    /// Shows a separate line.
    pub(super) fn note(&self, text: &str) {
        self.0.line(text);
    }

    /// Shows a warning, which clients repeat when a build has ended.
    pub(super) fn warn(&self, text: &str) {
        if !self.0.warned.swap(true, Ordering::Relaxed) {
            let vertex = self.0.vertex.digest.clone();
            let warning = VertexWarning { vertex, level: 1, short: text.into(), ..VertexWarning::default() };
            let response = StatusResponse { warnings: vec![warning], ..StatusResponse::default() };
            self.0.send(&response);
        }
    }

    /// Ends the vertex with the outcome, and the lines of a remark on it. A vertex that has ended is not changed.
    pub(super) fn succeed(&self, outcome: &Outcome, remark: &[String]) {
        if self.0.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        self.0.line(&summary(outcome, self.0.engine));
        for line in remark {
            self.0.line(line);
        }
        self.0.show(vec![Vertex { completed: Some(now()), ..self.0.vertex.clone() }], Vec::new());
    }

    /// Ends the vertex with an error.
    pub(super) fn fail(&self, error: &str) {
        if self.0.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let vertex = Vertex { completed: Some(now()), error: error.to_owned(), ..self.0.vertex.clone() };
        self.0.show(vec![vertex], Vec::new());
    }
}

/// Shows one line of ours in the display of a build that is not ours, after the builder's own.
pub(super) fn remark(frames: &StatusFrames, text: &str) {
    frames.show(remark_frame(frames, text));
}

/// The same among the builder's own.
pub(super) fn remark_now(frames: &StatusFrames, text: &str) {
    frames.show_now(remark_frame(frames, text));
}

fn remark_frame(frames: &StatusFrames, text: &str) -> Bytes {
    let digest = Digest::sha256(format!("{}-linkspan-{text}", frames.id).as_bytes()).to_string();
    let at = Some(now());
    let vertex = Vertex { digest, name: format!("linkspan: {text}"), started: at, completed: at, ..Vertex::default() };
    let response = StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() };
    frame(&response.encode_to_vec())
}

impl Inner {
    fn event(&self, event: &Event) {
        match event {
            Event::Sent { digest, current, total } => self.blob(digest.to_string(), *current, *total, false),
            Event::Stored { digest } => self.blob(digest.to_string(), 0, 0, true),
            Event::Unpacking { digest } => self.blob(format!("extracting {digest}"), 0, 0, false),
            Event::Unpacked { digest } => self.blob(format!("extracting {digest}"), 0, 0, true),
            Event::Note(text) | Event::NotUnpacked { reason: text } => self.line(text),
            Event::Node { node, sent_blobs, sent_bytes, .. } => {
                let blobs = if *sent_blobs == 1 { "1 blob".to_owned() } else { format!("{sent_blobs} blobs") };
                self.line(&format!("{node}: {blobs}, {} sent", byte_size::in_line(*sent_bytes)));
            }
            Event::State(_) | Event::Planned { .. } | Event::Sending { .. } => {}
        }
    }

    /// Shows a step that takes a while, at most every [`INTERVAL`] and at its end.
    fn blob(&self, id: String, current: u64, total: u64, done: bool) {
        let started = {
            let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            match blobs.get_mut(&id) {
                // A blob that was not needed after all is stored without having been sent.
                None if done => return,
                Some(blob) if !done && blob.shown.elapsed() < INTERVAL => return,
                Some(blob) => {
                    blob.shown = Instant::now();
                    blob.started
                }
                None => {
                    let started = now();
                    blobs.insert(id.clone(), Blob { started, shown: Instant::now() });
                    started
                }
            }
        };
        let (current, total) = (clamp(current), clamp(total));
        let completed = done.then(now);
        self.status(VertexStatus { id, current, total, started: Some(started), completed, ..VertexStatus::default() });
    }

    fn line(&self, text: &str) {
        let at = Some(now());
        self.status(VertexStatus { id: text.to_owned(), started: at, completed: at, ..VertexStatus::default() });
    }

    fn status(&self, status: VertexStatus) {
        let vertex = self.vertex.digest.clone();
        self.show(Vec::new(), vec![VertexStatus { vertex, timestamp: Some(now()), ..status }]);
    }

    fn show(&self, vertexes: Vec<Vertex>, statuses: Vec<VertexStatus>) {
        let response = StatusResponse { vertexes, statuses, ..StatusResponse::default() };
        self.send(&response);
    }

    fn send(&self, response: &StatusResponse) {
        let frame = frame(&response.encode_to_vec());
        match self.placement {
            Placement::Inline => self.frames.show_now(frame),
            Placement::AfterBuild => self.frames.show(frame),
        }
    }
}

/// `2 blobs, 11.3kB sent; 18 already in docker`.
fn summary(outcome: &Outcome, engine: &str) -> String {
    let Outcome { sent_blobs, sent_bytes, present_blobs } = *outcome;
    let blobs = if sent_blobs == 1 { "1 blob".to_owned() } else { format!("{sent_blobs} blobs") };
    format!("{blobs}, {} sent; {present_blobs} already in {engine}", byte_size::in_line(sent_bytes))
}

fn now() -> Timestamp {
    let prost_types::Timestamp { seconds, nanos } = SystemTime::now().into();
    Timestamp { seconds, nanos }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_reports_what_moved() {
        let outcome = Outcome { sent_blobs: 2, sent_bytes: 11_300, present_blobs: 18 };
        assert_eq!(summary(&outcome, "docker"), "2 blobs, 11.3kB sent; 18 already in docker");
        let outcome = Outcome { sent_blobs: 1, sent_bytes: 999, present_blobs: 0 };
        assert_eq!(summary(&outcome, "containerd"), "1 blob, 999B sent; 0 already in containerd");
    }
}
