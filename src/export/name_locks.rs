//! Which names are being set. dockerd cannot compare and set: between the look at what a name points to and the moment when it is
//! set, nobody else of this process sets it. What is held goes into the task that sets, and is given up at its end: whoever asked for
//! it may have gone long before.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as Turns, OwnedMutexGuard};
use tokio::time::timeout;

use super::ExportError;
use crate::image::Reference;

/// How long to wait for those who set the same names: dockerd unpacks an image before it answers.
const WAIT: Duration = Duration::from_secs(600);

/// The names that are being set now.
#[derive(Debug, Default)]
pub(super) struct NameLocks(Mutex<HashMap<Reference, Weak<Turns<()>>>>);

/// Names that nobody else sets until this is dropped.
#[derive(Debug)]
pub struct HeldNames(#[expect(dead_code, reason = "held for what its end does")] Vec<OwnedMutexGuard<()>>);

impl NameLocks {
    /// Waits until nobody else sets one of `names`.
    ///
    /// # Errors
    /// [`ExportError::NameBusy`] after [`WAIT`].
    pub(super) async fn hold(&self, names: impl IntoIterator<Item = &Reference>) -> Result<HeldNames, ExportError> {
        // In one order for all, so that two who share names do not wait for each other.
        let names: BTreeSet<_> = names.into_iter().collect();
        let mut held = Vec::with_capacity(names.len());
        for name in names {
            let turn = timeout(WAIT, self.turns(name).lock_owned()).await;
            held.push(turn.map_err(|_| ExportError::NameBusy { name: name.to_string(), waited: WAIT })?);
        }
        Ok(HeldNames(held))
    }

    fn turns(&self, name: &Reference) -> Arc<Turns<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = all.get(name).and_then(Weak::upgrade) {
            return turns;
        }
        all.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::default();
        all.insert(name.clone(), Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn names(names: &[&str]) -> Vec<Reference> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_name_is_held_by_one_and_then_by_the_next() {
        let locks = NameLocks::default();
        let (both, turned, other) = (names(&["a:1", "b:1", "a:1"]), names(&["b:1", "a:1"]), names(&["c:1"]));
        let first = locks.hold(&both).await.unwrap();
        let _other = locks.hold(&other).now_or_never().unwrap().unwrap();
        let mut second = Box::pin(locks.hold(&turned));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        drop(second.await.unwrap());
        drop(locks.hold(&names(&["d:1"])).await.unwrap());
        let known = locks.0.lock().unwrap().len();
        assert_eq!(known, 2, "names that nobody holds are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_never_ends_is_named() {
        let locks = NameLocks::default();
        let names = names(&["a:1"]);
        let _held = locks.hold(&names).await.unwrap();
        let error = locks.hold(&names).await.unwrap_err().to_string();
        assert_eq!(error, "the name `docker.io/library/a:1` has been in the hands of another export for 600 s");
    }
}
