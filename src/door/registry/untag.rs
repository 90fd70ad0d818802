//! Removing tags. Blobs and manifests go when the engine collects them.

use http::{Response, StatusCode};

use super::Door;
use super::blobs::digest_of;
use super::refusal::{Code, Refusal};
use super::repository::Repository;
use super::response::empty;
use crate::engine::EngineError;
use crate::engine::images::Record;
use crate::http2::Body;
use crate::net::Principal;

impl Door {
    /// The response to a DELETE of a manifest.
    pub(super) async fn untag(
        &self,
        repository: &Repository,
        reference: &str,
        client: &Principal,
    ) -> Result<Response<Body>, Refusal> {
        if reference.contains(':') {
            let message = format!(
                "manifests are not removed by their digests: the engine removes them when no name points to them; hint: DELETE \
                 the tag instead (`/v2/{}/manifests/TAG`), or use `linkspan rm NAME:TAG`; what has no tag, such as a signature, \
                 goes with `linkspan rm {}` on the engine's machine",
                repository.name,
                digest_of(reference).map_or_else(|_| "DIGEST".to_owned(), |digest| digest.to_string())
            );
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message);
            return Err(refusal.about("digest", reference));
        }
        let name = repository.tagged(reference)?;
        if !self.exports.policy(client).may_delete(&name) {
            let message =
                "this name must not be removed by this client; where names must not move, nobody removes them";
            return Err(Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message));
        }
        let unknown = || Refusal::absent(Code::ManifestUnknown, "there is no such tag").about("tag", reference);
        // Engines that cannot compare and remove would take away what an export sets in between.
        let _held = self.exports.hold_names(std::slice::from_ref(&name)).await?;
        let target = self.images.resolve(&name).await?.ok_or_else(unknown)?;
        let record = Record { name: Some(name.to_string()), target };
        match self.exports.engine().remove(&record, false).await {
            Ok(()) => Ok(empty(StatusCode::ACCEPTED)),
            Err(EngineError::NameMoved { .. }) => {
                let message = "the tag was moved to another image meanwhile; try again";
                Err(Refusal::new(StatusCode::CONFLICT, Code::Denied, message))
            }
            Err(error @ EngineError::Commit { .. }) => {
                Err(Refusal::new(StatusCode::CONFLICT, Code::Denied, error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }
}
