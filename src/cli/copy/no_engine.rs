//! Copying an image into an archive, or to a registry.

use std::sync::Arc;

use super::input::{CopyInput, From};
use super::location::ImageLocation;
use crate::cli::progress::{ProgressMode, Tally};
use crate::cli::read_leases::ReadLeases;
use crate::cli::report::Transfer;
use crate::cli::save::{self, SaveError, Sink};
use crate::cli::{CommandError, interruptible};
use crate::export::{Outcome, check_digests};
use crate::image::{Graph, Limits, Reference};
use crate::output::Output as _;
use crate::output::archive::{Archive, ArchiveFormat, Saved};
use crate::registry::{Pushed, Registry};
use crate::source::archive::ManifestFormat;
use crate::source::{OnMissing, read_graph};

/// A copy whose target is no engine.
pub(super) struct Copying<'a> {
    pub(super) find: From<'a>,
    pub(super) to: &'a ImageLocation,
    pub(super) mode: ProgressMode,
    pub(super) json: bool,
}

impl Copying<'_> {
    pub(super) async fn run(&self) -> Result<(), CommandError> {
        let format = match self.to {
            ImageLocation::Archive(ArchiveFormat::Save, ..) => ManifestFormat::Docker,
            _ => ManifestFormat::Oci,
        };
        let held = ReadLeases::default();
        let copied = interruptible(self.copy(format, &held)).await;
        held.end().await;
        copied
    }

    async fn copy(&self, format: ManifestFormat, held: &ReadLeases) -> Result<(), CommandError> {
        // A registry refuses an index whose images it lacks.
        let takes_parts = !matches!(self.to, ImageLocation::Registry(_));
        let found = self.find.found(format, takes_parts, held).await?;
        // Checked before anything is written.
        let names = self.names(&found)?;
        check_digests(&found.taken.root, &names)?;
        let graph = match &found.taken.graph {
            Some(graph) => graph.clone(),
            None => {
                let root = found.taken.root.clone();
                read_graph(&*found.source, root, Limits::default(), OnMissing::Stop).await?
            }
        };
        let outcome = match self.to {
            ImageLocation::Registry(name) => self.push(name, &graph, &found).await,
            to => self.archive(to, &names, &graph, &found).await,
        }?;
        Transfer { verb: "Copied", root: graph.root(), id: None, names: &names, outcome, tally: Tally::default() }
            .report(self.json, self.mode)?;
        if let Some(left) = found.left {
            left.release(&[]).await;
        }
        Ok(())
    }

    /// The names of the copy.
    fn names(&self, found: &CopyInput) -> Result<Vec<Reference>, CommandError> {
        Ok(match self.to {
            ImageLocation::Registry(name) => vec![name.clone()],
            ImageLocation::Archive(_, _, Some(name)) => vec![name.parse()?],
            _ => found.names.clone(),
        })
    }

    async fn push(&self, name: &Reference, graph: &Graph, found: &CopyInput) -> Result<Outcome, CommandError> {
        let registry = Registry::new(name, self.find.plain_http).await?;
        let source = found.source.clone();
        let (pushed, _) = self.mode.show(|events| async move { registry.push(graph, source, &events).await }).await;
        let Pushed { sent_blobs, sent_bytes, present_blobs } = pushed?;
        Ok(Outcome { sent_blobs, sent_bytes, present_blobs })
    }

    async fn archive(
        &self,
        to: &ImageLocation,
        names: &[Reference],
        graph: &Graph,
        found: &CopyInput,
    ) -> Result<Outcome, CommandError> {
        let ImageLocation::Archive(format, file, _) = to else { return Err(CommandError::IntoArchive) };
        let absent = save::absent(&*found.source, [graph]).await?;
        let archive = Archive::of(&[Saved { graph, names }], *format, &absent).map_err(SaveError::Archive)?;
        let (sent_blobs, sent_bytes) = (graph.blobs() - absent.len(), archive.size());
        save::write(Arc::new(archive), found.source.clone(), Sink::open(file)?, self.mode).await?;
        Ok(Outcome { sent_blobs, sent_bytes, present_blobs: 0 })
    }
}
