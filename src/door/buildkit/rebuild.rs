//! Runs a build a second time on the client's session, when the builder lacks layers of its own image.
//!
//! Layers of a base image that no step needed are *lazy*: the builder knows their digests but never pulled them; and a
//! builder may prune between its response and our read. The builder's `oci` exporter fetches every layer before it
//! looks for a receiver, so the build is repeated with that exporter under an index that the client has no receiver
//! for: it pulls, then fails. A second repetition exports the image again. Everything but the missing layers is cached.
//! We act as the gateway client: its calls were recorded and are sent again under the new build's id.
//!
//! A build is also repeated when one of its other exporters failed, because then the builder keeps no exporter's
//! result.

use std::collections::BTreeMap;

use bollard_buildkit_proto::moby::buildkit::v1::frontend::{Result as GatewayResult, SolveResponse, result};
use bytes::Bytes;
use futures_util::future::try_join;
use prost::Message;
use tonic::Status;

use super::builder::Builder;
use super::builds::Recording;
use super::exporters::Exporter;
use super::response::BuildResponse;
use super::solve::{History, Solve};
use super::unary::call;
use super::wire::WireError;
use crate::export::unique_id;
use crate::http2::{PooledConnection, UpstreamConnection};

pub(super) const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";
pub(super) const GATEWAY_SOLVE: &str = "/moby.buildkit.v1.frontend.LLBBridge/Solve";
pub(super) const GATEWAY_RETURN: &str = "/moby.buildkit.v1.frontend.LLBBridge/Return";

/// A repeated build. Its record in the builder's history retains its documents until [`Builder::forget`]; the builder's
/// cache retains its layers, as after any build.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub(super) build: String,
    pub(super) response: BuildResponse,
}

/// Makes the builder fetch every blob of the image, and exports it again with `exporters`; `load` is one of them that
/// leaves the image in the builder's content store.
pub(super) async fn rebuild(
    builder: &Builder,
    solve: &Solve,
    exporters: &[Exporter],
    load: &Exporter,
    recording: &Recording,
) -> Result<Rebuilt, Status> {
    let connection = connect(builder, recording).await?;
    // Every index that the client might have a receiver for gets an exporter that leaves its image with the builder.
    let mut unlazying = vec![load.clone(); exporters.len()];
    unlazying.push(load.unlazying());
    let build = unique_id();
    let request = solve.again(&build, &unlazying, History::Skip).map_err(internal)?;
    // This repetition is meant to fail at its end. If it failed earlier, the second one reports why.
    if let Err(status) = run(&connection, &build, &request, recording).await {
        tracing::debug!(%build, %status, "the builder was made to fetch lazy layers");
    }

    solve_again(&connection, solve, exporters, recording).await
}

/// Runs the build once more, with `exporters` in place of its own.
pub(super) async fn once(
    builder: &Builder,
    solve: &Solve,
    exporters: &[Exporter],
    recording: &Recording,
) -> Result<Rebuilt, Status> {
    let connection = connect(builder, recording).await?;
    solve_again(&connection, solve, exporters, recording).await
}

async fn connect(builder: &Builder, recording: &Recording) -> Result<PooledConnection, Status> {
    if recording.incomplete {
        return Err(Status::resource_exhausted("the build's requests were too large to be kept for a repetition"));
    }
    builder.connections.connect().await.map_err(|error| Status::unavailable(error.to_string()))
}

async fn solve_again(
    connection: &UpstreamConnection,
    solve: &Solve,
    exporters: &[Exporter],
    recording: &Recording,
) -> Result<Rebuilt, Status> {
    let build = unique_id();
    let request = solve.again(&build, exporters, History::Keep).map_err(internal)?;
    let response = run(connection, &build, &request, recording).await?;
    Ok(Rebuilt { build, response: BuildResponse::read(&response).map_err(internal)? })
}

fn internal(error: WireError) -> Status {
    Status::internal(error.to_string())
}

/// One `Solve`, with the gateway calls that a client would make meanwhile.
async fn run(
    connection: &UpstreamConnection,
    build: &str,
    request: &[u8],
    recording: &Recording,
) -> Result<Bytes, Status> {
    let gateway = async {
        // Without a result the build did not use the gateway: its definition is in the request.
        let Some(result) = &recording.result else { return Ok(()) };
        let mut refs = BTreeMap::new();
        for (request, first_response) in &recording.solves {
            let response = call(connection, GATEWAY_SOLVE, Some(build), request).await?;
            refs.extend(ids(first_response)?.into_iter().zip(ids(&response)?));
        }
        call(connection, GATEWAY_RETURN, Some(build), &renamed(result, &refs)?).await.map(drop)
    };
    try_join(call(connection, SOLVE, None, request), gateway).await.map(|(response, ())| response)
}

/// The ids of the references in a gateway response, in an order that depends only on its shape.
fn ids(response: &[u8]) -> Result<Vec<String>, Status> {
    let response = SolveResponse::decode(response).map_err(|error| Status::internal(error.to_string()))?;
    let GatewayResult { result, attestations, .. } = response.result.unwrap_or_default();
    let mut ids = match result {
        Some(result::Result::RefDeprecated(id)) => vec![id],
        Some(result::Result::Ref(reference)) => vec![reference.id],
        Some(result::Result::RefsDeprecated(map)) => BTreeMap::from_iter(map.refs).into_values().collect(),
        Some(result::Result::Refs(map)) => BTreeMap::from_iter(map.refs).into_values().map(|r| r.id).collect(),
        None => Vec::new(),
    };
    let attestations = BTreeMap::from_iter(attestations).into_values().flat_map(|list| list.attestation);
    ids.extend(attestations.filter_map(|attestation| attestation.r#ref).map(|reference| reference.id));
    ids.retain(|id| !id.is_empty());
    Ok(ids)
}

/// `message` with each id replaced. BuildKit's ids all have one length (`identity/randomid.go`), so the
/// lengths around them stay right and fields that we do not know are kept.
fn renamed(message: &[u8], refs: &BTreeMap<String, String>) -> Result<Vec<u8>, Status> {
    let mut message = message.to_vec();
    for (old, new) in refs {
        if old.len() != new.len() {
            return Err(Status::internal(format!("the builder's reference `{new}` has another length than `{old}`")));
        }
        let mut from = 0;
        while let Some(at) = message[from..].windows(old.len()).position(|window| window == old.as_bytes()) {
            message[from + at..][..old.len()].copy_from_slice(new.as_bytes());
            from += at + old.len();
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard_buildkit_proto::moby::buildkit::v1::frontend::{Ref, RefMap, ReturnRequest};

    fn refs(ids: &[(&str, &str)]) -> GatewayResult {
        let refs = ids
            .iter()
            .map(|(platform, id)| ((*platform).to_owned(), Ref { id: (*id).to_owned(), def: None }))
            .collect();
        GatewayResult { result: Some(result::Result::Refs(RefMap { refs })), ..GatewayResult::default() }
    }

    #[test]
    fn the_result_of_a_repetition_names_its_own_references() {
        let response = |result| SolveResponse { result: Some(result), ..SolveResponse::default() }.encode_to_vec();
        let first = response(refs(&[("linux/arm64", "id-2"), ("linux/amd64", "id-1")]));
        let second = response(refs(&[("linux/amd64", "id-8"), ("linux/arm64", "id-9")]));
        let map = ids(&first).unwrap().into_iter().zip(ids(&second).unwrap()).collect();
        let given =
            ReturnRequest { result: Some(refs(&[("linux/amd64", "id-1"), ("linux/arm64", "id-2")])), error: None };
        let renamed = ReturnRequest::decode(&*renamed(&given.encode_to_vec(), &map).unwrap()).unwrap();
        assert_eq!(renamed.result.unwrap(), refs(&[("linux/amd64", "id-8"), ("linux/arm64", "id-9")]));
    }
}
