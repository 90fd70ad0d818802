//! Tagging an image with the name it has: nothing changes, and dockerd takes notice.

use http::StatusCode;

use super::load::is_transient;
use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::image::Reference;

/// Has dockerd tag `name` as `name`. It changes nothing and emits `tag` (moby `daemon/containerd/image_tag.go`, `daemon/images/image_tag.go`), and
/// authorization plugins are asked. `false` if dockerd does not know the image, or would
/// not tag it so.
pub(crate) async fn again(docker: &Api, name: &Reference) -> Result<bool, EngineError> {
    // A name's characters all stand for themselves in a path and a query, and one with a digest is not taggable.
    let (Some(tag), None) = (name.tag(), name.digest()) else { return Ok(false) };
    let repository = name.name();
    let answer = docker.post(&format!("/images/{repository}:{tag}/tag?repo={repository}&tag={tag}")).await?;
    match answer.status {
        StatusCode::CREATED => Ok(true),
        // There are names that it loads and refuses to tag (`sha256:1`): whether it is loaded again is for it to say.
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Ok(false),
        // Somebody else gives the name to another image at this moment.
        _ if is_transient(&answer.message()) => Ok(false),
        _ => Err(EngineError::Commit { engine: "docker", reason: answer.message() }),
    }
}
