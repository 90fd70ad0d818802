//! ReadOutput: what an exporter made, in parts.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tonic::Status;

use super::session::Session;
use crate::export_v1::ApiError;
use crate::export_v1::proto::{ExportState, ReadOutputRequest, ReadOutputResponse};
use crate::output::Output;

/// The most that one message holds, in bytes.
pub(super) const PART: usize = 1 << 20;

type Parts = Pin<Box<dyn Stream<Item = Result<ReadOutputResponse, Status>> + Send>>;

/// The parts of an output, from an offset on. The lease stays as long as they are read.
pub(super) fn read(session: &Session, request: &ReadOutputRequest) -> Result<Parts, ApiError> {
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
    let chunks = output.clone().read(session.images.clone(), offset);
    let parts = chunks.scan(offset, |at, chunk| {
        let mut parts = Vec::new();
        match chunk {
            Err(error) => parts.push(Err(ApiError::from(error).into())),
            Ok(mut chunk) => {
                while !chunk.is_empty() {
                    let data = chunk.split_to(chunk.len().min(PART));
                    let offset = i64::try_from(*at).unwrap_or(i64::MAX);
                    *at += data.len() as u64;
                    parts.push(Ok(ReadOutputResponse { offset, data }));
                }
            }
        }
        std::future::ready(Some(futures_util::stream::iter(parts)))
    });
    Ok(Box::pin(Held { parts: parts.flatten().boxed(), _output: output }))
}

/// Parts that are being read, and what says so: an output that is being read is not forgotten.
struct Held<T> {
    parts: Pin<Box<dyn Stream<Item = T> + Send>>,
    _output: Arc<dyn Output>,
}

impl<T> Stream for Held<T> {
    type Item = T;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.parts.poll_next_unpin(context)
    }
}
