//! Policy for archives: the names in an archive are checked before dockerd gets its end.
//!
//! dockerd names images after it has read all of an archive, so it is enough to truncate one that is denied. An archive
//! whose names are not certain is denied as well.
//!
//! A client that may do everything is denied nothing. Where others may not, the names of its archives are held all the same while
//! dockerd may set them, as far as they are certain: another client's look at a name counts until that has set it.

mod claims;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use self::claims::{Claim, UncertainNames, of_index, of_manifest, of_repositories};
use crate::export::{ExportError, Exports, HeldNames};
use crate::image::{Digest, Limits, Reference};
use crate::net::Principal;

/// How many names one archive may contain.
const NAMES: usize = 10_000;

/// Why an archive is denied.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    /// A name must not be set.
    #[error(transparent)]
    Name(#[from] ExportError),
    /// The names are not certain.
    #[error("names are restricted here, and those in the archive's `{file}` cannot be told for certain: {reason}")]
    UncertainNames {
        /// The document.
        file: String,
        /// The error in it.
        reason: String,
    },
    /// The archive's content is not certain.
    #[error("names are restricted here, and the archive cannot be looked into: {0}")]
    Unreadable(&'static str),
}

impl Denied {
    /// The kind of the reason, as that of other [exports](ExportError::kind) that are denied.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Name(error) => error.kind(),
            Self::UncertainNames { .. } | Self::Unreadable(_) => "policy",
        }
    }

    /// The name that it is about, in full, if it is about one.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Name(error) => error.name(),
            Self::UncertainNames { .. } | Self::Unreadable(_) => None,
        }
    }
}

/// The checks of one archive.
#[derive(Debug)]
pub(super) struct Watch {
    /// Checks its names, if there is a policy for them.
    pub(super) guard: Option<Guard>,
    /// Whether this engine reads the index of an OCI layout.
    pub(super) by_index: bool,
    /// Whether the client has left.
    pub(super) left: CancellationToken,
}

impl Watch {
    /// Nothing to look for.
    #[cfg(any(test, fuzzing))]
    pub(super) fn unrestricted() -> Self {
        Self { guard: None, by_index: true, left: CancellationToken::new() }
    }
}

/// Checks one archive against `exports`' policy.
#[derive(Debug)]
pub(super) struct Guard {
    exports: Arc<Exports>,
    client: Principal,
    /// Whether the client may do less than everything.
    is_restrictive: bool,
    claims: Vec<(Reference, Option<Digest>)>,
    held: Held,
}

/// The names that dockerd sets, once they were looked at: nobody else sets them until its response was delivered.
pub(super) type Held = Arc<OnceLock<HeldNames>>;

impl Guard {
    /// A guard, if there is a policy to enforce, for this client or for another one.
    pub(super) fn new(exports: &Arc<Exports>, client: &Principal) -> Option<Self> {
        let is_restrictive = exports.policy(client).is_restrictive();
        let (claims, held) = (Vec::new(), Held::default());
        let guard = || Self { exports: exports.clone(), client: client.clone(), is_restrictive, claims, held };
        (is_restrictive || exports.has_rules()).then(guard)
    }

    /// Whether it denies anything: otherwise it only holds names.
    pub(super) fn is_restrictive(&self) -> bool {
        self.is_restrictive
    }

    /// The names that it will have held, for as long as dockerd may set them.
    pub(super) fn held(&self) -> Held {
        self.held.clone()
    }

    /// Whether a file may name images. Its folder does not matter: links can make any path another.
    pub(super) fn concerns(name: &[u8]) -> bool {
        [&b"index.json"[..], b"manifest.json", b"repositories"].contains(&last(name))
    }

    /// The largest such file.
    pub(super) fn limit() -> u64 {
        Limits::default().document_bytes
    }

    /// Checks a file that [concerns](Self::concerns) it.
    pub(super) fn check_document(&mut self, name: &[u8], text: &[u8]) -> Result<(), Denied> {
        let claims = match last(name) {
            b"index.json" => of_index(text),
            b"manifest.json" => of_manifest(text),
            _ => of_repositories(text),
        };
        if !self.is_restrictive {
            let certain = claims.into_iter().flatten().filter_map(|claim| Some((claim.name.parse().ok()?, claim.root)));
            self.claims.extend(certain.take(NAMES.saturating_sub(self.claims.len())));
            return Ok(());
        }
        let claims = claims.map_err(|reason: UncertainNames| unclear(name, reason.to_string()))?;
        for Claim { name: requested, root } in claims {
            let parsed: Result<Reference, _> = requested.parse();
            let parsed = parsed.map_err(|error| unclear(name, error.to_string()))?;
            self.exports.policy(&self.client).check(std::slice::from_ref(&parsed))?;
            self.claims.push((parsed, root));
        }
        if self.claims.len() > NAMES { Err(unclear(name, "there are too many".to_owned())) } else { Ok(()) }
    }

    /// Checks the roots that the names are to resolve to, once all are known. `by_index` means that dockerd will
    /// certainly read the index: a root that another document gives is known only after the import.
    pub(super) async fn check_moves(&self, by_index: bool) -> Result<(), Denied> {
        let policy = self.exports.policy(&self.client);
        if policy.may_move_all() && !self.exports.has_rules() {
            return Ok(());
        }
        let names: Vec<_> = self.claims.iter().map(|(name, _)| name.clone()).collect();
        // An archive has one end.
        let _ = self.held.set(self.exports.hold_names(&names).await?);
        if policy.may_move_all() {
            return Ok(());
        }
        let indexed: HashSet<_> =
            self.claims.iter().filter(|(_, root)| by_index && root.is_some()).map(|(name, _)| name).collect();
        for (name, root) in &self.claims {
            // If the index has a name, the index decides its root.
            match root.as_ref().filter(|_| by_index) {
                None if indexed.contains(name) => {}
                root => self.exports.check_move(&self.client, name, root).await?,
            }
        }
        Ok(())
    }
}

/// A file whose names are not certain.
pub(super) fn unclear(name: &[u8], reason: String) -> Denied {
    Denied::UncertainNames { file: String::from_utf8_lossy(name).into_owned(), reason }
}

fn last(name: &[u8]) -> &[u8] {
    name.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::engine::fixture::layout;
    use crate::export::{AccessRule, NamePolicy, Right};

    fn index(name: &str) -> Vec<u8> {
        let root = Digest::sha256(name.as_bytes());
        let annotations = serde_json::json!({"io.containerd.image.name": name});
        serde_json::json!({"manifests": [{"digest": root, "annotations": annotations}]}).to_string().into_bytes()
    }

    #[tokio::test]
    async fn who_may_do_everything_holds_names_where_others_may_not_and_is_denied_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let engine = layout(folder.path()).await;
        let unix = Principal::Unix { uid: 0, gid: 0, pid: None };
        assert!(Guard::new(&Arc::new(Exports::new(engine.clone())), &unix).is_none(), "without rules nobody looks");
        let [principals, names] = [["anonymous"], ["*"]].map(|of| of.map(str::to_owned).to_vec());
        let rules = vec![AccessRule { principals, names, rights: vec![Right::Push] }];
        let exports = Arc::new(Exports::with_policy(engine, NamePolicy { rules, ..NamePolicy::default() }));
        let mut guard = Guard::new(&exports, &unix).unwrap();
        guard.check_document(b"index.json", &index("docker.io/library/held:1")).unwrap();
        guard.check_document(b"manifest.json", b"no JSON").unwrap();
        guard.check_document(b"index.json", &index("NO NAME")).unwrap();
        let name = ["held:1".parse().unwrap()];
        drop(exports.hold_names(&name).await.unwrap());
        let held = guard.held();
        guard.check_moves(true).await.unwrap();
        drop(guard);
        let mut next = Box::pin(exports.hold_names(&name));
        assert!((&mut next).now_or_never().is_none(), "until the response was delivered");
        drop(held);
        next.await.unwrap();
    }
}
