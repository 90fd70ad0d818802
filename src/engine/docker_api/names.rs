//! What names resolve to, as dockerd's HTTP API says it. With the containerd image store an image's id is the digest of its
//! root (moby `daemon/containerd/image.go`).

use http::StatusCode;
use serde::Deserialize;

use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::engine::images::Record;
use crate::image::{Descriptor, Digest, Reference};

/// The largest list of images that is read: some 50,000 images.
const LIST_BYTES: usize = 64 << 20;
/// The media type of a root of which dockerd does not say it: before 28.0.
const UNKNOWN: &str = "";

/// One image, as dockerd describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    id: Digest,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
    /// Since 28.0.
    #[serde(default)]
    descriptor: Option<Root>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    media_type: String,
    digest: Digest,
    size: u64,
}

impl Listed {
    /// The root; of an older dockerd with no more than its digest.
    pub(super) fn target(&self) -> Descriptor {
        match &self.descriptor {
            Some(root) if root.digest == self.id => {
                Descriptor::new(root.media_type.clone(), root.digest.clone(), root.size)
            }
            _ => Descriptor::new(UNKNOWN, self.id.clone(), 0),
        }
    }

    /// Whether nothing names it.
    pub(super) fn is_dangling(&self) -> bool {
        matches!(&self.records()[..], [Record { name: None, .. }])
    }

    /// Its records: one for each tag; one for each digest that it is known by where it has no tag; one without a name where
    /// it has neither.
    fn records(&self) -> Vec<Record> {
        let full = |names: &Option<Vec<String>>| -> Vec<String> {
            let names = names.iter().flatten().filter_map(|name| name.parse::<Reference>().ok());
            names.map(|name| name.to_string()).collect()
        };
        let mut names = full(&self.repo_tags);
        if names.is_empty() {
            names = full(&self.repo_digests);
        }
        let record = |name| Record { name, target: self.target() };
        if names.is_empty() { vec![record(None)] } else { names.into_iter().map(|name| record(Some(name))).collect() }
    }
}

/// Whether [`Listed::target`] says no more than a digest.
pub(super) fn is_described(target: &Descriptor) -> bool {
    target.media_type != UNKNOWN
}

/// The image that dockerd finds under `name`: a reference, or a digest.
pub(super) async fn image(api: &Api, name: &str) -> Result<Option<Descriptor>, EngineError> {
    Ok(inspect(api, name).await?.map(|image| image.target()))
}

/// What dockerd says of that image.
pub(super) async fn inspect(api: &Api, name: &str) -> Result<Option<Listed>, EngineError> {
    let path = format!("/images/{name}/json");
    let response = api.get(&path).await?;
    let broken = |reason| EngineError::Protocol { operation: format!("asking docker for {path}"), reason };
    match response.status {
        StatusCode::OK => Ok(Some(serde_json::from_slice(&response.body).map_err(|error| broken(error.to_string()))?)),
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(broken(response.message())),
    }
}

/// Every record.
pub(super) async fn list(api: &Api) -> Result<Vec<Record>, EngineError> {
    let broken = |reason| EngineError::Protocol { operation: "asking docker for its images".to_owned(), reason };
    let response = api.get_within("/images/json?all=1", LIST_BYTES).await?;
    if response.status != StatusCode::OK {
        return Err(broken(response.message()));
    }
    let images: Vec<Listed> = serde_json::from_slice(&response.body).map_err(|error| broken(error.to_string()))?;
    Ok(images.iter().flat_map(Listed::records).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(image: serde_json::Value) -> Vec<Option<String>> {
        let listed: Listed = serde_json::from_value(image).unwrap();
        listed.records().into_iter().map(|record| record.name).collect()
    }

    #[test]
    fn an_image_has_a_record_for_each_name() {
        let id = Digest::sha256(b"root");
        let at = |name: &str| format!("{name}@{id}");
        let image = |tags: serde_json::Value, digests: serde_json::Value| {
            records(serde_json::json!({"Id": id, "RepoTags": tags, "RepoDigests": digests}))
        };
        let both = image(serde_json::json!(["demo:1", "reg.example/b:2"]), serde_json::json!([at("demo")]));
        assert_eq!(both, [Some("docker.io/library/demo:1".to_owned()), Some("reg.example/b:2".to_owned())]);
        let pinned = image(serde_json::json!([]), serde_json::json!([at("demo")]));
        assert_eq!(pinned, [Some(format!("docker.io/library/demo@{id}"))]);
        assert_eq!(image(serde_json::Value::Null, serde_json::Value::Null), [None]);
        assert_eq!(image(serde_json::json!(["<none>:<none>"]), serde_json::json!(["<none>@<none>"])), [None]);
    }

    #[test]
    fn a_descriptor_of_another_image_is_not_believed() {
        let (id, other) = (Digest::sha256(b"root"), Digest::sha256(b"other"));
        let listed = |digest: &Digest| -> Listed {
            let descriptor = serde_json::json!({"mediaType": "a/b", "digest": digest, "size": 4});
            serde_json::from_value(serde_json::json!({"Id": id, "Descriptor": descriptor})).unwrap()
        };
        assert_eq!(listed(&id).target(), Descriptor::new("a/b", id.clone(), 4));
        assert!(!is_described(&listed(&other).target()));
        let huge = serde_json::json!({"Id": id, "Descriptor": {"mediaType": "a/b", "digest": id, "size": -1}});
        assert!(serde_json::from_value::<Listed>(huge).is_err());
    }
}
