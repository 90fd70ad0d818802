//! Which layers a classic store has. dockerd has no API for that.
//!
//! A layer is known by its chain id. Where dockerd runs on this machine and its folder can be read, each chain is a folder
//! there (moby `daemon/internal/layer/filestore.go`: unchanged since 1.10); that includes what only its build cache uses.
//! Elsewhere the images tell: every beginning of an image's list of layers is a chain that the store has.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use serde::Deserialize;
use tokio::fs;

use crate::docker_api::Api;
use crate::engine::EngineError;
use crate::engine::docker::Info;
use crate::image::{Digest, RootFs};

/// How many images are requested at once.
const PARALLEL: usize = 8;
/// The largest list of images that is read: some 50,000 images.
const LIST_BYTES: usize = 64 << 20;

/// What is known of the images of one dockerd. An image never changes, so it is requested once.
#[derive(Debug, Default)]
pub(super) struct Chains {
    images: Mutex<HashMap<Digest, Arc<[Digest]>>>,
}

impl Chains {
    /// Those of `queried` that the store has. What it says may be out of date at once: nothing holds a layer until
    /// dockerd itself does, while it loads.
    pub(super) async fn known(
        &self,
        api: &Api,
        info: &Info,
        queried: &[Digest],
    ) -> Result<HashSet<Digest>, EngineError> {
        if let Some(layers) = on_disk(info).await {
            return Ok(present_chains(&layers, queried).await);
        }
        let images = self.images(api).await?;
        let known: HashSet<&Digest> = images.iter().flat_map(|chains| chains.iter()).collect();
        Ok(queried.iter().filter(|chain| known.contains(chain)).cloned().collect())
    }

    /// The chains of every image.
    async fn images(&self, api: &Api) -> Result<Vec<Arc<[Digest]>>, EngineError> {
        let ids = list(api).await?;
        let known = self.images.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lookups = ids.into_iter().map(|id| {
            let known = known.get(&id).cloned();
            async move {
                let chains = match known {
                    Some(chains) => Some(chains),
                    None => inspect(api, &id).await?,
                };
                Ok::<_, EngineError>(chains.map(|chains| (id, chains)))
            }
        });
        let lookups: Vec<_> = lookups.collect();
        let found: Vec<Option<(Digest, Arc<[Digest]>)>> =
            stream::iter(lookups).buffer_unordered(PARALLEL).try_collect().await?;
        // Those that are gone are forgotten with this.
        let images: HashMap<_, _> = found.into_iter().flatten().collect();
        let chains = images.values().cloned().collect();
        *self.images.lock().unwrap_or_else(PoisonError::into_inner) = images;
        Ok(chains)
    }
}

/// The folder with the chains of the dockerd of `info`, if that is a folder of this machine: its data carries its id
/// (moby `daemon/id.go`, since 23.0).
async fn on_disk(info: &Info) -> Option<PathBuf> {
    let root = &info.docker_root_dir;
    if !root.is_absolute() || info.id.is_empty() || !is_plain(&info.driver) {
        return None;
    }
    let id = fs::read_to_string(root.join("engine-id")).await.ok()?;
    let layers = root.join("image").join(&info.driver).join("layerdb/sha256");
    (id.trim() == info.id && fs::metadata(&layers).await.is_ok_and(|it| it.is_dir())).then_some(layers)
}

/// Whether a driver's name can be part of a path.
fn is_plain(driver: &str) -> bool {
    !driver.is_empty() && driver.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// A chain's folder comes and goes by being renamed, so it is complete.
async fn present_chains(layers: &Path, queried: &[Digest]) -> HashSet<Digest> {
    let mut known = HashSet::new();
    for chain in queried {
        if fs::metadata(layers.join(chain.hex())).await.is_ok() {
            known.insert(chain.clone());
        }
    }
    known
}

async fn list(api: &Api) -> Result<Vec<Digest>, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Image {
        id: Digest,
    }
    let broken = |reason| EngineError::Protocol { operation: "asking docker for its images".to_owned(), reason };
    let response = api.get_within("/images/json?all=1", LIST_BYTES).await?;
    if response.status != StatusCode::OK {
        return Err(broken(response.message()));
    }
    let images: Vec<Image> = serde_json::from_slice(&response.body).map_err(|error| broken(error.to_string()))?;
    Ok(images.into_iter().map(|image| image.id).collect())
}

/// The chains of one image; `None` if it has gone.
async fn inspect(api: &Api, id: &Digest) -> Result<Option<Arc<[Digest]>>, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Image {
        #[serde(rename = "RootFS")]
        root_fs: Layers,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Layers {
        #[serde(default)]
        layers: Option<Vec<Digest>>,
    }
    let broken = |reason| EngineError::Protocol { operation: format!("asking docker for image {id}"), reason };
    let response = api.get(&format!("/images/{id}/json")).await?;
    match response.status {
        StatusCode::OK => {
            let image: Image = serde_json::from_slice(&response.body).map_err(|error| broken(error.to_string()))?;
            let layers = RootFs { diff_ids: image.root_fs.layers.unwrap_or_default() };
            Ok(Some(layers.chain_ids().into()))
        }
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(broken(response.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(root: &Path, id: &str, driver: &str) -> Info {
        let json = serde_json::json!({"ID": id, "Driver": driver, "DockerRootDir": root});
        serde_json::from_value(json).unwrap()
    }

    #[tokio::test]
    async fn only_its_own_data_is_trusted() {
        let root = tempfile::tempdir().unwrap();
        let layers = root.path().join("image/overlay2/layerdb/sha256");
        std::fs::create_dir_all(&layers).unwrap();
        assert_eq!(on_disk(&info(root.path(), "one", "overlay2")).await, None, "it does not say whose it is");
        std::fs::write(root.path().join("engine-id"), "one").unwrap();
        assert_eq!(on_disk(&info(root.path(), "one", "overlay2")).await, Some(layers));
        for (id, driver) in [("two", "overlay2"), ("", "overlay2"), ("one", "vfs"), ("one", ".."), ("one", "")] {
            assert_eq!(on_disk(&info(root.path(), id, driver)).await, None, "{id} {driver}");
        }
        assert_eq!(on_disk(&info(Path::new("relative"), "one", "overlay2")).await, None);
    }

    #[tokio::test]
    async fn a_chain_that_is_being_removed_does_not_count() {
        let layers = tempfile::tempdir().unwrap();
        let [there, removed, absent] = [b"a", b"b", b"c"].map(|bytes| Digest::sha256(bytes));
        std::fs::create_dir(layers.path().join(there.hex())).unwrap();
        std::fs::create_dir(layers.path().join(format!("{}-123-removing", removed.hex()))).unwrap();
        let known = present_chains(layers.path(), &[there.clone(), removed, absent]).await;
        assert_eq!(known, HashSet::from([there]));
    }
}
