//! What a containerd is: version, identity, snapshotter and sharing policy, by introspection.

use std::path::PathBuf;

use containerd_client::services::v1::{GetNamespaceRequest, Plugin, PluginsRequest};
use tonic::Code;

use super::client::{Client, Expect as _};
use crate::engine::EngineError;
use crate::engine::layer_applier::ApplierChoice;

/// The snapshotter that containerd's clients use on Linux (containerd `defaults.DefaultSnapshotter`).
pub(crate) const DEFAULT_SNAPSHOTTER: &str = "overlayfs";
/// The namespace label that names another one (containerd `defaults.DefaultSnapshotterNSLabel`).
const SNAPSHOTTER_LABEL: &str = "containerd.io/defaults/snapshotter";
/// A snapshotter with this capability lets a snapshot get its parent when it is committed (containerd 2.2).
const REBASE: &str = "rebase";

/// Plugin types (containerd `plugins/types.go`).
const SNAPSHOTTERS: &str = "io.containerd.snapshotter.v1";
const METADATA: &str = "io.containerd.metadata.v1";
const CONTENT: &str = "io.containerd.content.v1";

/// What introspection reports of a containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) version: String,
    pub(crate) uuid: String,
    pub(crate) snapshotter: String,
    pub(crate) parallel_unpack: bool,
    /// `shared` or `isolated` (export `policy` of the metadata plugin).
    pub(crate) sharing: Option<String>,
    /// The folder of the content store, as containerd sees it (export `root` of the content plugin).
    pub(crate) content: Option<PathBuf>,
    /// Who unpacks layers: a setting of ours.
    pub(crate) layer_applier: ApplierChoice,
}

/// The server's UUID: made once and kept in containerd's root folder, so it survives restarts.
pub(crate) async fn uuid(client: &Client) -> Result<String, EngineError> {
    let mut introspection = client.introspection();
    let server = client.unary("asking containerd for its UUID", introspection.server(client.request(()))).await?;
    Ok(server.uuid)
}

/// Reads what containerd is. `snapshotter` is what the engine is known to use; without it the namespace's
/// default is taken, as containerd's own clients do.
pub(crate) async fn discover(
    client: &Client,
    namespace: &str,
    snapshotter: Option<&str>,
) -> Result<Server, EngineError> {
    let mut version = client.version();
    let version =
        async { client.unary("asking containerd for its version", version.version(client.request(()))).await };
    let named = async {
        match snapshotter {
            Some(name) => Ok(name.to_owned()),
            None => default_snapshotter(client, namespace).await,
        }
    };
    let (version, uuid, snapshotter, plugins) = futures_util::try_join!(version, uuid(client), named, plugins(client))?;
    let found = plugins.iter().find(|plugin| plugin.r#type == SNAPSHOTTERS && plugin.id == snapshotter);
    let refused = |reason: String| EngineError::Snapshotter {
        engine: "containerd",
        address: client.address().to_owned(),
        snapshotter: snapshotter.clone(),
        reason,
    };
    let found = found.ok_or_else(|| refused("it is not among containerd's plugins".to_owned()))?;
    if let Some(error) = &found.init_err {
        return Err(refused(format!("it did not load: {}", error.message)));
    }
    let metadata = plugins.iter().find(|plugin| plugin.r#type == METADATA);
    let content = plugins.iter().find(|plugin| plugin.r#type == CONTENT);
    Ok(Server {
        version: version.version,
        uuid,
        // erofs has the capability as well, but [`super::unpack`] only knows how overlays are filled.
        parallel_unpack: snapshotter == DEFAULT_SNAPSHOTTER
            && found.capabilities.iter().any(|capability| capability == REBASE),
        sharing: metadata.and_then(|plugin| plugin.exports.get("policy").cloned()),
        content: content.and_then(|plugin| plugin.exports.get("root").map(PathBuf::from)),
        layer_applier: ApplierChoice::default(),
        snapshotter,
    })
}

async fn plugins(client: &Client) -> Result<Vec<Plugin>, EngineError> {
    // Filters are alternatives (containerd `pkg/filters`).
    let filters = vec![format!("type=={SNAPSHOTTERS}"), format!("type=={METADATA}"), format!("type=={CONTENT}")];
    let mut introspection = client.introspection();
    let call = introspection.plugins(client.request(PluginsRequest { filters }));
    Ok(client.unary("asking containerd for its plugins", call).await?.plugins)
}

async fn default_snapshotter(client: &Client, namespace: &str) -> Result<String, EngineError> {
    let mut namespaces = client.namespaces();
    let call = namespaces.get(client.request(GetNamespaceRequest { name: namespace.to_owned() }));
    // A namespace does not exist before its first use, which creates it.
    let found = client.unary(format!("looking up namespace {namespace}"), call).await.unless(Code::NotFound)?;
    let label = found.and_then(|response| response.namespace?.labels.get(SNAPSHOTTER_LABEL).cloned());
    Ok(label.unwrap_or_else(|| DEFAULT_SNAPSHOTTER.to_owned()))
}
