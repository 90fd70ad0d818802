//! Sparse files, of which a layer stores only the data between the holes: GNU's old format and the three of `pax`.
//!
//! Engines unpack them (Go's `archive/tar` reads all four), so here they are files with zeros where the holes are.

use std::collections::VecDeque;

use tar_core::SparseEntry;

/// The data and holes of a file that is being read.
#[derive(Debug)]
pub(super) struct Sparse {
    /// The stored pieces that are not yet read, in order.
    pieces: VecDeque<SparseEntry>,
    at: u64,
    size: u64,
}

/// What follows at the current position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A hole of so many bytes.
    Zeros(u64),
    /// So many bytes of data from the layer.
    Stored(u64),
}

impl Sparse {
    /// A file of `size` bytes, of which `stored` are in the layer; checked as Go does (`validateSparseEntries`).
    pub(super) fn new(map: Vec<SparseEntry>, size: u64, stored: u64) -> Result<Self, &'static str> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for piece in &map {
            let last = piece.offset.checked_add(piece.length).filter(|last| *last <= size);
            end = match last {
                Some(last) if piece.offset >= end => last,
                _ => return Err("its pieces overlap or lie outside of it"),
            };
            sum += piece.length;
        }
        if sum != stored {
            return Err("its pieces do not add up to its stored size");
        }
        Ok(Self { pieces: map.into_iter().filter(|piece| piece.length > 0).collect(), at: 0, size })
    }

    /// What comes next; `None` at the end.
    pub(super) fn next(&self) -> Option<Piece> {
        match self.pieces.front() {
            Some(piece) if piece.offset <= self.at => Some(Piece::Stored(piece.offset + piece.length - self.at)),
            Some(piece) => Some(Piece::Zeros(piece.offset - self.at)),
            None if self.at < self.size => Some(Piece::Zeros(self.size - self.at)),
            None => None,
        }
    }

    /// Marks so many bytes of the next piece as read.
    pub(super) fn advance(&mut self, length: u64) {
        self.at += length;
        if self.pieces.front().is_some_and(|piece| piece.offset + piece.length <= self.at) {
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pieces: &[(u64, u64)]) -> Vec<SparseEntry> {
        pieces.iter().map(|&(offset, length)| SparseEntry { offset, length }).collect()
    }

    #[test]
    fn pieces_come_in_their_order() {
        let mut sparse = Sparse::new(map(&[(0, 2), (5, 3), (20, 0)]), 20, 5).unwrap();
        let mut seen = Vec::new();
        while let Some(piece) = sparse.next() {
            // In steps, as it is read.
            let (Piece::Zeros(length) | Piece::Stored(length)) = piece;
            sparse.advance(length.min(2));
            seen.push(piece);
        }
        use Piece::{Stored, Zeros};
        let holes = [Zeros(12), Zeros(10), Zeros(8), Zeros(6), Zeros(4), Zeros(2)];
        let first = [Stored(2), Zeros(3), Zeros(1), Stored(3), Stored(1)];
        assert_eq!(seen, first.into_iter().chain(holes).collect::<Vec<_>>());
    }

    #[test]
    fn maps_that_cannot_be_are_refused() {
        for (pieces, size, stored) in [
            (&[(0, 2), (1, 2)][..], 9, 4),
            (&[(5, 1), (0, 1)], 9, 2),
            (&[(8, 2)], 9, 2),
            (&[(u64::MAX, 2)], 9, 2),
            (&[(0, 2)], 9, 3),
        ] {
            assert!(Sparse::new(map(pieces), size, stored).is_err(), "{pieces:?}");
        }
        assert_eq!(Sparse::new(Vec::new(), 0, 0).unwrap().next(), None);
    }
}
