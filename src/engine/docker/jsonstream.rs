//! The lines of dockerd's answer to a load (moby `api/types/jsonstream`).

use serde::Deserialize;

use crate::image::Reference;

/// What dockerd says of a name that it has loaded (moby `daemon/containerd/image_exporter.go`, and
/// `daemon/internal/image/tarexport/load.go` for the classic store).
const LOADED: &str = "Loaded image: ";
/// What it says of an image without a name.
const LOADED_ID: &str = "Loaded image ID: ";

/// One object of the answer.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Line {
    /// Words for people.
    #[serde(default)]
    pub(crate) stream: Option<String>,
    /// What is being done with the thing that `id` names.
    #[serde(default)]
    pub(crate) status: Option<String>,
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default, rename = "errorDetail")]
    detail: Option<Detail>,
}

#[derive(Debug, Deserialize)]
struct Detail {
    #[serde(default)]
    message: String,
}

impl Line {
    /// The error that it reports; the status of the answer was sent before the work began, so it means nothing.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.detail.as_ref().map(|detail| detail.message.as_str()).or(self.error.as_deref())
    }
}

/// Checks that dockerd said of each name that it loaded it, and without names that it loaded an image; `id` is what
/// messages call it then.
pub(crate) fn check_loaded(notes: &[String], names: &[Reference], id: &str) -> Result<(), String> {
    let said = |what: &str| format!("it did not say that it loaded {what}; it said: {}", notes.join("; "));
    let loaded = |name: &Reference| {
        notes.iter().filter_map(|note| note.strip_prefix(LOADED)).any(|loaded| loaded.parse().as_ref() == Ok(name))
    };
    if let Some(name) = names.iter().find(|name| !loaded(name)) {
        return Err(said(&name.familiar()));
    }
    if names.is_empty() && !notes.iter().any(|note| note.starts_with(LOADED_ID) || note.starts_with(LOADED)) {
        return Err(said(id));
    }
    Ok(())
}
