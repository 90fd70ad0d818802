//! The lines of dockerd's response to a load (moby `api/types/jsonstream`).

use serde::Deserialize;

use crate::image::Reference;

/// What dockerd reports of a name that it has loaded (moby `daemon/containerd/image_exporter.go`, and
/// `daemon/internal/image/tarexport/load.go` for the classic store).
const LOADED: &str = "Loaded image: ";
/// What it reports of an image without a name.
const LOADED_ID: &str = "Loaded image ID: ";

/// One object of the response.
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
    /// The error that it reports; the status of the response was sent before the work began, so it means nothing.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.detail.as_ref().map(|detail| detail.message.as_str()).or(self.error.as_deref())
    }
}

/// Checks that dockerd reported of each name that it loaded it, and without names that it loaded an image by its id; `id` is
/// what messages call it then. A name that was not requested is never the result.
pub(crate) fn check_loaded(notes: &[String], names: &[Reference], id: &str) -> Result<(), String> {
    let not_loaded = |what: &str| format!("it did not say that it loaded {what}; it said: {}", notes.join("; "));
    // dockerd's short form does not always parse as the name that it points to (`docker.io/localhost/x`).
    let is = |name: &Reference, loaded: &str| loaded == name.familiar() || loaded.parse().as_ref() == Ok(name);
    let loaded = notes.iter().filter_map(|note| note.strip_prefix(LOADED));
    if let Some(other) = loaded.clone().find(|loaded| !names.iter().any(|name| is(name, loaded))) {
        return Err(format!("it gave the image the name `{other}`, which nobody asked for"));
    }
    if let Some(name) = names.iter().find(|name| !loaded.clone().any(|loaded| is(name, loaded))) {
        return Err(not_loaded(&name.familiar()));
    }
    if names.is_empty() && !notes.iter().any(|note| note.starts_with(LOADED_ID)) {
        return Err(not_loaded(id));
    }
    Ok(())
}
