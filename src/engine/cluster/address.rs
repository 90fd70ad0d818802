//! The addresses of clusters whose nodes are containers.

use std::fmt;
use std::str::FromStr;

/// The most nodes of a cluster.
pub(super) const MAX_NODES: usize = 100;
/// The longest name of a cluster: its nodes' names begin with it, and are host names.
const MAX_NAME: usize = 63;
/// The longest name of a container.
const MAX_NODE: usize = 255;

/// The program that made a cluster, which says what its nodes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterTool {
    /// kind.
    Kind,
    /// k3d: k3s in containers.
    K3d,
}

impl ClusterTool {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Kind, Self::K3d];

    /// Its name, which is the scheme of its addresses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::K3d => "k3d",
        }
    }

    /// The name of a cluster where none is given (kind `pkg/cluster/constants`, k3d `pkg/config`).
    const fn default_cluster(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::K3d => "k3s-default",
        }
    }

    /// The label of a node whose value is the name of its cluster (kind `pkg/cluster/internal/providers/docker/constants.go`,
    /// k3d `pkg/types/types.go`).
    pub(super) const fn cluster_label(self) -> &'static str {
        match self {
            Self::Kind => "io.x-k8s.kind.cluster",
            Self::K3d => "k3d.cluster",
        }
    }

    /// The label of a node that says what it is for.
    const fn role_label(self) -> &'static str {
        match self {
            Self::Kind => "io.x-k8s.kind.role",
            Self::K3d => "k3d.role",
        }
    }

    /// Whether a container of a cluster with this label for its role takes images: those of kubelets, as for kind
    /// (`pkg/cluster/nodeutils/util.go`) and k3d; a load balancer, a registry and what others put beside them do not.
    pub(super) fn is_node<'l>(self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        let role = label(self.role_label()).unwrap_or_default();
        match self {
            Self::Kind => matches!(role, "control-plane" | "worker"),
            Self::K3d => label("app") == Some("k3d") && matches!(role, "server" | "agent"),
        }
    }

    /// containerd's socket in a node.
    pub(super) const fn socket(self) -> &'static str {
        match self {
            Self::Kind => "/run/containerd/containerd.sock",
            Self::K3d => "/run/k3s/containerd/containerd.sock",
        }
    }
}

/// A cluster whose nodes are containers of a dockerd, as `kind://CLUSTER` or `k3d://CLUSTER`; `?nodes=a,b` names some of its
/// nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterAddress {
    /// What made it.
    pub tool: ClusterTool,
    /// Its name.
    pub name: String,
    /// The nodes that are meant; all if there are none.
    pub nodes: Vec<String>,
}

impl ClusterAddress {
    /// Whether `text` has the scheme of such an address.
    pub fn is_meant(text: &str) -> bool {
        tool(text).is_some()
    }
}

/// The program whose scheme `text` has, and what follows.
fn tool(text: &str) -> Option<(ClusterTool, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    Some((ClusterTool::ALL.into_iter().find(|tool| tool.name() == scheme)?, rest))
}

/// Why a text is not the address of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ClusterAddressError(String);

impl FromStr for ClusterAddress {
    type Err = ClusterAddressError;

    fn from_str(text: &str) -> Result<Self, ClusterAddressError> {
        let error = |reason: String| Err(ClusterAddressError(reason));
        let Some((tool, rest)) = tool(text) else {
            return error("expected `kind://CLUSTER` or `k3d://CLUSTER`".to_owned());
        };
        let (name, query) = rest.split_once('?').map_or((rest, None), |(name, query)| (name, Some(query)));
        let name = if name.is_empty() { tool.default_cluster() } else { name };
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        if name.len() > MAX_NAME || !name.bytes().all(is_letter) {
            return error(format!(
                "the name of a cluster has at most {MAX_NAME} small letters, digits, `.` and `-`, as in `{}://dev`",
                tool.name()
            ));
        }
        let nodes = match query.map(|query| query.strip_prefix("nodes=")) {
            None => Vec::new(),
            Some(Some(list)) if !list.is_empty() => list.split(',').map(str::to_owned).collect(),
            Some(_) => {
                return error(format!(
                    "behind `?`, expected `nodes=NAME,NAME`, as in `{}://dev?nodes=dev-worker`",
                    tool.name()
                ));
            }
        };
        if let Some(bad) = nodes.iter().find(|node| !is_container(node)) {
            return error(format!(
                "`{}` is no name of a node, which is a container's (see `docker ps`)",
                bad.escape_debug()
            ));
        }
        if nodes.len() > MAX_NODES {
            return error(format!("at most {MAX_NODES} nodes can be named"));
        }
        Ok(Self { tool, name: name.to_owned(), nodes })
    }
}

/// moby `daemon/names/names.go`: `RestrictedNamePattern`.
pub(super) fn is_container(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && name.len() <= MAX_NODE && name.bytes().all(plain)
}

impl fmt::Display for ClusterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.tool.name(), self.name)?;
        if self.nodes.is_empty() { Ok(()) } else { write!(f, "?nodes={}", self.nodes.join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_named_as_their_programs_name_them() {
        for (text, expected) in [
            ("kind://", "kind://kind"),
            ("kind://dev", "kind://dev"),
            ("k3d://", "k3d://k3s-default"),
            ("kind://a.b-1?nodes=a-worker,a-worker2", "kind://a.b-1?nodes=a-worker,a-worker2"),
            ("kind://?nodes=kind-worker", "kind://kind?nodes=kind-worker"),
        ] {
            assert_eq!(text.parse::<ClusterAddress>().unwrap().to_string(), expected);
        }
        for text in [
            "kind:dev",
            "minikube://",
            "kind://Dev",
            "kind://a/b",
            "kind://a:1",
            "kind://a?",
            "kind://a?nodes=",
            "kind://a?node=b",
            "kind://a?nodes=b,,c",
            "kind://a?nodes=../b",
            "kind://a?nodes=b&nodes=c",
            "kind://a\"b",
            &format!("kind://{}", "a".repeat(64)),
            &format!("kind://a?nodes={}", vec!["b"; 101].join(",")),
        ] {
            text.parse::<ClusterAddress>().unwrap_err();
        }
    }

    #[test]
    fn load_balancers_and_registries_are_no_nodes() {
        let is_node = |tool: ClusterTool, labels: &[(&'static str, &'static str)]| {
            tool.is_node(|key| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
        };
        let kind = |role| is_node(ClusterTool::Kind, &[("io.x-k8s.kind.role", role)]);
        assert!(kind("control-plane") && kind("worker") && !kind("external-load-balancer") && !kind("registry"));
        assert!(!is_node(ClusterTool::Kind, &[("io.x-k8s.kind.cluster", "dev")]), "without a role");
        let k3d = |role| is_node(ClusterTool::K3d, &[("app", "k3d"), ("k3d.role", role)]);
        assert!(k3d("server") && k3d("agent") && !k3d("loadbalancer") && !k3d("registry"));
        assert!(!is_node(ClusterTool::K3d, &[("k3d.role", "server")]));
    }
}
