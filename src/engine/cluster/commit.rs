//! The names of an image, on all nodes or on none.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::node_transaction::NodeTransaction;
use super::nodes::{of_node, on_all};
use crate::engine::containerd::NotRecorded;
use crate::engine::{EngineError, EngineKind, Precondition};
use crate::image::Reference;

/// What becomes of the names: decided once, by the last node that has them, or by the first one that fails.
#[derive(Debug)]
struct Decision {
    state: Mutex<State>,
    all_are_named: CancellationToken,
    take_back: CancellationToken,
}

#[derive(Debug)]
enum State {
    /// So many nodes do not have the names yet.
    Open(usize),
    Named,
    /// Because of that, if a node failed.
    TakenBack(Option<EngineError>),
}

impl Decision {
    fn of(nodes: usize) -> Self {
        Self {
            state: Mutex::new(State::Open(nodes)),
            all_are_named: CancellationToken::new(),
            take_back: CancellationToken::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has the names. Whether all have them at last: until that is known it waits.
    async fn node_is_named(&self) -> bool {
        {
            let mut state = self.state();
            match &mut *state {
                State::Open(1) => {
                    *state = State::Named;
                    self.all_are_named.cancel();
                }
                State::Open(rest) => *rest -= 1,
                State::Named | State::TakenBack(_) => {}
            }
        }
        tokio::select! {
            () = self.all_are_named.cancelled() => true,
            () = self.take_back.cancelled() => false,
        }
    }

    /// All nodes lose the names again, unless all have them.
    fn take_back(&self, because: Option<EngineError>) {
        let mut state = self.state();
        if let State::Open(_) = &*state {
            *state = State::TakenBack(because);
            self.take_back.cancel();
        }
    }
}

/// Gives all nodes the names. When one fails or `cancelled` comes first, those that have them lose them again, without waiting for
/// one that does not respond.
pub(super) async fn commit(
    nodes: &[NodeTransaction],
    names: &[Reference],
    preconditions: &[Precondition],
    cancelled: &CancellationToken,
) -> Result<(), EngineError> {
    let checking = on_all(nodes.iter().map(|node| (&node.node, node.image.check_names(preconditions))));
    cancelled.run_until_cancelled(checking).await.unwrap_or_else(|| Err(was_cancelled()))?;
    let decision = Decision::of(nodes.len());
    let naming = join_all(nodes.iter().map(|node| name(node, names, preconditions, &decision)));
    let mut naming = std::pin::pin!(naming);
    tokio::select! {
        biased;
        _ = &mut naming => {}
        () = cancelled.cancelled() => {
            decision.take_back(None);
            naming.await;
        }
    }
    let error = match &*decision.state() {
        State::Named => return Ok(()),
        State::TakenBack(Some(error)) => error.clone(),
        State::TakenBack(None) | State::Open(_) => was_cancelled(),
    };
    let left = names_left(nodes);
    if left.is_empty() { Err(error) } else { Err(EngineError::NamedOnSome { error: Box::new(error), nodes: left }) }
}

/// Gives one node the names, and takes them back if that is decided.
async fn name(node: &NodeTransaction, names: &[Reference], preconditions: &[Precondition], decision: &Decision) {
    node.may_be_named.store(true, Ordering::Relaxed);
    let may_be_named = match node.image.record(names, preconditions, &decision.take_back).await {
        Ok(before) => !decision.node_is_named().await && !node.image.restore_names(before).await,
        Err(NotRecorded { error, is_restored }) => {
            decision.take_back(Some(of_node(&node.node, error)));
            !is_restored
        }
    };
    node.may_be_named.store(may_be_named, Ordering::Relaxed);
}

/// The nodes that may have some of the names, though not all have them.
pub(super) fn names_left(nodes: &[NodeTransaction]) -> Vec<String> {
    let left = nodes.iter().filter(|node| node.may_be_named.load(Ordering::Relaxed));
    left.map(|node| node.node.to_string()).collect()
}

fn was_cancelled() -> EngineError {
    EngineError::Commit { engine: EngineKind::Cluster.name(), reason: "it was cancelled".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_stay_when_all_have_them_and_else_on_none() {
        let decision = Decision::of(2);
        let (one, other) = tokio::join!(decision.node_is_named(), decision.node_is_named());
        assert!(one && other);
        decision.take_back(Some(was_cancelled()));
        assert!(matches!(&*decision.state(), State::Named), "it is decided");

        let decision = Decision::of(2);
        let (named, ()) = tokio::join!(decision.node_is_named(), async { decision.take_back(None) });
        assert!(!named && decision.take_back.is_cancelled());
        assert!(!decision.node_is_named().await, "one that comes late loses them, too");
        decision.take_back(Some(was_cancelled()));
        assert!(matches!(&*decision.state(), State::TakenBack(None)), "the first reason counts");
    }
}
