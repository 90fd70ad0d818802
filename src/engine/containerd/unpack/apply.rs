//! Applying layers: an archive becomes files of a snapshot.

use std::collections::HashMap;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::types::{Descriptor as WireDescriptor, Mount};

use super::super::client::Client;
use super::super::labels::Labels;
use super::super::{content, labels};
use super::in_process::InProcessApplier;
use super::layer::Layer;
use super::snapshots::Snapshots;
use crate::engine::EngineError;

/// What applies layers. Each gives the files that containerd would have made, and verifies the diff id.
#[derive(Debug)]
pub(super) enum LayerApplier {
    /// containerd's diff service.
    DiffService(DiffService),
    /// This process. Layers that it refuses go to containerd's diff service.
    InProcess(InProcessApplier, DiffService),
}

impl LayerApplier {
    /// What fills `snapshots`.
    pub(super) async fn of(snapshots: &Snapshots) -> Result<Self, EngineError> {
        let diff = DiffService { client: snapshots.client().clone() };
        Ok(match InProcessApplier::of(snapshots).await? {
            Some(in_process) => Self::InProcess(in_process, diff),
            None => Self::DiffService(diff),
        })
    }

    pub(super) fn in_process(&self) -> Option<&InProcessApplier> {
        match self {
            Self::DiffService(_) => None,
            Self::InProcess(in_process, _) => Some(in_process),
        }
    }

    /// The same without this process.
    pub(super) fn only_diff(&self) -> Self {
        Self::DiffService(self.diff().clone())
    }

    pub(super) fn diff(&self) -> &DiffService {
        match self {
            Self::DiffService(diff) | Self::InProcess(_, diff) => diff,
        }
    }
}

/// containerd's diff service, by a client that acts in the name of a lease.
#[derive(Debug, Clone)]
pub(super) struct DiffService {
    client: Client,
}

impl DiffService {
    /// Unpacks `layer`, which must be in the content store, into `mounts`. With `sync` its files are on the disk when this
    /// returns.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when the layer's diff id is not what the config says.
    pub(super) async fn apply(&self, layer: &Layer, mounts: Vec<Mount>, sync: bool) -> Result<(), EngineError> {
        let request = ApplyRequest {
            diff: Some(WireDescriptor {
                media_type: layer.blob.media_type.clone(),
                digest: layer.blob.digest.to_string(),
                size: content::size(&layer.blob)?,
                annotations: HashMap::new(),
            }),
            mounts,
            payloads: HashMap::new(),
            sync_fs: sync,
        };
        let mut stub = self.client.diff();
        let call = stub.apply(self.client.request(request));
        // containerd says nothing before it is done, so what can be asked for is a least speed.
        let outcome = self.client.within(layer.apply_timeout(), format!("unpacking {}", layer.blob.digest), call).await;
        let applied = outcome.map_err(|error| layer.unpack_error(error))?.applied.map(|applied| applied.digest);
        let is_true = applied.as_deref() == Some(layer.diff_id.as_str());
        self.label(layer, is_true).await;
        if is_true {
            return Ok(());
        }
        let reason = format!("it unpacks to {}, but the config says {}", applied.unwrap_or_default(), layer.diff_id);
        Err(EngineError::Corrupt { digest: layer.blob.digest.clone(), reason })
    }

    /// Labels a layer with its diff id, which unpacking it has shown to be true or not. This is only a help for other images:
    /// what becomes of it says nothing about this one.
    pub(super) async fn label(&self, layer: &Layer, is_true: bool) {
        if let Err(error) = self.try_label(layer, is_true).await {
            tracing::debug!(%error, layer = %layer.blob.digest, "the label of a layer stays as it is");
        }
    }

    /// Importers take a blob with this label for any layer with that digest (containerd `core/images/archive/importer.go`), so
    /// that nobody's word is enough for it (containerd `core/unpack/unpacker.go` compares as well). A label that says something
    /// else than what was shown to be false is not ours to judge.
    async fn try_label(&self, layer: &Layer, is_true: bool) -> Result<(), EngineError> {
        let Some(info) = content::info(&self.client, &layer.blob.digest).await? else { return Ok(()) };
        let diff_id = layer.diff_id.as_str();
        let is_labelled = info.labels.get(labels::UNCOMPRESSED).is_some_and(|label| label == diff_id);
        if is_labelled == is_true {
            return Ok(());
        }
        // A label without a value is removed (containerd `core/metadata/boltutil`, `WriteLabels`).
        let value = if is_true { diff_id.to_owned() } else { String::new() };
        content::label(&self.client, &layer.blob.digest, Labels::from([(labels::UNCOMPRESSED.to_owned(), value)])).await
    }
}
