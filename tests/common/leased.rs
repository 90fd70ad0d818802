//! What the leases in containerd keep, which `ctr` does not tell.

use std::collections::HashSet;
use std::thread;

use containerd_client::services::v1::ListResourcesRequest;
use containerd_client::services::v1::leases_client::LeasesClient;
use tonic::{Code, Request};

use super::Stack;

impl Stack {
    /// The blobs that are resources of leases in a containerd namespace. A lease that has gone has none.
    pub(crate) fn resources(&self, namespace: &str, leases: &[String]) -> Vec<String> {
        let ask = async {
            let channel = containerd_client::connect(self.containerd_address()).await.unwrap();
            let (mut client, mut found) = (LeasesClient::new(channel), Vec::new());
            for lease in leases {
                let mut request = Request::new(ListResourcesRequest { id: lease.clone() });
                request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
                match client.list_resources(request).await {
                    Ok(listed) => found.extend(listed.into_inner().resources),
                    Err(status) => assert_eq!(status.code(), Code::NotFound, "{status}"),
                }
            }
            found.into_iter().filter(|resource| resource.r#type == "content").map(|resource| resource.id).collect()
        };
        // On a thread of its own: the caller may be within a runtime.
        thread::scope(|scope| scope.spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(ask)).join().unwrap())
    }

    /// The blobs that leases in a containerd namespace keep: their resources, and what these refer to in labels.
    pub(crate) fn leased(&self, namespace: &str, is_meant: impl Fn(&str) -> bool) -> HashSet<String> {
        let leases: Vec<_> = self.leases(namespace).into_iter().filter(|lease| is_meant(lease)).collect();
        let mut found: HashSet<_> = self.resources(namespace, &leases).into_iter().collect();
        for line in self.ctr(namespace, ["content", "ls"]).ok().lines() {
            if line.split_whitespace().next().is_some_and(|digest| found.contains(digest)) {
                let labels = line.split([' ', '\t', ',', '=']).filter(|word| word.starts_with("sha256:"));
                found.extend(labels.map(str::to_owned));
            }
        }
        found
    }
}
