//! Tagging an image with the name it has: nothing changes, and dockerd takes notice.

use http::StatusCode;

use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::image::Reference;

/// Has dockerd tag `name` as `name`. It changes nothing and emits `tag` (moby `daemon/containerd/image_tag.go`, `daemon/images/image_tag.go`), and
/// authorization plugins are asked. `false` if dockerd does not know the image.
pub(crate) async fn again(docker: &Api, name: &Reference) -> Result<bool, EngineError> {
    // A name's characters all stand for themselves in a path and a query, and one with a digest is not taggable.
    let (Some(tag), None) = (name.tag(), name.digest()) else { return Ok(false) };
    let repository = format!("{}/{}", name.domain(), name.path());
    let answer = docker.post(&format!("/images/{repository}:{tag}/tag?repo={repository}&tag={tag}")).await?;
    match answer.status {
        StatusCode::CREATED => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(EngineError::Commit { engine: "docker", reason: answer.message() }),
    }
}
