//! How `load` and `copy` report an image that was transferred.

use serde_json::json;

use super::progress::{NodeTally, ProgressMode, Tally, summary};
use super::{CommandError, output};
use crate::export::Outcome;
use crate::image::{Descriptor, Digest, Reference};

/// An image that was transferred.
pub(super) struct Transfer<'a> {
    /// `Loaded` or `Copied`.
    pub(super) verb: &'static str,
    pub(super) root: &'a Descriptor,
    /// What the engine calls the image: in docker's classic store its config's digest.
    pub(super) id: Option<Digest>,
    pub(super) names: &'a [Reference],
    pub(super) outcome: Outcome,
    /// What was unpacked, and where.
    pub(super) tally: Tally,
}

impl Transfer<'_> {
    /// Prints it as a JSON object, or as a line for each name and a summary.
    pub(super) fn report(self, json: bool, mode: ProgressMode) -> Result<(), CommandError> {
        let Self { verb, root, id, names, outcome, tally } = self;
        let id = id.as_ref().unwrap_or(&root.digest);
        if json {
            let Outcome { sent_blobs, sent_bytes, present_blobs } = outcome;
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            let mut report = json!({
                "names": names, "digest": root.digest, "id": id, "mediaType": root.media_type,
                "sentBlobs": sent_blobs, "sentBytes": sent_bytes, "presentBlobs": present_blobs,
            });
            if !tally.nodes.is_empty() {
                report["nodes"] = tally.nodes.iter().map(node).collect();
            }
            return output::print(&report.to_string());
        }
        if names.is_empty() {
            output::print(&format!("{verb} image ID: {id}"))?;
        }
        for name in names {
            output::print(&format!("{verb} image: {}", name.familiar()))?;
        }
        if mode != ProgressMode::Quiet {
            let whole = summary(outcome, tally.unpacked);
            let of_nodes = "; what each node was sent of it:";
            output::note(&format!("{whole}{}", if tally.nodes.len() > 1 { of_nodes } else { "" }));
            for NodeTally { node, outcome, unpacked } in tally.nodes {
                output::note(&format!("{node}: {}", summary(outcome, unpacked)));
            }
        }
        Ok(())
    }
}

/// What a node was sent.
fn node(NodeTally { node, outcome, unpacked }: &NodeTally) -> serde_json::Value {
    let Outcome { sent_blobs, sent_bytes, present_blobs } = outcome;
    json!({
        "node": node, "sentBlobs": sent_blobs, "sentBytes": sent_bytes, "presentBlobs": present_blobs,
        "unpackedLayers": unpacked,
    })
}
