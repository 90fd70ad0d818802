//! How `load` and `copy` report an image that was transferred.

use serde_json::json;

use super::progress::{ProgressMode, summary};
use super::{CommandError, output};
use crate::export::Outcome;
use crate::image::{Descriptor, Reference};

/// An image that was transferred.
pub(super) struct Transfer<'a> {
    /// `Loaded` or `Copied`.
    pub(super) verb: &'static str,
    pub(super) root: &'a Descriptor,
    pub(super) names: &'a [Reference],
    pub(super) outcome: Outcome,
    /// How many layers were unpacked.
    pub(super) unpacked: usize,
}

impl Transfer<'_> {
    /// Prints it as a JSON object, or as a line for each name and a summary.
    pub(super) fn report(self, json: bool, mode: ProgressMode) -> Result<(), CommandError> {
        let Self { verb, root, names, outcome, unpacked } = self;
        if json {
            let Outcome { sent_blobs, sent_bytes, present_blobs } = outcome;
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            return output::print(
                &json!({
                    "names": names, "digest": root.digest, "mediaType": root.media_type,
                    "sentBlobs": sent_blobs, "sentBytes": sent_bytes, "presentBlobs": present_blobs,
                })
                .to_string(),
            );
        }
        if names.is_empty() {
            output::print(&format!("{verb} image ID: {}", root.digest))?;
        }
        for name in names {
            output::print(&format!("{verb} image: {}", name.familiar()))?;
        }
        if mode != ProgressMode::Quiet {
            output::note(&summary(outcome, unpacked));
        }
        Ok(())
    }
}
