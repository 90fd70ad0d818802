//! `dest`: an output that is left in a folder of the server.

use std::collections::HashMap;

use super::{Job, attribute};
use crate::export_v1::ApiError;
use crate::export_v1::proto::{Attribute, AttributeKind, Reason};
use crate::image::Digest;
use crate::output::folder::{FolderError, Folders, Stage};
use crate::output::items::Items;
use crate::progress::Event;
use crate::source::Chunks;

/// The attribute.
pub(super) const KEY: &str = "dest";

/// Its description.
pub(super) fn describe() -> Attribute {
    let documentation = "A path of the server to leave the output at, below a folder that its administrator allows; \
                         nothing that is there is replaced. Without it the output is read with ReadOutput.";
    attribute(KEY, AttributeKind::Text, "", documentation, &[])
}

/// Refuses a path that is not allowed, and what cannot do without one.
pub(super) fn check(
    exporter: &str,
    attributes: &HashMap<String, String>,
    folders: &Folders,
    wrong: &mut Vec<(String, String)>,
) -> Result<(), ApiError> {
    let Some(dest) = attributes.get(KEY) else {
        if attributes.get("tar").is_some_and(|tar| tar == "false") {
            let what = "a directory is left on the server only: `dest` must say where";
            wrong.push((format!("{exporter}.attributes[tar]"), what.to_owned()));
        }
        return Ok(());
    };
    match folders.dest(dest) {
        Ok(_) => {}
        Err(error @ FolderError::Path { .. }) => {
            wrong.push((format!("{exporter}.attributes[{KEY}]"), error.to_string()));
        }
        Err(error) => {
            let refusal = ApiError::from(error);
            let violations = vec![(format!("{exporter}.attributes[{KEY}]"), refusal.message.clone())];
            return Err(ApiError { violations, ..refusal });
        }
    }
    Ok(())
}

/// What is left.
pub(super) enum Left {
    /// A file.
    File(Chunks),
    /// A folder.
    Folder(Items),
}

/// Leaves an output of about `size` bytes at the path that the job names. The output of an earlier Commit of the same export stays as it is.
pub(super) async fn leave(job: &Job, dest: &str, size: u64, output: impl FnOnce() -> Left) -> Result<(), ApiError> {
    let dest = job.outputs.folders.dest(dest)?;
    let owner = owner(job);
    let blocked = |error: tokio::task::JoinError| {
        ApiError::new(tonic::Code::Internal, Reason::EngineRefused, format!("writing the output: {error}"))
    };
    let begin = owner.clone();
    let stage = tokio::task::spawn_blocking(move || Stage::new(dest, &begin)).await.map_err(blocked)??;
    let Some(stage) = stage else { return Ok(()) };
    stage.check_room(size)?;
    let stage = match output() {
        Left::File(chunks) => stage.write_file(chunks, &job.cancel).await?,
        Left::Folder(items) => {
            let (stage, left_out) = stage.write_folder(items, &job.cancel).await?;
            for sentence in left_out.sentences() {
                tracing::warn!(export = job.origin.export, exporter = job.id, "{sentence}");
                job.events.emit(Event::Note(sentence));
            }
            stage
        }
    };
    tokio::task::spawn_blocking(move || stage.commit(&owner)).await.map_err(blocked)??;
    Ok(())
}

/// Whose output it is and of what: the same export's with another type, other attributes, names or annotations is
/// another one.
fn owner(job: &Job) -> String {
    let names: Vec<_> = job.names.iter().map(ToString::to_string).collect();
    let annotations: std::collections::BTreeMap<_, _> = job.root.annotations.iter().collect();
    let what = serde_json::json!([job.kind, job.attributes, names, annotations, job.root.digest.to_string()]);
    format!("{}/{}/{}", job.origin.export, job.id, Digest::sha256(what.to_string().as_bytes()))
}
