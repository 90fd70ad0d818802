//! A cache export in the client's progress display: in the builder's own vertex, under another name.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::super::grpc::FRAME_HEADER;
use super::super::wire::{WireError, fields, put_bytes};
use super::builder_export::Moved;
use crate::caches::ResolvedPart;
use crate::image::Digest;

/// `StatusResponse.vertexes`, and of a `Vertex` its digest and its name (BuildKit `api/services/control/control.proto`).
const VERTEXES: u32 = 1;
const DIGEST: u32 = 1;
const NAME: u32 = 3;

/// The digest of the vertex of the cache export `index` (BuildKit `solver/llbsolver/solver.go`, `inBuilderContext`).
pub(super) fn vertex(session: &str, index: usize) -> String {
    Digest::sha256(format!("{session}-cache-{index}").as_bytes()).to_string()
}

/// The vertex's name.
pub(super) fn name(engine: &str, refs: &str) -> String {
    format!("exporting cache to {engine} as {refs}")
}

/// `17 layers already in docker, 1 sent (3.2MB)`.
pub(super) fn summary(engine: &str, moved: Moved, size: &str) -> String {
    let Moved { present, sent, .. } = moved;
    let layers = if present == 1 { "1 layer".to_owned() } else { format!("{present} layers") };
    format!("{layers} already in {engine}, {sent} sent ({size})")
}

/// `importing cache app from docker: 3 versions, 14 layers`; `None` if there is none.
pub(super) fn found(engine: &str, name: &str, parts: &[ResolvedPart]) -> Option<String> {
    if parts.is_empty() {
        return None;
    }
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let listed: usize = parts.iter().map(|part| part.listed.layers.len()).sum();
    let missing: usize = parts.iter().map(|part| part.missing).sum();
    let layers = count(listed, "layer");
    let lost = if missing == 0 { String::new() } else { format!(", {missing} of them lost") };
    Some(format!("importing cache {name} from {engine}: {}, {layers}{lost}", count(parts.len(), "version")))
}

/// `importing the inline cache of app:1 from docker`.
pub(super) fn found_inline(engine: &str, name: &str) -> String {
    format!("importing the inline cache of {name} from {engine}")
}

/// A frame with a `StatusResponse` in which the vertexes that `name_of` knows have other names. What is no such frame stays.
pub(in super::super) fn renamed(frame: Bytes, name_of: impl Fn(&str) -> Option<String>) -> Bytes {
    edited(&frame, name_of).ok().flatten().unwrap_or(frame)
}

fn edited(frame: &Bytes, name_of: impl Fn(&str) -> Option<String>) -> Result<Option<Bytes>, WireError> {
    // Compressed messages, which nobody sends here, stay as they are.
    let Some(message) = frame.get(FRAME_HEADER..).filter(|_| frame[0] == 0) else { return Ok(None) };
    let mut edited = Vec::with_capacity(message.len() + 128);
    let mut is_changed = false;
    for field in fields(message) {
        let field = field?;
        match field.number {
            VERTEXES => match vertex_name(field.bytes, &name_of)? {
                Some(name) => {
                    let mut vertex = super::super::wire::copy_without(field.bytes, &[NAME])?;
                    put_bytes(&mut vertex, NAME, name.as_bytes());
                    put_bytes(&mut edited, VERTEXES, &vertex);
                    is_changed = true;
                }
                None => edited.extend_from_slice(field.raw),
            },
            _ => edited.extend_from_slice(field.raw),
        }
    }
    Ok(is_changed.then(|| {
        let mut frame = BytesMut::with_capacity(FRAME_HEADER + edited.len());
        frame.put_u8(0);
        // A status message is far below 4 GiB.
        frame.put_u32(edited.len() as u32);
        frame.put_slice(&edited);
        frame.freeze()
    }))
}

fn vertex_name(vertex: &[u8], name_of: &impl Fn(&str) -> Option<String>) -> Result<Option<String>, WireError> {
    for field in fields(vertex) {
        let field = field?;
        if field.number == DIGEST {
            return Ok(name_of(field.text()?));
        }
    }
    Ok(None)
}
