//! What is done on every node at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use futures_util::future::{join_all, try_join_all};

use crate::engine::EngineError;

/// The name of a node, as docker has it.
pub(super) type NodeName = Arc<str>;

/// What one node was sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) blobs: AtomicUsize,
    pub(super) bytes: AtomicU64,
    pub(super) unpacked: AtomicUsize,
}

/// An error of `node`. What callers act on stays as it is.
pub(super) fn of_node(node: &str, error: EngineError) -> EngineError {
    match error {
        EngineError::Missing { .. }
        | EngineError::Vanished { .. }
        | EngineError::Corrupt { .. }
        | EngineError::Present { .. }
        | EngineError::NameMoved { .. }
        | EngineError::IngestRef { .. }
        | EngineError::Unsuitable { .. }
        | EngineError::Node { .. } => error,
        error => EngineError::Node { node: node.to_owned(), error: Box::new(error) },
    }
}

/// Does the same on every node and waits for all of them; the results are in the order of the nodes.
///
/// # Errors
/// The first node's that failed.
pub(super) async fn on_all<'n, T, F>(work: impl IntoIterator<Item = (&'n NodeName, F)>) -> Result<Vec<T>, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    each(work).await.into_iter().collect()
}

/// The same, with the outcome of each.
pub(super) async fn each<'n, T, F>(work: impl IntoIterator<Item = (&'n NodeName, F)>) -> Vec<Result<T, EngineError>>
where
    F: Future<Output = Result<T, EngineError>>,
{
    join_all(work.into_iter().map(|(node, work)| async move { work.await.map_err(|error| of_node(node, error)) })).await
}

/// The same, until one fails.
///
/// # Errors
/// That node's.
pub(super) async fn until_one_fails<'n, T, F>(
    work: impl IntoIterator<Item = (&'n NodeName, F)>,
) -> Result<Vec<T>, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    let work = work.into_iter();
    try_join_all(work.map(|(node, work)| async move { work.await.map_err(|error| of_node(node, error)) })).await
}

/// Of each position what all nodes have there: the first one's, if all have any.
pub(super) fn common<T>(found: Vec<Vec<Option<T>>>) -> Vec<Option<T>> {
    let mut found = found.into_iter();
    let mut common = found.next().unwrap_or_default();
    for other in found {
        for (here, there) in common.iter_mut().zip(other) {
            if there.is_none() {
                *here = None;
            }
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_is_what_every_node_has() {
        assert_eq!(common(vec![vec![Some(1), Some(2), None], vec![Some(1), None, Some(3)]]), [Some(1), None, None]);
        assert_eq!(common::<u8>(Vec::new()), []);
    }
}
