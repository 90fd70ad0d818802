//! Copying an image to where no engine is: into an archive, or to a registry.

use std::collections::HashSet;
use std::sync::Arc;

use super::{ArchiveKind, Found, From, Place, report};
use crate::cli::hold::Held;
use crate::cli::progress::Manner;
use crate::cli::save::{self, SaveError, Sink};
use crate::cli::{CommandError, interruptible};
use crate::export::{Outcome, check_digests};
use crate::image::{Digest, Graph, Kind, Limits, Reference};
use crate::output::Output as _;
use crate::output::archive::{Archive, Flavour, Saved};
use crate::registry::{Pushed, Registry};
use crate::source::archive::Form;
use crate::source::{OnMissing, Source, SourceError, read_graph};

/// What is copied, and how that is shown.
pub(super) struct Copying<'a> {
    pub(super) find: From<'a>,
    pub(super) to: &'a Place,
    pub(super) manner: Manner,
    pub(super) json: bool,
}

impl Copying<'_> {
    pub(super) async fn run(&self) -> Result<(), CommandError> {
        let form = if matches!(self.to, Place::Archive(ArchiveKind::Docker, ..)) { Form::Docker } else { Form::Oci };
        let held = Held::default();
        let copied = interruptible(self.copy(form, &held)).await;
        held.end().await;
        copied
    }

    async fn copy(&self, form: Form, held: &Held) -> Result<(), CommandError> {
        // A registry refuses an index of which it lacks an image.
        let takes_parts = !matches!(self.to, Place::Registry(_));
        let found = self.find.found(form, takes_parts, held).await?;
        // Before anything is written.
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
            Place::Registry(name) => self.push(name, &graph, &found).await,
            to => self.archive(to, &names, &graph, &found).await,
        }?;
        report(graph.root(), &names, (outcome, 0), self.json, self.manner)?;
        if let Some(left) = found.left {
            left.release(&[]).await;
        }
        Ok(())
    }

    /// What the copy is called.
    fn names(&self, found: &Found) -> Result<Vec<Reference>, CommandError> {
        Ok(match self.to {
            Place::Registry(name) => vec![name.clone()],
            Place::Archive(_, _, Some(name)) => vec![name.parse()?],
            _ => found.names.clone(),
        })
    }

    async fn push(&self, name: &Reference, graph: &Graph, found: &Found) -> Result<Outcome, CommandError> {
        let registry = Registry::new(name, self.find.plain_http).await?;
        let source = found.source.clone();
        let (pushed, _) = self.manner.show(|events| async move { registry.push(graph, source, &events).await }).await;
        let Pushed { sent_blobs, sent_bytes, present_blobs } = pushed?;
        Ok(Outcome { sent_blobs, sent_bytes, present_blobs })
    }

    async fn archive(
        &self,
        to: &Place,
        names: &[Reference],
        graph: &Graph,
        found: &Found,
    ) -> Result<Outcome, CommandError> {
        let Place::Archive(kind, file, _) = to else { return Err(CommandError::IntoArchive) };
        let flavour = match kind {
            ArchiveKind::Oci => Flavour::Oci,
            ArchiveKind::Docker => Flavour::Save,
        };
        let absent = absent(&*found.source, graph).await?;
        let archive = Archive::of(&[Saved { graph, names }], flavour, &absent).map_err(SaveError::Archive)?;
        let (sent_blobs, sent_bytes) = (graph.blobs() - absent.len(), archive.size());
        save::write(Arc::new(archive), found.source.clone(), Sink::open(file)?, self.manner).await?;
        Ok(Outcome { sent_blobs, sent_bytes, present_blobs: 0 })
    }
}

/// The foreign layers that the source does not hold.
async fn absent(source: &dyn Source, graph: &Graph) -> Result<HashSet<Digest>, CommandError> {
    let mut absent = HashSet::new();
    for layer in graph.leaves().iter().filter(|leaf| leaf.kind() == Kind::ForeignLayer) {
        match source.open(layer, 0).await {
            Ok(_) => {}
            Err(SourceError::NotFound { .. }) => {
                absent.insert(layer.digest.clone());
            }
            Err(error) => return Err(SaveError::Read(error).into()),
        }
    }
    Ok(absent)
}
