//! What an engine is, as the APIs report it.

use super::{Engine, Storage};
use crate::export_v1::convert::platform_message;
use crate::export_v1::proto;
use crate::image::Platform;

/// The engine in a response to Capabilities.
pub(crate) fn identity_message(engine: &dyn Engine) -> proto::Engine {
    let (identity, sharing) = (engine.identity(), engine.sharing());
    let (namespace, snapshotter) = match &identity.storage {
        Storage::Containerd { namespace, snapshotter, .. } | Storage::Cluster { namespace, snapshotter, .. } => {
            (namespace.clone(), snapshotter.clone())
        }
        Storage::Classic { .. } | Storage::Directory {} | Storage::Bucket {} => Default::default(),
    };
    proto::Engine {
        kind: identity.kind.to_string(),
        version: identity.version.clone(),
        id: sharing.containerd.clone().unwrap_or_else(|| identity.address.clone()),
        namespace,
        snapshotter,
        platforms: vec![platform_message(&Platform::host())],
        sharing: Some(proto::Sharing {
            namespaces: sharing.namespaces,
            containerd_id: sharing.containerd.unwrap_or_default(),
        }),
    }
}
