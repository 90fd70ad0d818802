//! What `linkspan cache export` and `import` say of the parts that they copy, and of those that they leave out.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::super::{CommandError, output, show};
use super::access::LeftOut;
use super::named;
use crate::byte_size;
use crate::caches::{CacheError, CacheRef, Copied, CopySource, Dropped, Limit, MAX_PARTS};

/// How many parts have been copied.
#[derive(Debug, Default)]
pub(super) struct CopiedParts {
    complete: AtomicUsize,
    total: AtomicUsize,
}

impl CopiedParts {
    /// So many are to be copied.
    pub(super) fn begin(&self, total: usize) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// Another one is complete.
    pub(super) fn add(&self) {
        self.complete.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn complete(&self) -> usize {
        self.complete.load(Ordering::Relaxed)
    }

    /// That those which are complete stay.
    pub(super) fn stay(&self) -> String {
        let (complete, total) = (self.complete(), self.total.load(Ordering::Relaxed));
        let verb = if complete == 1 { "was copied, and stays" } else { "were copied, and stay" };
        format!("{complete} of {} {verb}", show::count(total, "part"))
    }
}

/// What a command says.
#[derive(Debug)]
pub(super) struct Report {
    is_json: bool,
    versions: Vec<Value>,
    left_out: Vec<Value>,
    dropped: Vec<Value>,
}

impl Report {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json, versions: Vec::new(), left_out: Vec::new(), dropped: Vec::new() }
    }

    /// Says that a part stays out of the copy.
    pub(super) fn leave_out(&mut self, LeftOut { version, error }: &LeftOut) {
        // The part is named already.
        let reason = match error {
            CacheError::Unusable { error, .. } => error.to_string(),
            error => error.to_string(),
        };
        let name = named(&version.reference, &version.title);
        output::note(&format!("linkspan: warning: {name} was left out: {reason}"));
        self.left_out.push(json!({
            "id": version.id, "ref": version.reference, "of": version.title, "reason": reason,
        }));
    }

    /// Says that a part was copied, and what went because of it.
    pub(super) fn add(
        &mut self,
        source: &CopySource,
        copied: &Copied,
        reference: &CacheRef,
    ) -> Result<(), CommandError> {
        let (version, missing) = (&source.version, source.absent.len());
        let replaced = copied.replaced.as_ref().map(|replaced| replaced.id.as_str());
        self.versions.push(json!({
            "id": copied.version.id, "ref": reference.as_str(), "of": version.title, "copied": copied.written,
            "layers": source.listed.layers.len(), "missingLayers": missing, "replaced": replaced,
        }));
        if !self.is_json {
            let (layers, written) =
                (show::count(source.listed.layers.len(), "layer"), byte_size::human(copied.written));
            let missing = if missing == 0 { String::new() } else { format!(", {missing} missing") };
            let name = named(reference.as_str(), &version.title);
            let instead = if replaced.is_some() { ", in place of what the ref had of this part" } else { "" };
            output::print(&format!("{name}: {layers}{missing}, {written} copied{instead}"))?;
        }
        copied.dropped.iter().for_each(|dropped| self.drop_version(dropped));
        Ok(())
    }

    fn drop_version(&mut self, Dropped { version, limit }: &Dropped) {
        let reason = match limit {
            Limit::Parts => {
                format!("a cache has at most {MAX_PARTS} parts, and this one was not used for longest")
            }
            Limit::Settings => "the limits on all caches were exceeded, and it was not used for longest".to_owned(),
        };
        let name = named(&version.reference, &version.title);
        output::note(&format!("linkspan: warning: {name} was deleted: {reason}"));
        self.dropped.push(json!({
            "id": version.id, "ref": version.reference, "of": version.title, "reason": reason,
        }));
    }

    /// Prints all of it as one document, with the tags by which BuildKit finds it.
    pub(super) fn print_json(self, tags: Option<&[(String, String)]>) -> Result<(), CommandError> {
        let Self { versions, left_out, dropped, .. } = self;
        let mut document = json!({"versions": versions, "leftOut": left_out, "dropped": dropped});
        if let Some(tags) = tags {
            document["tags"] = tags.iter().map(|(title, tag)| json!({"of": title, "tag": tag})).collect();
        }
        output::print(&document.to_string())
    }
}
