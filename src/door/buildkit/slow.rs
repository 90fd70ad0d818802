//! Finds the loads that spent most of their time in the builder's compression, for a remark on what would have saved it.
//!
//! A builder's progress has when it made the layers of an image (`exporting layers`, BuildKit `exporter/containerimage/writer.go`),
//! and its content store when each blob was written. gzip at BuildKit's level makes several megabytes a second; where fewer came
//! of that time, something else took it, and there is no remark.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::VertexStatus;
use prost::Message as _;

use super::builder::Builder;
use super::grpc::FRAME_HEADER;
use super::wire::fields;
use crate::build_outputs::SlowLoad;
use crate::image::Descriptor;
use crate::progress::{Event, Events};

/// `StatusResponse.statuses` and `VertexStatus.ID` (BuildKit `api/services/control/control.proto`).
const STATUSES: u32 = 2;
const ID: u32 = 1;

/// The id of the status.
const EXPORTING_LAYERS: &[u8] = b"exporting layers";

/// The shortest compression that is worth a remark.
const LEAST: Duration = Duration::from_secs(5);

/// The fewest compressed bytes a second.
const LEAST_RATE: u64 = 2_000_000;

/// How far the time of a blob may be outside of the export that made it: the content store's clock is coarser.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// How many layers are looked up, the largest first.
const MAX_LAYERS: usize = 16;

/// When the builder made the layers of a build's image, by its own clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LayersExport {
    started: Option<SystemTime>,
    completed: Option<SystemTime>,
}

impl LayersExport {
    /// Reads a frame of the builder's progress.
    pub(super) fn read(&mut self, frame: &[u8]) {
        let Some(message) = frame.get(FRAME_HEADER..).filter(|_| frame[0] == 0) else { return };
        for field in fields(message).map_while(Result::ok).filter(|field| field.number == STATUSES) {
            let id = fields(field.bytes).next().and_then(Result::ok);
            if !id.is_some_and(|id| id.number == ID && id.bytes == EXPORTING_LAYERS) {
                continue;
            }
            let Ok(status) = VertexStatus::decode(field.bytes) else { continue };
            self.started = self.started.or(time(status.started));
            self.completed = time(status.completed).or(self.completed);
        }
    }

    /// From when to when.
    fn span(self) -> Option<(SystemTime, SystemTime)> {
        self.started.zip(self.completed)
    }
}

fn time(stamp: Option<Timestamp>) -> Option<SystemTime> {
    let Timestamp { seconds, nanos } = stamp?;
    SystemTime::try_from(prost_types::Timestamp { seconds, nanos }).ok()
}

/// The layers that an export found missing in the engine.
#[derive(Debug, Clone, Default)]
pub(super) struct MissingLayers(Arc<Mutex<Vec<Descriptor>>>);

impl MissingLayers {
    /// `events`, which are listened to.
    pub(super) fn listening(&self, events: Events) -> Events {
        let layers = self.0.clone();
        events.and(move |event| {
            if let Event::Planned { missing, .. } = event {
                let gzip = missing.iter().filter(|blob| is_gzip(&blob.media_type)).cloned().collect();
                *layers.lock().unwrap_or_else(PoisonError::into_inner) = gzip;
            }
        })
    }

    fn largest(&self) -> Vec<Descriptor> {
        let mut layers = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        layers.truncate(MAX_LAYERS);
        layers
    }
}

fn is_gzip(media_type: &str) -> bool {
    media_type.ends_with("+gzip") || media_type.ends_with(".tar.gzip")
}

/// The load of a build of `builder` whose layers were made in `export` and that sent `layers`, if the compression was most of it.
/// It took `elapsed` from the end of the build on.
pub(super) async fn slow_load(
    builder: &Builder,
    export: LayersExport,
    layers: &MissingLayers,
    elapsed: Duration,
) -> Option<SlowLoad> {
    let span = export.span()?;
    let (compressing, load) = times(span, elapsed)?;
    let (from, to) = (span.0 - CLOCK_TOLERANCE, span.1 + CLOCK_TOLERANCE);
    let mut bytes = 0;
    for layer in layers.largest() {
        let made = builder.content().created(&layer.digest).await.ok().flatten();
        if made.is_some_and(|made| (from..=to).contains(&made)) {
            bytes += layer.size;
        }
    }
    if bytes < LEAST_RATE * compressing.as_secs() {
        return None;
    }
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (compressing_ms, load_ms) = (ms(compressing), ms(load));
    tracing::info!(builder = %builder.name, compressing_ms, load_ms, bytes, "most of a load was the builder's gzip");
    Some(SlowLoad { builder: builder.name.clone(), compressing_ms, load_ms, bytes })
}

/// How long the compression took, and all of the load; `None` if the compression was short, or not most of it.
fn times((started, completed): (SystemTime, SystemTime), elapsed: Duration) -> Option<(Duration, Duration)> {
    let compressing = completed.duration_since(started).ok()?;
    (compressing >= LEAST && compressing > elapsed).then(|| (compressing, compressing + elapsed))
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;

    use super::*;
    use crate::door::buildkit::grpc::frame;

    fn status(id: &str, started: Option<i64>, completed: Option<i64>) -> VertexStatus {
        let stamp = |seconds: Option<i64>| seconds.map(|seconds| Timestamp { seconds, nanos: 0 });
        VertexStatus {
            id: id.to_owned(),
            started: stamp(started),
            completed: stamp(completed),
            ..VertexStatus::default()
        }
    }

    #[test]
    fn the_time_of_the_layers_is_read_from_the_progress() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut layers = LayersExport::default();
        let mut read = |statuses| {
            layers.read(&frame(&StatusResponse { statuses, ..StatusResponse::default() }.encode_to_vec()));
            layers.span()
        };
        assert_eq!(
            read(vec![status("extracting x", Some(1), Some(2)), status("exporting layers", Some(3), None)]),
            None
        );
        assert_eq!(read(vec![status("exporting manifest x", Some(7), Some(9))]), None);
        assert_eq!(read(vec![status("exporting layers", Some(3), Some(10))]), Some((at(3), at(10))));
        for broken in [&b""[..], &frame(b"\x12\x7f")[..], &[0, 0, 0, 0, 9, 0x12]] {
            layers.read(broken);
        }
        assert_eq!(layers.span(), Some((at(3), at(10))));
    }

    #[test]
    fn only_most_of_a_long_load_is_worth_a_remark() {
        let second = Duration::from_secs;
        let judged = |compressing, elapsed| {
            times((SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + second(compressing)), second(elapsed))
        };
        assert_eq!(judged(20, 6), Some((second(20), second(26))));
        assert_eq!(judged(20, 20), None, "not more than half");
        assert_eq!(judged(4, 0), None, "too short");
        assert_eq!(times((SystemTime::now(), SystemTime::UNIX_EPOCH), second(0)), None, "a clock that was set back");
    }
}
