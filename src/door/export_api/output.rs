//! ReadOutput: what an exporter made, in parts.

use std::future::ready;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tonic::Status;

use super::session::Session;
use crate::export_v1::proto::{ExportState, ReadOutputRequest, ReadOutputResponse};
use crate::export_v1::{ApiError, ResponseStream};

/// The most that one message holds, in bytes.
const PART: usize = 1 << 20;

/// The parts of an output, from an offset on. The lease stays as long as they are read.
pub(super) fn read(
    session: &Session,
    request: &ReadOutputRequest,
) -> Result<ResponseStream<ReadOutputResponse>, ApiError> {
    if matches!(session.stage().state, ExportState::Aborted | ExportState::Expired) {
        session.check_alive()?;
    }
    let id = &request.exporter_id;
    if session.record.exporter(id).is_none() {
        return Err(ApiError::field("exporter_id", format!("`{id}` is none of the export `{}`", session.id)));
    }
    let output = session.stage().outputs.get(id).cloned().ok_or_else(|| {
        ApiError::field(
            "exporter_id",
            format!("`{id}` has made nothing to be read; its type must, and commit it first"),
        )
    })?;
    let offset = u64::try_from(request.offset).ok().filter(|offset| *offset <= output.size());
    let Some(offset) = offset else {
        let what = format!("{} is outside of the output, which has {} bytes", request.offset, output.size());
        return Err(ApiError::field("offset", what));
    };
    let chunks = output.clone().read(session.contents.images.clone(), offset);
    let responses = parts(chunks, offset).map(move |part| {
        // One that is being read is not forgotten.
        let _kept = &output;
        part.map(|(offset, data)| ReadOutputResponse { offset, data })
    });
    Ok(responses.boxed())
}

/// `chunks` in parts of at most [`PART`] bytes, each with its offset; the first has `offset`.
pub(super) fn parts<E>(
    chunks: impl Stream<Item = Result<Bytes, E>>,
    offset: u64,
) -> impl Stream<Item = Result<(i64, Bytes), Status>>
where
    ApiError: From<E>,
{
    let parts = chunks.scan(offset, |offset, chunk| {
        let mut parts = Vec::new();
        match chunk {
            Err(error) => parts.push(Err(ApiError::from(error).into())),
            Ok(mut chunk) => {
                while !chunk.is_empty() {
                    let data = chunk.split_to(chunk.len().min(PART));
                    let end = *offset + data.len() as u64;
                    parts.push(Ok((i64::try_from(*offset).unwrap_or(i64::MAX), data)));
                    *offset = end;
                }
            }
        }
        ready(Some(stream::iter(parts)))
    });
    parts.flatten()
}
