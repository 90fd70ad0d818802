//! The build caches in the engine: what they take, and what their limits would remove.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::timeout;

use super::facts::RunningLinkspan;
use super::report::{BuildCaches, Check, Mark, check};
use crate::caches::{CacheLimits, CacheSettings, Caches};
use crate::config::Config;
use crate::engine::doctor::Findings;
use crate::status::Policy;

/// How long the engine may take to list them.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The limits that apply: those of the running Linkspan, if its engine is the one that is examined.
pub(super) fn limits(config: &Config, subject: Option<&RunningLinkspan>) -> CacheLimits {
    let Some(subject) = subject.filter(|subject| subject.is_basis) else { return config.caches.limits };
    let Policy { cache_max_bytes, cache_max_age, cache_max_count, .. } = subject.status.policy;
    CacheLimits {
        max_bytes: cache_max_bytes,
        max_age: cache_max_age.map(Duration::from_secs),
        max_count: cache_max_count,
    }
}

/// Measures the caches of the engine that was found; `None` if none can be stored there, or it does not say.
pub(super) async fn measure(engine: &Findings, limits: CacheLimits) -> Option<BuildCaches> {
    let engine = &engine.selected.as_ref().ok()?.engine;
    let caches = Caches::new(&**engine, CacheSettings { limits, ..CacheSettings::default() }).ok()?;
    let measuring = async { Ok::<_, crate::caches::CacheError>((caches.usage().await?, caches.exceeding().await?)) };
    let (usage, over) = timeout(TIMEOUT, measuring).await.ok()?.ok()?;
    let refs: HashSet<_> = usage.versions.iter().map(|usage| &usage.version.reference).collect();
    Some(BuildCaches {
        caches: refs.len(),
        versions: usage.versions.len(),
        bytes: usage.total,
        exceeding: over.versions.len(),
        exceeding_bytes: over.bytes,
    })
}

/// The check of the caches, if there are any, or a running Linkspan limits them.
pub(super) fn caches_check(found: Option<&BuildCaches>, policy: Option<&Policy>) -> Option<Check> {
    let found = found.filter(|found| found.versions > 0);
    let parts: Vec<_> = found.map(stored).into_iter().chain(policy.and_then(limited)).collect();
    let remedy = found.map(|_| "`linkspan cache du` shows them, `linkspan cache prune` removes what is not needed");
    (!parts.is_empty()).then(|| check("caches", Mark::Note, parts.join("; "), remedy))
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

fn stored(found: &BuildCaches) -> String {
    let BuildCaches { caches, versions, bytes, exceeding, exceeding_bytes } = found;
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let mut text = format!(
        "{caches} build cache{} in {versions} version{}, {}",
        plural(*caches),
        plural(*versions),
        megabytes(*bytes)
    );
    if *exceeding > 0 {
        let most = megabytes(*exceeding_bytes);
        text += &format!("; {exceeding} of them, up to {most}, beyond the limits go at the next export");
    }
    text
}

/// What the policy of a running Linkspan says of caches.
fn limited(policy: &Policy) -> Option<String> {
    let Policy { caches_restricted, cache_max_bytes, cache_max_age, cache_max_count, .. } = policy;
    let limits = [
        cache_max_bytes.map(|bytes| format!("at most {}", megabytes(bytes))),
        cache_max_count.map(|count| format!("at most {count} in all")),
        cache_max_age.map(|seconds| format!("those of the last {} hours", seconds.div_ceil(3600))),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    let kept = (!limits.is_empty()).then(|| format!("the running Linkspan keeps {}", limits.join(", ")));
    let written = caches_restricted.then(|| "only some refs may be written (--allow-cache)".to_owned());
    let parts: Vec<_> = kept.into_iter().chain(written).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
