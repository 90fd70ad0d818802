//! The lists of what refers to a manifest.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::PublishError;
use super::files::Files;
use crate::image::{Descriptor, Digest, Document};

/// The type of the lists.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A list, as an index.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// The parts of a manifest that a list has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    subject: Option<Subject>,
    artifact_type: Option<String>,
    config: Option<Typed>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Subject {
    digest: Digest,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<String>,
}

/// The list of the subject of `document` with it, if it has a subject.
pub(super) async fn with(
    files: &dyn Files,
    path: &str,
    document: &Document,
) -> Result<Option<(Digest, Bytes)>, PublishError> {
    let Ok(Fields { subject: Some(Subject { digest: subject }), artifact_type, config, annotations }) =
        serde_json::from_slice(&document.bytes)
    else {
        return Ok(None);
    };
    let found = files.read(&format!("v2/{path}/referrers/{subject}")).await?;
    let known = found.and_then(|found| serde_json::from_slice::<List>(&found).ok());
    let mut list = known.map(|known| known.manifests).unwrap_or_default();
    let artifact_type = artifact_type.or_else(|| config?.media_type);
    let referrer =
        Descriptor { artifact_type, annotations: annotations.unwrap_or_default(), ..document.descriptor.clone() };
    list.retain(|known| known.digest != referrer.digest);
    list.push(referrer);
    list.sort_by(|one, other| one.digest.cmp(&other.digest));
    let list = List { schema_version: 2, media_type: INDEX.to_owned(), manifests: list };
    Ok(Some((subject, serde_json::to_vec(&list).map_err(PublishError::Json)?.into())))
}
