//! Starting with leases of an earlier process left, and without Docker.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use async_trait::async_trait;

use super::Inherited;
use super::recovery::start_clean_up;
use super::sockets::unneeded;
use crate::config::DEFAULT_DOCKER_LISTEN;
use crate::engine::{
    Engine, EngineError, EngineKind, Identity, Lease, Lifetime, Origin, PersistentLeases, Storage, StoredBlobs,
};
use crate::image::{Descriptor, Reference};

/// An engine whose recovery does not end: another process holds its lock.
#[derive(Debug)]
struct Locked;

#[async_trait]
impl Engine for Locked {
    fn identity(&self) -> &Identity {
        unreachable!("nobody asks")
    }
    async fn already_complete(&self, _: &Descriptor, _: &[Reference]) -> Result<Option<usize>, EngineError> {
        unreachable!("nothing is exported")
    }
    async fn lease(&self, _: &Origin, _: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        unreachable!("nothing is exported")
    }
    async fn recover(&self) -> Result<usize, EngineError> {
        std::future::pending().await
    }

    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        None
    }

    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_left_keeps_no_door_closed() {
    let clean_up = start_clean_up(Arc::new(Locked), None).await;
    assert!(!clean_up.is_finished());
    let ended = clean_up.abort_handle();
    drop(clean_up);
    tokio::task::yield_now().await;
    assert!(ended.is_finished(), "it ends with the daemon");
}

#[tokio::test]
async fn the_usual_docker_socket_is_not_needed_without_docker() {
    let folder = tempfile::tempdir().unwrap();
    let identity = |kind| Identity {
        kind,
        version: String::new(),
        address: "unix:///engine.sock".to_owned(),
        storage: Storage::Directory {},
    };
    for (number, (kind, address, is_unneeded)) in [
        (EngineKind::Containerd, DEFAULT_DOCKER_LISTEN, true),
        (EngineKind::Layout, DEFAULT_DOCKER_LISTEN, true),
        (EngineKind::Docker, DEFAULT_DOCKER_LISTEN, false),
        (EngineKind::Containerd, "unix:///run/other.sock", false),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = UnixListener::bind(folder.path().join(number.to_string())).unwrap();
        let mut inherited = Inherited::of(socket, "linkspan.socket", address);
        let found = unneeded(&identity(kind), &mut inherited).unwrap();
        assert_eq!((found.is_some(), inherited.all_used(&[]).is_ok()), (is_unneeded, is_unneeded), "{kind} {address}");
    }
}
