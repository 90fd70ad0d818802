//! Entries of a `SolveRequest`'s exporters, cache exports and cache imports: all have the shape `{type = 1, attrs = 2}`.

use std::collections::BTreeMap;

use super::wire::{Field, WireError, copy_without, entry, fields, put_bytes, put_map};

const TYPE: u32 = 1;
const ATTRS: u32 = 2;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Entry {
    /// The type, such as `oci`.
    pub(super) kind: String,
    /// The attributes.
    pub(super) attrs: BTreeMap<String, String>,
}

impl Entry {
    /// Reads an entry.
    pub(super) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut read = Self::default();
        for field in fields(message) {
            let field = field?;
            match field.number {
                TYPE => field.text()?.clone_into(&mut read.kind),
                ATTRS => read.attrs.extend([entry(field.bytes)?]),
                _ => {}
            }
        }
        Ok(read)
    }

    /// Appends the entry as field `number`, with the fields of `original` that we do not know.
    pub(super) fn put(&self, message: &mut Vec<u8>, number: u32, original: Option<Field<'_>>) -> Result<(), WireError> {
        let mut bytes = original.map_or(Ok(Vec::new()), |original| copy_without(original.bytes, &[TYPE, ATTRS]))?;
        put_bytes(&mut bytes, TYPE, self.kind.as_bytes());
        put_map(&mut bytes, ATTRS, &self.attrs);
        put_bytes(message, number, &bytes);
        Ok(())
    }
}
