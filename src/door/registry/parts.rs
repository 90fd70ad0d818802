//! Which documents have a blob.

use std::collections::{HashMap, HashSet};

use crate::image::Digest;

/// How many blobs are remembered, and at most of one document.
const MAX_BLOBS: usize = 20_000;
/// How many pairs of a blob and a document are remembered: each blob has few documents, or few blobs have many.
const MAX_PAIRS: usize = 5 * MAX_BLOBS;
/// Of how many documents it is remembered that they share a blob; most artifacts have the same config.
const MAX_SHARING: usize = 1000;

/// The blobs of documents, as far as they are remembered.
#[derive(Debug, Default)]
pub(super) struct Parts {
    documents: HashMap<Digest, HashSet<Digest>>,
    /// How many documents there are in all sets together.
    pairs: usize,
}

impl Parts {
    /// The documents that have `blob`.
    pub(super) fn documents_with(&self, blob: &Digest) -> Option<&HashSet<Digest>> {
        self.documents.get(blob)
    }

    /// Notes the blobs of `document`. Where there are too many, all others are forgotten first.
    pub(super) fn note(&mut self, document: &Digest, blobs: impl Iterator<Item = Digest>) {
        if self.documents.len() >= MAX_BLOBS || self.pairs >= MAX_PAIRS {
            *self = Self::default();
        }
        for blob in blobs.take(MAX_BLOBS) {
            let documents = self.documents.entry(blob).or_default();
            if documents.len() < MAX_SHARING && documents.insert(document.clone()) {
                self.pairs += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(kind: &str, number: usize) -> Digest {
        Digest::sha256(format!("{kind} {number}").as_bytes())
    }

    impl Parts {
        fn counted(&self) -> usize {
            self.documents.values().map(HashSet::len).sum()
        }
    }

    #[test]
    fn a_document_that_is_noted_twice_counts_once() {
        let mut parts = Parts::default();
        for _ in 0..2 {
            parts.note(&digest("document", 1), [1, 1, 2].map(|blob| digest("blob", blob)).into_iter());
        }
        assert_eq!((parts.pairs, parts.counted()), (2, 2));
        assert_eq!(parts.documents_with(&digest("blob", 2)), Some(&HashSet::from([digest("document", 1)])));
        assert_eq!(parts.documents_with(&digest("blob", 3)), None);
    }

    #[test]
    fn many_documents_that_share_blobs_are_forgotten_at_the_limit() {
        let mut parts = Parts::default();
        let blobs: Vec<_> = (0..MAX_PAIRS / MAX_SHARING).map(|blob| digest("blob", blob)).collect();
        for document in 0..MAX_SHARING {
            assert_eq!(parts.pairs, document * blobs.len());
            parts.note(&digest("document", document), blobs.iter().cloned());
        }
        assert_eq!((parts.pairs, parts.counted()), (MAX_PAIRS, MAX_PAIRS));
        parts.note(&digest("document", MAX_SHARING), blobs.iter().cloned());
        assert_eq!((parts.pairs, parts.counted()), (blobs.len(), blobs.len()));
    }

    #[test]
    fn a_blob_that_all_share_has_a_limit_of_its_own() {
        let mut parts = Parts::default();
        for document in 0..=MAX_SHARING {
            parts.note(&digest("document", document), [digest("config", 0)].into_iter());
        }
        assert_eq!((parts.pairs, parts.counted()), (MAX_SHARING, MAX_SHARING));
    }

    #[test]
    fn many_blobs_are_forgotten_at_the_limit() {
        let mut parts = Parts::default();
        parts.note(&digest("document", 0), (0..2 * MAX_BLOBS).map(|blob| digest("blob", blob)));
        assert_eq!(parts.pairs, MAX_BLOBS);
        parts.note(&digest("document", 1), [digest("blob", 0)].into_iter());
        assert_eq!((parts.pairs, parts.counted()), (1, 1));
    }
}
