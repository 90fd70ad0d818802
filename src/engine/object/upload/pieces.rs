//! The bytes of a part that fills, as they came: copied together only where they came in short pieces.

use bytes::{Bytes, BytesMut};
use object_store::PutPayload;

/// What is shorter is copied: a piece keeps the whole buffer that it was cut from.
const SHORT: usize = 32 << 10;
/// Up to how many bytes short pieces are copied together.
const TOGETHER: usize = 256 << 10;

/// Bytes in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    whole: Vec<Bytes>,
    /// The last short ones.
    short: BytesMut,
    length: usize,
}

impl Pieces {
    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.length += bytes.len();
        if bytes.len() >= SHORT {
            self.seal();
            self.whole.push(bytes);
            return;
        }
        if self.short.len() + bytes.len() > TOGETHER {
            self.seal();
        }
        self.short.extend_from_slice(&bytes);
    }

    /// What comes next is a piece of its own.
    fn seal(&mut self) {
        if !self.short.is_empty() {
            self.whole.push(std::mem::take(&mut self.short).freeze());
        }
    }

    /// All of them, which stay here as well.
    pub(super) fn shared(&mut self) -> PutPayload {
        self.seal();
        self.whole.iter().cloned().collect()
    }

    /// All of them; none stays.
    pub(super) fn take(&mut self) -> PutPayload {
        self.seal();
        self.length = 0;
        PutPayload::from_iter(std::mem::take(&mut self.whole))
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(length: usize) -> Bytes {
        (0..length).map(|at| (at / 7 % 251) as u8).collect()
    }

    #[test]
    fn short_pieces_are_copied_together_and_others_are_not() {
        let (all, mut pieces) = (content(1 << 20), Pieces::default());
        let mut rest = all.clone();
        for length in [10, 20, SHORT, SHORT - 1, 3 * SHORT, 1].into_iter().chain([SHORT - 1; 9]) {
            pieces.push(rest.split_to(length));
        }
        let length = all.len() - rest.len();
        assert_eq!(pieces.len(), length);
        let shared = pieces.shared();
        assert_eq!(Bytes::from(shared.clone()), all[..length]);
        let of_source = |piece: &&Bytes| all.as_ptr_range().contains(&piece.as_ptr());
        let long: Vec<_> = shared.iter().filter(of_source).map(Bytes::len).collect();
        assert_eq!(long, [SHORT, 3 * SHORT], "they are as they came");
        assert!(
            shared.iter().all(|piece| piece.len() <= TOGETHER.max(3 * SHORT)) && shared.iter().count() == 6,
            "{shared:?}"
        );
        assert_eq!((Bytes::from(pieces.take()), pieces.len()), (all.slice(..length), 0));
        assert!(pieces.is_empty() && pieces.shared().iter().count() == 0);
    }
}
