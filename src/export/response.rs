//! The response of an exporter of images, with the keys that BuildKit's clients read.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::image::Descriptor;

// BuildKit `exporter/containerimage/exptypes/types.go`.
/// The root's descriptor: JSON in base64.
pub const DESCRIPTOR: &str = "containerimage.descriptor";
/// The root's digest.
pub const DIGEST: &str = "containerimage.digest";
/// The config's digest, of an image of one platform.
pub const CONFIG_DIGEST: &str = "containerimage.config.digest";
/// The names, separated by commas.
pub const NAME: &str = "image.name";

/// The response of an exporter of images for `root`.
pub fn image_response(root: &Descriptor, config: Option<String>, names: Option<String>) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::from([(DIGEST.to_owned(), root.digest.to_string())]);
    keys.extend(config.map(|digest| (CONFIG_DIGEST.to_owned(), digest)));
    keys.extend(names.map(|names| (NAME.to_owned(), names)));
    // A descriptor is strings and numbers: writing it cannot fail. Its fields are in the builder's order.
    keys.extend(serde_json::to_string(root).map(|json| (DESCRIPTOR.to_owned(), BASE64.encode(json))));
    keys
}
