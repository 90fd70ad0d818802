//! The properties that the fuzz target `solve` checks for any bytes.

use std::collections::BTreeMap;

use bollard_buildkit_proto::moby::buildkit::v1::SolveRequest;
use bytes::Bytes;
use prost::Message as _;

use super::solve::{History, Solve};
use super::wire::{entry, fields, put_map};
use crate::build_outputs::{LoadCompression, OutputOptions, PushCompression};

/// The concatenated fields of a message are the message, and an edited request reads back as edited.
pub fn solve(bytes: &[u8]) {
    let copied: Result<Vec<_>, _> = fields(bytes).map(|field| field.map(|field| field.raw.to_vec())).collect();
    if let Ok(copied) = copied {
        assert_eq!(copied.concat(), bytes);
    }
    if let Ok((key, value)) = entry(bytes) {
        let mut message = Vec::new();
        put_map(&mut message, 1, &BTreeMap::from([(key.clone(), value.clone())]));
        let read = fields(&message).next().and_then(Result::ok).map(|field| entry(field.bytes).ok());
        assert_eq!(read, Some(Some((key, value))));
    }
    valid(bytes);
    let Ok(solve) = Solve::read(Bytes::copy_from_slice(bytes)) else { return };
    for (plain_is_load, load_compression) in [(false, LoadCompression::Fast), (true, LoadCompression::Unchanged)] {
        let options = OutputOptions { plain_is_load, load_compression, ..OutputOptions::default() };
        let Some(exporters) = solve.builder_exporters(options) else { continue };
        let edited = [solve.with_exporters(&exporters), solve.again("again", &exporters, History::Skip)];
        for message in edited.into_iter().flatten() {
            let read = Solve::read(message.clone());
            assert_eq!(read.map(|read| read.exporters).ok(), Some(exporters.clone()));
        }
    }
}

/// A valid request of a BuildKit client stays valid when it is edited.
fn valid(bytes: &[u8]) {
    // Encoded anew, because prost accepts a map field of the varint wire type, which BuildKit refuses.
    let Ok(request) = SolveRequest::decode(bytes) else { return };
    let Ok(solve) = Solve::read(request.encode_to_vec().into()) else { return };
    let gzip = OutputOptions { push_compression: PushCompression::Gzip, ..OutputOptions::default() };
    if let Ok(Some(message)) = solve.with_pushes(gzip) {
        assert!(SolveRequest::decode(message).is_ok_and(|edited| edited.frontend_attrs == request.frontend_attrs));
    }
    let options = OutputOptions { plain_is_load: true, ..OutputOptions::default() };
    let Some(exporters) = solve.builder_exporters(options) else { return };
    for message in [solve.with_exporters(&exporters), solve.again("again", &exporters, History::Keep)] {
        let Ok(message) = message else { continue };
        assert!(SolveRequest::decode(message).is_ok_and(|edited| edited.frontend_attrs == request.frontend_attrs));
    }
}
