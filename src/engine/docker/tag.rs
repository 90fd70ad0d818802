//! Names, by dockerd: tagging an image with the name it has, so that dockerd takes notice; with another one; and removing.

use http::StatusCode;
use tokio::time::sleep;

use super::load::{is_transient, pause};
use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::engine::images::Record;
use crate::image::{Descriptor, Reference};

/// How often a name is set at most that others give to other images at the same moment.
const TRIES: usize = 20;

/// Has dockerd tag `name` as `name`. It changes nothing and emits `tag` (moby `daemon/containerd/image_tag.go`, `daemon/images/image_tag.go`), and
/// authorization plugins are asked. `false` if dockerd does not know the image, or would
/// not tag it so.
pub(crate) async fn again(docker: &Api, name: &Reference) -> Result<bool, EngineError> {
    // No character of a name is special in a path and a query, and one with a digest is not taggable.
    let (Some(tag), None) = (name.tag(), name.digest()) else { return Ok(false) };
    let repository = name.name();
    let response = docker.post(&format!("/images/{repository}:{tag}/tag?repo={repository}&tag={tag}")).await?;
    match response.status {
        StatusCode::CREATED => Ok(true),
        // There are names that it loads and refuses to tag (`sha256:1`): whether it is loaded again is for it to say.
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Ok(false),
        // Another client moves the name at this moment.
        _ if is_transient(&response.message()) => Ok(false),
        _ => Err(EngineError::Commit { engine: "docker", reason: response.message() }),
    }
}

/// What becomes of a request to set a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tagged {
    Done,
    /// dockerd has no such image.
    Gone,
    /// dockerd loads images of such a name and does not tag them: with a digest, or as `sha256:1`.
    Untaggable,
}

/// Has dockerd make `name` point to `root`, if it may be tagged.
pub(crate) async fn tag(docker: &Api, root: &Descriptor, name: &Reference) -> Result<Tagged, EngineError> {
    match (name.tag(), name.digest()) {
        (Some(tag), None) => request(docker, root, &name.name(), tag).await.map(|(tagged, _)| tagged),
        _ => Ok(Tagged::Untaggable),
    }
}

/// Has dockerd make `name` point to `root`.
pub(crate) async fn set(docker: &Api, root: &Descriptor, name: &Reference) -> Result<(), EngineError> {
    match request(docker, root, &name.name(), name.tag().unwrap_or("latest")).await? {
        (Tagged::Done, _) => Ok(()),
        (_, reason) => Err(EngineError::Commit { engine: "docker", reason }),
    }
}

/// What became of it, and what dockerd says.
async fn request(
    docker: &Api,
    root: &Descriptor,
    repository: &str,
    tag: &str,
) -> Result<(Tagged, String), EngineError> {
    let path = format!("/images/{}/tag?repo={repository}&tag={tag}", root.digest);
    for left in (0..TRIES).rev() {
        let response = docker.post(&path).await?;
        match response.status {
            StatusCode::CREATED => break,
            StatusCode::NOT_FOUND => return Ok((Tagged::Gone, response.message())),
            StatusCode::BAD_REQUEST => return Ok((Tagged::Untaggable, response.message())),
            _ if left > 0 && is_transient(&response.message()) => sleep(pause()).await,
            _ => return Err(EngineError::Commit { engine: "docker", reason: response.message() }),
        }
    }
    Ok((Tagged::Done, String::new()))
}

/// Has dockerd remove a name, or an image that has none. A container that uses it is dockerd's business.
pub(crate) async fn remove(docker: &Api, record: &Record, force: bool) -> Result<(), EngineError> {
    let name = record.name.clone().unwrap_or_else(|| record.target.digest.to_string());
    delete(docker, &name, if force { "force=1" } else { "force=0" }).await
}

/// Has dockerd take a name away again; images without a name that its image was built from stay.
pub(crate) async fn take(docker: &Api, name: &Reference) -> Result<(), EngineError> {
    delete(docker, &name.to_string(), "noprune=1").await
}

async fn delete(docker: &Api, name: &str, how: &str) -> Result<(), EngineError> {
    // Records of others may have names that are none.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/@".contains(&byte);
    let path: String = name
        .bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    let response = docker.delete(&format!("/images/{path}?{how}")).await?;
    match response.status {
        StatusCode::OK | StatusCode::NOT_FOUND => Ok(()),
        _ => Err(EngineError::Commit { engine: "docker", reason: response.message() }),
    }
}
