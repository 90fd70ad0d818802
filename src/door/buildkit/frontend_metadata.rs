//! A frontend's metadata beside its image: the name and the timestamp that it chose.
//!
//! The builder's exporters use them (BuildKit `exporter/containerimage/export.go`), and so do we if the build's
//! response lacks them.

use std::collections::HashMap;

use bollard_buildkit_proto::moby::buildkit::v1::frontend::ReturnRequest;
use prost::Message;

use super::exporters::Exporter;
use super::wire::{entry, fields};

/// The names of the image, separated by commas (`exptypes/types.go`).
const NAME: &str = "image.name";
/// The time of its sources, in seconds (`exporter/exptypes/keys.go`).
const EPOCH: &str = "source.date.epoch";

/// A frontend's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FrontendMetadata {
    /// The name that replaces `name=*`.
    pub(super) name: Option<String>,
    /// The time of the sources, if neither the user nor a build argument sets one.
    pub(super) epoch: Option<String>,
}

impl FrontendMetadata {
    /// From `LLBBridge.Return`, by which a client that runs the frontend sends its result.
    pub(super) fn from_return(request: &[u8]) -> Self {
        let metadata = ReturnRequest::decode(request).ok().and_then(|request| request.result);
        let metadata = metadata.map(|result| result.metadata).unwrap_or_default();
        let text = |key| metadata.get(key).and_then(|bytes| String::from_utf8(bytes.clone()).ok());
        Self { name: text(NAME), epoch: text(EPOCH) }
    }

    /// From `FindExporters`, with which a builder sends the result's metadata before it exports.
    pub(super) fn from_find_exporters(request: &[u8]) -> Self {
        // FindExportersRequest.metadata (BuildKit `session/exporter/exporter.proto`). Other values of it are no text.
        let metadata = fields(request).filter_map(Result::ok).filter(|field| field.number == 1);
        Self::from_record(&metadata.filter_map(|field| entry(field.bytes).ok()).collect())
    }

    /// From the builder's record of a build.
    pub(super) fn from_record(metadata: &HashMap<String, String>) -> Self {
        Self { name: metadata.get(NAME).cloned(), epoch: metadata.get(EPOCH).cloned() }
    }

    /// The same for one exporter: its attribute with the same key overrides the frontend's metadata.
    pub(super) fn for_exporter(&self, exporter: &Exporter) -> Self {
        let value = |key, own: &Option<String>| exporter.attrs.get(key).or(own.as_ref()).cloned();
        Self { name: value(NAME, &self.name), epoch: value(EPOCH, &self.epoch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::buildkit::wire::put_bytes;
    use bollard_buildkit_proto::moby::buildkit::v1::frontend::Result as GatewayResult;

    #[test]
    fn a_result_carries_them_and_an_attribute_overrides_them() {
        let metadata = HashMap::from([(NAME.to_owned(), b"n1,n2".to_vec()), (EPOCH.to_owned(), b"7".to_vec())]);
        let result = Some(GatewayResult { metadata, ..GatewayResult::default() });
        let frontend = FrontendMetadata::from_return(&ReturnRequest { result, error: None }.encode_to_vec());
        assert_eq!((frontend.name.as_deref(), frontend.epoch.as_deref()), (Some("n1,n2"), Some("7")));
        let exporter = Exporter { kind: "oci".into(), attrs: [(NAME.to_owned(), "mine".to_owned())].into() };
        let own = frontend.for_exporter(&exporter);
        assert_eq!((own.name.as_deref(), own.epoch.as_deref()), (Some("mine"), Some("7")));
        assert_eq!(FrontendMetadata::from_return(b"\xff"), FrontendMetadata::default());

        let mut request = Vec::new();
        for (key, value) in [(NAME, &b"n1,n2"[..]), ("containerimage.config", b"\xff"), (EPOCH, b"7")] {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            put_bytes(&mut entry, 2, value);
            put_bytes(&mut request, 1, &entry);
        }
        put_bytes(&mut request, 2, b"a reference");
        assert_eq!(FrontendMetadata::from_find_exporters(&request), frontend);
        assert_eq!(FrontendMetadata::from_find_exporters(b"\xff"), FrontendMetadata::default());
    }
}
