//! Finds the nodes of a cluster among the containers of a dockerd.

use std::collections::{BTreeSet, HashMap};

use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::address::{ClusterAddress, ClusterTool, MAX_NODES, is_container};
use crate::docker_api::Api;
use crate::engine::EngineError;

/// The largest list of containers that is read: one has a few kilobytes.
const MAX_LIST_BYTES: usize = 16 << 20;
/// How many other clusters, or nodes, an error names.
const SHOWN: usize = 10;

/// A container in dockerd's list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default)]
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    labels: HashMap<String, String>,
    #[serde(default)]
    state: String,
}

impl Listed {
    /// Its own name: links give it others, with a slash in them.
    fn name(&self) -> Option<&str> {
        self.names.iter().filter_map(|name| name.strip_prefix('/')).find(|name| is_container(name))
    }

    fn is_node(&self, tool: ClusterTool) -> bool {
        tool.is_node(|key| self.labels.get(key).map(String::as_str)) && !is_ending(&self.state)
    }
}

/// A container that is a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its id: one that was made again under the same name has another.
    pub(super) id: String,
    pub(super) name: String,
    /// In docker's word.
    state: String,
}

impl Found {
    /// Whether its processes run.
    pub(super) fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// Why `address` cannot be used while these of its nodes do not run, of which there is at least one.
pub(super) fn stopped(nodes: &[&Found], address: &ClusterAddress) -> EngineError {
    let command = |command: &str, is_paused: bool| {
        let names: Vec<_> = nodes.iter().filter(|it| (it.state == "paused") == is_paused).map(|it| &*it.name).collect();
        (!names.is_empty()).then(|| format!("`docker {command} {}`", names.join(" ")))
    };
    let commands: Vec<_> = [command("start", false), command("unpause", true)].into_iter().flatten().collect();
    let (reason, runs) = match nodes {
        [one] => (format!("its node {} does not run (it is {})", one.name, one.state.escape_debug()), "lets it run"),
        all => {
            let all = all.iter().map(|it| format!("{} ({})", it.name, it.state.escape_debug())).collect::<Vec<_>>();
            (format!("{} of its nodes do not run: {}", all.len(), some(all.into_iter())), "let them run")
        }
    };
    EngineError::Cluster {
        cluster: format!("{}://{}", address.tool.name(), address.name),
        reason,
        hint: Some(format!("{} {runs}; `?nodes=a,b` names other nodes", commands.join(" and "))),
        is_passing: true,
    }
}

/// The containers that `address` means, running or not, sorted by their names; never none.
pub(super) async fn nodes(docker: &Api, address: &ClusterAddress) -> Result<Vec<Found>, EngineError> {
    let ClusterAddress { tool, name, nodes: named } = address;
    let listed = list(docker, &format!("{}={name}", tool.cluster_label())).await?;
    let mut nodes: Vec<_> =
        listed.iter().filter(|it| it.is_node(*tool)).filter_map(|it| Some((it.name()?, it))).collect();
    nodes.sort_by_key(|(name, _)| *name);
    let refused = |reason: String, hint: Option<String>, is_passing: bool| {
        Err(EngineError::Cluster { cluster: format!("{}://{name}", tool.name()), reason, hint, is_passing })
    };
    if nodes.is_empty() {
        let reason = format!("docker at {} has no nodes of such a cluster", docker.address());
        return refused(reason, Some(others(docker).await?), true);
    }
    if !named.is_empty() {
        if let Some(absent) = named.iter().find(|absent| !nodes.iter().any(|(name, _)| name == absent)) {
            let present = some(nodes.iter().map(|(name, _)| (*name).to_owned()));
            return refused(format!("it has no node `{absent}`"), Some(format!("its nodes are {present}")), true);
        }
        nodes.retain(|(name, _)| named.iter().any(|named| named == name));
    }
    if nodes.len() > MAX_NODES {
        return refused(
            format!("it has {} nodes; at most {MAX_NODES} are written to", nodes.len()),
            Some("name some with `?nodes=a,b`".to_owned()),
            false,
        );
    }
    let found =
        |(name, it): (&str, &Listed)| Found { id: it.id.clone(), name: name.to_owned(), state: it.state.clone() };
    Ok(nodes.into_iter().map(found).collect())
}

/// Whether there is a container of this id, running or not.
pub(super) async fn exists(docker: &Api, id: &str) -> Result<bool, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        state: State,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct State {
        status: String,
    }
    let response = docker.get(&format!("/containers/{id}/json")).await?;
    let operation = || format!("asking docker for the node {id}");
    match response.status {
        StatusCode::NOT_FOUND => Ok(false),
        StatusCode::OK => {
            let found: Inspected = serde_json::from_slice(&response.body)
                .map_err(|error| EngineError::Protocol { operation: operation(), reason: error.to_string() })?;
            Ok(!is_ending(&found.state.status))
        }
        _ => Err(EngineError::Protocol { operation: operation(), reason: response.message() }),
    }
}

/// Containers that are being removed are none any more (moby `api/types/container`, the states).
fn is_ending(state: &str) -> bool {
    matches!(state, "removing" | "dead")
}

/// The containers, running or not, with this label.
async fn list(docker: &Api, label: &str) -> Result<Vec<Listed>, EngineError> {
    let filters = serde_json::json!({ "label": [label] }).to_string();
    let path = format!("/containers/json?all=true&filters={}", utf8_percent_encode(&filters, NON_ALPHANUMERIC));
    let response = docker.get_within(&path, MAX_LIST_BYTES).await?;
    let operation = || "asking docker for the nodes of a cluster".to_owned();
    if response.status != StatusCode::OK {
        return Err(EngineError::Protocol { operation: operation(), reason: response.message() });
    }
    serde_json::from_slice(&response.body)
        .map_err(|error| EngineError::Protocol { operation: operation(), reason: error.to_string() })
}

/// What clusters there are, as a hint.
async fn others(docker: &Api) -> Result<String, EngineError> {
    let mut addresses = BTreeSet::new();
    for tool in ClusterTool::ALL {
        let listed = list(docker, tool.cluster_label()).await?;
        let names = listed.iter().filter(|it| it.is_node(tool)).filter_map(|it| it.labels.get(tool.cluster_label()));
        // Whoever starts a container chooses its labels.
        addresses.extend(names.map(|name| format!("{}://{}", tool.name(), name.escape_debug())));
    }
    if addresses.is_empty() {
        return Ok("it has no nodes of any; name the dockerd that has with --docker-host".to_owned());
    }
    Ok(format!("it has {}", some(addresses.into_iter())))
}

/// Some names, and how many more there are.
fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let rest = names.len().saturating_sub(SHOWN);
    let cut = |name: String| if name.len() > 80 { name.chars().take(80).chain(['…']).collect() } else { name };
    let shown: Vec<_> = names.take(SHOWN).map(cut).collect();
    if rest == 0 { shown.join(", ") } else { format!("{} and {rest} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_that_do_not_run_are_named_with_what_lets_them() {
        let found =
            |name: &str, state: &str| Found { id: String::new(), name: name.to_owned(), state: state.to_owned() };
        let all = [found("dev-a", "exited"), found("dev-b", "exited"), found("dev-c", "paused")];
        let said = |nodes: &[&Found]| {
            let error = stopped(nodes, &"kind://dev?nodes=x".parse().unwrap());
            (error.to_string(), error.hint().unwrap())
        };
        let (message, hint) = said(&[&all[0], &all[1], &all[2]]);
        assert_eq!(message, "kind://dev: 3 of its nodes do not run: dev-a (exited), dev-b (exited), dev-c (paused)");
        assert!(hint.starts_with("`docker start dev-a dev-b` and `docker unpause dev-c` let them run;"), "{hint}");
        let (message, hint) = said(&[&all[2]]);
        assert_eq!(message, "kind://dev: its node dev-c does not run (it is paused)");
        assert!(hint.starts_with("`docker unpause dev-c` lets it run;"), "{hint}");
    }
}
