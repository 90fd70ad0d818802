//! A door of the exporter API, and the engine behind it.

use serde_json::Value;

use crate::client::Client;
pub(crate) use crate::common::ApiServer as Server;
use crate::common::{Stack, linkspan};

impl Server {
    /// Into `namespace` of the containerd at this path.
    pub(crate) fn containerd_at(address: &str, namespace: &str) -> Self {
        let engine = ["--engine", "containerd", "--containerd-address", address, "--namespace", namespace];
        Self::start(Stack::shared(), &engine, &[])
    }

    /// One for each engine that clients can send blobs to, called as it: a test of the API alone holds on all of them.
    /// `namespace` is that of containerd; a layout is empty, and the shared dockerd is not.
    pub(crate) fn each(namespace: &str) -> [(&'static str, Self); 3] {
        [("layout", Self::layout().0), ("containerd", Self::containerd(namespace)), ("docker", Self::docker())]
    }

    /// What `linkspan ps` shows of its exports.
    pub(crate) fn ps(&self) -> Vec<Value> {
        let run = linkspan(["ps", "--json", "--to", &self.linkspan.address()]);
        run.ok().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.door).await
    }
}
