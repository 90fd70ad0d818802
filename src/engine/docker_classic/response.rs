//! The response of dockerd to a load, line by line.

use http::Response;
use hyper::body::Incoming;

use super::load::place;
use super::selected::{Layer, SelectedImage};
use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::engine::docker::{Line, read_lines};
use crate::image::Digest;
use crate::progress::{Event, Events};

/// How many lines for people are kept: one for each name, and as many again about those that they had.
const NOTES: usize = 4096;
/// What a line is about that counts the bytes of a layer.
const LOADING: &str = "Loading layer";

/// Reads the whole response, reports to `events` what happens, and returns the lines for people.
///
/// # Errors
/// With the error of dockerd, which may be in any line.
pub(super) async fn read(
    api: &Api,
    response: Response<Incoming>,
    selected: &SelectedImage,
    events: &Events,
) -> Result<Vec<String>, EngineError> {
    let mut reader = Reader { selected, events, loading: None, notes: Vec::new() };
    read_lines(api, response, |line| reader.line(line)).await?;
    reader.unpacked();
    Ok(reader.notes)
}

struct Reader<'a> {
    selected: &'a SelectedImage,
    events: &'a Events,
    /// The layer that is being unpacked.
    loading: Option<&'a Layer>,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn line(&mut self, line: Result<Line, &str>) -> Result<(), EngineError> {
        let line = line.map_err(|message| explain(message, self.selected, self.loading))?;
        if line.status.as_deref() == Some(LOADING) {
            self.loading(line.id.as_deref().unwrap_or_default());
        }
        if let Some(text) = line.stream {
            self.unpacked();
            self.events.emit(Event::Note(text.trim_end().to_owned()));
            if self.notes.len() < NOTES {
                self.notes.push(text.trim_end().to_owned());
            }
        }
        Ok(())
    }

    /// The layer whose diff id begins like this is being unpacked; the one before it is complete.
    fn loading(&mut self, diff_id: &str) {
        let now = self.selected.by_diff_id(diff_id);
        let digest = |layer: Option<&Layer>| layer.map(|layer| layer.blob.digest.clone());
        if digest(now) == digest(self.loading) {
            return;
        }
        self.unpacked();
        self.loading = now;
        if let Some(digest) = digest(now) {
            self.events.emit(Event::Unpacking { digest });
        }
    }

    fn unpacked(&mut self) {
        if let Some(layer) = self.loading.take() {
            self.events.emit(Event::Unpacked { digest: layer.blob.digest.clone() });
        }
    }
}

/// What a refusal means. `loading` is the layer that dockerd spoke of last.
fn explain(message: &str, selected: &SelectedImage, loading: Option<&Layer>) -> EngineError {
    if EngineError::is_no_space(message) {
        let operation = "loading the image into docker".to_owned();
        return EngineError::NoSpace { operation, message: message.to_owned() };
    }
    // A layer's file was opened, so its chain is not there any more; and it is none that was sent
    // (moby `tarexport/load.go`, `loadLayer`).
    if message.contains("no such file or directory")
        && let Some(layer) = selected.layers.iter().find(|layer| message.contains(&place(&layer.blob.digest)))
    {
        return EngineError::Vanished { digests: vec![layer.blob.digest.clone()] };
    }
    if let Some(layer) = message.strip_prefix("invalid diffID for layer ").and_then(|rest| nth(rest, selected)) {
        return EngineError::Corrupt { digest: layer.clone(), reason: message.to_owned() };
    }
    match loading {
        Some(layer) => EngineError::Unpack { layer: layer.blob.digest.clone(), reason: message.to_owned() },
        None => EngineError::Commit { engine: "docker", reason: message.to_owned() },
    }
}

/// The layer at the place that `text` begins with.
fn nth<'a>(text: &str, selected: &'a SelectedImage) -> Option<&'a Digest> {
    let at: usize = text.split(':').next()?.parse().ok()?;
    selected.layers.get(at).map(|layer| &layer.blob.digest)
}

#[cfg(test)]
mod tests;
