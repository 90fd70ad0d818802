//! `linkspan rm` and `linkspan tag`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::engine::Target;
use super::read_leases::ReadLeases;
use super::settings::TargetSettings;
use super::{CommandError, block_on, engine, output};
use crate::engine::images::{Images, Record};
use crate::engine::{Engine, EngineError};
use crate::export::Request;
use crate::image::{Descriptor, Kind, Reference};
use crate::net::Principal;
use crate::progress::Events;
use crate::source::{Part, part};

/// Removes names of images; an image is removed with its last name.
#[derive(Debug, Args)]
#[command(after_long_help = REMOVE)]
pub(super) struct Remove {
    /// The images: names, digests, or beginnings of those
    #[arg(value_name = "REF", required = true)]
    references: Vec<String>,

    /// Remove all names of an image that is given by its digest; from docker also an image that a stopped container uses
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

const REMOVE: &str = "\
Examples:
  linkspan rm demo:1
  linkspan rm --layout ./images 0123456789ab
  linkspan rm --engine containerd --namespace k8s.io registry.example/app:1

Exit code: 0 when all of them were removed, 1 when one was not, 2 for a wrong
command line.";

/// Gives an image another name; the image that had the name loses it.
#[derive(Debug, Args)]
#[command(after_long_help = TAG)]
pub(super) struct Tag {
    /// The image: its name, its digest, or the beginning of that
    #[arg(value_name = "REF")]
    reference: String,

    /// The name
    #[arg(value_name = "NAME")]
    name: Reference,

    #[command(flatten)]
    pub(super) target: TargetSettings,
}

const TAG: &str = "\
Examples:
  linkspan tag demo:1 registry.example/demo:1
  linkspan tag --engine containerd --namespace k8s.io 0123456789ab app:1

Exit code: 0 when it has the name, 1 when it has not, 2 for a wrong command
line.";

impl Remove {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let (_, target) = engine::target(self.target)?;
        let (references, force) = (self.references, self.force);
        block_on(engine::reading(&target, async |engine, images| {
            // Everything is looked up before anything is removed.
            let (mut found, mut broken) = (Vec::<Record>::new(), Vec::new());
            for given in &references {
                match given.parse::<Reference>() {
                    Ok(name) if broken.contains(&name) => {}
                    Ok(name) if engine.broken_name(&name).await?.is_some() => broken.push(name),
                    _ => {
                        // What is given twice, by a name and by its digest perhaps, is removed once.
                        for record in records(&*engine, &*images, given, force).await? {
                            let is_it = |known: &Record| {
                                (&known.name, &known.target.digest) == (&record.name, &record.target.digest)
                            };
                            if !found.iter().any(is_it) {
                                found.push(record);
                            }
                        }
                    }
                }
            }
            for name in broken {
                engine.remove_broken(&name).await?;
                output::print(&format!("Untagged: {}", name.familiar()))?;
            }
            for record in found {
                remove(&*engine, &*images, &record, force).await?;
            }
            Ok(ExitCode::SUCCESS)
        }))?
    }
}

/// The records of `given`.
async fn records(
    engine: &dyn Engine,
    images: &dyn Images,
    given: &str,
    force: bool,
) -> Result<Vec<Record>, CommandError> {
    // From all nodes, whatever each has.
    let root = engine::find(engine, images, given).await?;
    let name = engine::name(images, given).await?;
    let mut found = engine::all(images).await?;
    if let Some(name) = name {
        // On the nodes of a cluster it may point to several images.
        let is_it = |record: &Record| {
            record.name.as_deref().and_then(|own| own.parse::<Reference>().ok()).is_some_and(|own| own == name)
        };
        found.retain(is_it);
    } else {
        found.retain(|record| record.target.digest == root.digest);
    }
    let names: BTreeSet<_> = found.iter().map(|record| &record.name).collect();
    if names.len() > 1 && !force {
        let names: Vec<_> = found.iter().map(shown).collect();
        return Err(CommandError::ManyNames { given: given.to_owned(), names: names.join(", ") });
    }
    if found.is_empty() {
        return Err(engine::absent(engine, given));
    }
    Ok(found)
}

fn shown(record: &Record) -> String {
    match &record.name {
        Some(name) => name.parse::<Reference>().map_or_else(|_| name.clone(), |name| name.familiar()),
        None => record.target.digest.to_string(),
    }
}

async fn remove(engine: &dyn Engine, images: &dyn Images, record: &Record, force: bool) -> Result<(), CommandError> {
    match engine.remove(record, force).await {
        Err(EngineError::NameMoved { current: Some(current), .. }) => {
            return Err(CommandError::Moved { name: shown(record), current });
        }
        outcome => outcome?,
    }
    let left = engine::all(images).await?;
    if record.name.is_some() && !left.iter().any(|other| other.name == record.name) {
        output::print(&format!("Untagged: {}", shown(record)))?;
    }
    let root = &record.target.digest;
    if !left.iter().any(|other| other.target.digest == *root) {
        output::print(&format!("Deleted: {root}"))?;
    }
    Ok(())
}

impl Tag {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let Self { reference, name, target } = self;
        let (config, target) = engine::target(target)?;
        let held = ReadLeases::default();
        let tagging = super::interruptible(engine::reading(&target, async |found, images: Arc<dyn Images>| {
            if name.digest().is_some() {
                return Err(CommandError::DigestAsName { name: name.to_string() });
            }
            let root = engine::find(&*found, &*images, &reference).await?;
            if !matches!(root.kind(), Kind::Index | Kind::Manifest) {
                return Err(CommandError::NoImageRoot { given: reference, media_type: root.media_type });
            }
            // It would put one image in the place of another on the nodes that have both.
            if let Some(differ) = engine::differing(&*found, &*images, &reference, &root.digest).await? {
                return Err(differ.into());
            }
            if let Target::Daemon(_) = &target {
                // Through a daemon a name is set by an export, of which it has every blob.
                let exports = engine::exports(&config, &target).await?;
                let request = Request::new(root, vec![name], engine::origin("tag"));
                exports.run(request, images, Events::none()).await?;
                exports.finish().await;
                return Ok(ExitCode::SUCCESS);
            }
            let policy = engine::policy(&config);
            let policy = policy.of(&Principal::Internal);
            let names = [name];
            policy.check(&names)?;
            policy.check_moves(&*found, &root, &names).await?;
            lease_part(&*found, &images, &root, &held).await;
            // It may have been removed before it was leased.
            if images.identify(&root.digest).await?.is_none() {
                return Err(engine::absent(&*found, &reference));
            }
            for name in &names {
                found.tag(&root, name).await.map_err(|error: EngineError| CommandError::Engine(error))?;
            }
            Ok(ExitCode::SUCCESS)
        }));
        block_on(async {
            let tagged = tagging.await;
            held.end().await;
            tagged
        })?
    }
}

/// Leases the part of an image that the engine has, until it has its name. A damaged image is named without a lease.
async fn lease_part(engine: &dyn Engine, images: &Arc<dyn Images>, root: &Descriptor, held: &ReadLeases) {
    let graph = match part(images, root).await {
        Ok(Some(Part { graph, .. })) => Some(graph),
        Ok(None) => engine::graph(&**images, root.clone()).await.ok(),
        Err(_) => None,
    };
    if let Some(graph) = graph {
        held.add(engine, &Arc::new(graph), "tag").await;
    }
}
