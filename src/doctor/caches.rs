//! The build caches in the engine: what they take, and what their limits would remove.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::judge::check;
use super::report::{Check, Mark};
use crate::caches::{CacheSettings, Caches};
use crate::engine::doctor::Findings;

/// How long the engine may take to list them.
const PATIENCE: Duration = Duration::from_secs(10);

/// The build caches in the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildCaches {
    /// How many refs have one.
    pub caches: usize,
    /// How many versions of parts these have.
    pub versions: usize,
    /// The bytes of all of them, each blob counted once.
    pub bytes: u64,
    /// How many versions are beyond the configured limits.
    pub exceeding: usize,
    /// The bytes that become free with those.
    pub exceeding_bytes: u64,
}

/// Looks at the caches of the engine that was found; `None` if none can be stored there, or it does not say.
pub(super) async fn look(engine: &Findings, settings: &CacheSettings) -> Option<BuildCaches> {
    let engine = &engine.selected.as_ref().ok()?.engine;
    let caches = Caches::new(&**engine, settings.clone()).ok()?;
    let look = async { Ok::<_, crate::caches::CacheError>((caches.usage().await?, caches.exceeding().await?)) };
    let (usage, over) = timeout(PATIENCE, look).await.ok()?.ok()?;
    let refs: HashSet<_> = usage.versions.iter().map(|usage| &usage.version.reference).collect();
    Some(BuildCaches {
        caches: refs.len(),
        versions: usage.versions.len(),
        bytes: usage.total,
        exceeding: over.versions.len(),
        exceeding_bytes: over.bytes,
    })
}

/// The check of the caches, if there are any.
pub(super) fn caches_check(found: &BuildCaches) -> Option<Check> {
    let BuildCaches { caches, versions, bytes, exceeding, exceeding_bytes } = found;
    if *versions == 0 {
        return None;
    }
    let megabytes = |bytes: u64| format!("{} MB", bytes.div_ceil(1_000_000));
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let mut text = format!(
        "{caches} build cache{} in {versions} version{}, {}",
        plural(*caches),
        plural(*versions),
        megabytes(*bytes)
    );
    if *exceeding > 0 {
        text +=
            &format!("; {exceeding} of them, {}, beyond the limits go at the next export", megabytes(*exceeding_bytes));
    }
    let remedy = "`linkspan cache du` shows them, `linkspan cache prune` removes what is not needed";
    Some(check("caches", Mark::Note, text, Some(remedy)))
}
