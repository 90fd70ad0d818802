//! Protobuf on the wire, read and written field by field.
//!
//! Messages of newer clients carry fields that our generated types do not know; decoding and
//! re-encoding would drop them. So every other field is copied as bytes.

use std::collections::BTreeMap;

/// Why bytes are not a protobuf message that can be edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message: {0}")]
pub(super) struct WireError(&'static str);

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// Its number.
    pub(super) number: u32,
    /// Its bytes, tag included.
    pub(super) raw: &'a [u8],
    /// Its payload, if it has a length; empty otherwise.
    pub(super) bytes: &'a [u8],
    /// Its value, if it is a varint; zero otherwise.
    pub(super) varint: u64,
}

impl<'a> Field<'a> {
    /// The payload as text.
    pub(super) fn text(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes).map_err(|_| WireError("a string is not UTF-8"))
    }
}

/// The fields of a message, in order.
pub(super) fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

/// Iterates over the fields of a message; ends after the first error.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<Field<'a>, WireError> {
        let start = self.rest;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError("a field number is too large"))?;
        let (mut bytes, mut varint) = (&[][..], 0);
        match tag & 7 {
            0 => varint = self.varint()?,
            1 => drop(self.take(8)?),
            2 => {
                let length = self.varint()?;
                bytes = self.take(usize::try_from(length).map_err(|_| WireError("a length is too large"))?)?;
            }
            5 => drop(self.take(4)?),
            _ => return Err(WireError("an unknown wire type")),
        }
        Ok(Field { number, raw: &start[..start.len() - self.rest.len()], bytes, varint })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(WireError("it ends within a field"))?;
        self.rest = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError("a number has more than ten bytes"))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Appends a field with a length.
pub(super) fn put_bytes(message: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_number(message, u64::from(number) << 3 | 2);
    put_number(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// Appends a varint field.
pub(super) fn put_varint(message: &mut Vec<u8>, number: u32, value: u64) {
    put_number(message, u64::from(number) << 3);
    put_number(message, value);
}

fn put_number(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// The message without the fields `numbers`.
pub(super) fn copy_without(message: &[u8], numbers: &[u32]) -> Result<Vec<u8>, WireError> {
    let mut copy = Vec::with_capacity(message.len() + 256);
    for field in fields(message) {
        let field = field?;
        if !numbers.contains(&field.number) {
            copy.extend_from_slice(field.raw);
        }
    }
    Ok(copy)
}

/// Reads an entry of a `map<string, string>`.
pub(super) fn entry(message: &[u8]) -> Result<(String, String), WireError> {
    let (mut key, mut value) = (String::new(), String::new());
    for field in fields(message) {
        let field = field?;
        match field.number {
            1 => field.text()?.clone_into(&mut key),
            2 => field.text()?.clone_into(&mut value),
            _ => {}
        }
    }
    Ok((key, value))
}

/// Appends a `map<string, string>`.
pub(super) fn put_map(message: &mut Vec<u8>, number: u32, map: &BTreeMap<String, String>) {
    for (key, value) in map {
        let mut entry = Vec::with_capacity(key.len() + value.len() + 8);
        put_bytes(&mut entry, 1, key.as_bytes());
        put_bytes(&mut entry, 2, value.as_bytes());
        put_bytes(message, number, &entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard_buildkit_proto::moby::buildkit::v1::{Exporter, SolveRequest};
    use prost::Message;

    #[test]
    fn copying_every_field_gives_the_same_bytes() {
        let mut bytes = SolveRequest {
            r#ref: "r".into(),
            session: "s".into(),
            internal: true,
            exporters: vec![Exporter { r#type: "oci".into(), attrs: [("name".into(), "a,b".into())].into() }],
            ..SolveRequest::default()
        }
        .encode_to_vec();
        put_varint(&mut bytes, 9_999, u64::MAX);
        let copy: Vec<u8> = fields(&bytes).flat_map(|field| field.unwrap().raw.to_vec()).collect();
        assert_eq!(copy, bytes);
    }

    #[test]
    fn maps_are_read_as_prost_writes_them() {
        let map = BTreeMap::from([("name".to_owned(), "x".repeat(300)), ("tar".to_owned(), String::new())]);
        let mut message = Vec::new();
        put_map(&mut message, 2, &map);
        assert_eq!(Exporter::decode(&*message).unwrap().attrs, map.clone().into_iter().collect());
        let read: BTreeMap<_, _> = fields(&message).map(|field| entry(field.unwrap().bytes).unwrap()).collect();
        assert_eq!(read, map);
    }

    #[test]
    fn broken_messages_are_errors() {
        for broken in [&[0x0a][..], &[0x0a, 5, 1], &[0xff; 12], &[0x0b], &[0x09, 1, 2]] {
            assert!(fields(broken).any(|field| field.is_err()), "{broken:?}");
        }
    }
}
