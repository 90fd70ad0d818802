//! The status of a running Linkspan: the response of each of its doors to `GET /_linkspan/status`.
//!
//! Over HTTP/1.1 on the docker door and the registry door, over HTTP/2 (a plain GET, not gRPC) on the others. Whoever can use one door can set any
//! name in the engine, so the document of each lists the exports of all. Keys may be added; a reader takes those that it
//! knows.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::build_outputs::{SlowLoad, SlowLoads};
use crate::engine::{EngineKind, NodeNames};
use crate::export::{LiveExport, LiveExports};

/// The path of the document; neither dockerd nor gRPC has anything below `/_linkspan`.
pub const PATH: &str = "/_linkspan/status";

/// The same for a router that takes services by the first part of their path.
pub const ROOT: &str = "_linkspan";

/// The `Server` of the registry door, which keeps its status from clients that it does not know.
pub const SERVER: &str = "linkspan";

/// The longest document that a reader takes: room for thousands of exports.
pub const MAX_BYTES: usize = 16 << 20;

/// Which door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// In front of the engine's own API.
    Docker,
    /// In front of a builder.
    Buildkit,
    /// The standard exporter API.
    Export,
    /// The engine's store as a registry.
    Registry,
    /// One that a later version has.
    #[serde(other)]
    Other,
}

impl Kind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Buildkit => "buildkit",
            Self::Export => "export",
            Self::Registry => "registry",
            Self::Other => "unknown",
        }
    }
}

/// One door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Which it is.
    pub kind: Kind,
    /// Where it listens.
    pub address: String,
}

/// A builder that has a door.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Builder {
    /// How it is reached.
    pub address: String,
    /// Where its door listens.
    pub door: String,
    /// Whether a plain exporter (one without the mark of a load) counts as a load there.
    #[serde(default)]
    pub plain_is_load: bool,
    /// How it compresses new layers of loads, as `serve --load-compression` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_compression: Option<String>,
    /// How it compresses what it pushes, as `serve --push-compression` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_compression: Option<String>,
}

/// The engine that everything goes to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Engine {
    /// Its kind.
    pub kind: EngineKind,
    /// Its version.
    pub version: String,
    /// Its socket, as a URL, or the directory of a layout.
    pub address: String,
    /// The containerd namespace that images go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The snapshotter that unpacks them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshotter: Option<String>,
    /// Whether layers can be unpacked in parallel there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_unpack: Option<bool>,
    /// The graph driver of Docker's classic store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_driver: Option<String>,
    /// The nodes of a cluster, as they are at the time of each request.
    #[serde(skip_serializing_if = "NodeNames::is_empty")]
    pub nodes: NodeNames,
}

/// What is let through.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Whether a plain exporter counts as a load for the builders that are met at the docker door.
    pub plain_is_load: bool,
    /// How those builders compress new layers of loads; `None` without a docker door.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_compression: Option<String>,
    /// How those builders compress what they push; `None` without a docker door.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push_compression: Option<String>,
    /// Whether only names that a pattern covers may be set.
    pub names_restricted: bool,
    /// Whether a name must not move to another image.
    pub deny_tag_move: bool,
    /// Whether only build caches whose refs a pattern covers may be written.
    pub caches_restricted: bool,
    /// How many bytes all build caches together may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_max_bytes: Option<u64>,
    /// For how many seconds a build cache is kept that is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_max_age: Option<u64>,
    /// How many versions of build caches there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_max_count: Option<usize>,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Linkspan's version.
    pub version: String,
    /// Another for each process, by which the doors of one are known.
    pub instance: String,
    /// The process, as it is called where it runs.
    #[serde(default)]
    pub pid: u32,
    /// The door that responds.
    pub door: Door,
    /// All doors.
    #[serde(default)]
    pub doors: Vec<Door>,
    /// The engine behind them.
    #[serde(default)]
    pub engine: Engine,
    /// The builders that have doors.
    #[serde(default)]
    pub builders: Vec<Builder>,
    /// What is let through.
    #[serde(default)]
    pub policy: Policy,
    /// The exports that are under way, through any of the doors.
    #[serde(default)]
    pub exports: Vec<LiveExport>,
    /// Who exported what has ended and is still listed by the exporter API: by the export's id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ended: BTreeMap<String, String>,
    /// Where metrics are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// The load that spent most time in its builder's compression, where that was most of its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_load: Option<SlowLoad>,
}

impl Status {
    /// The report of the door `door`, with what is in `exports` and `slow_loads` at the time of each request.
    pub fn report(&self, door: &Door, exports: LiveExports, slow_loads: SlowLoads) -> StatusReport {
        StatusReport { status: Self { door: door.clone(), ..self.clone() }, exports, slow_loads }
    }

    /// The builder whose door responds, if it is that of one.
    pub fn builder(&self) -> Option<&Builder> {
        if self.door.kind != Kind::Buildkit {
            return None;
        }
        self.builders.iter().find(|builder| builder.door == self.door.address)
    }

    /// Whether a plain exporter counts as a load at the door that responds.
    pub fn plain_is_load(&self) -> bool {
        self.builder().map_or(self.policy.plain_is_load, |builder| builder.plain_is_load)
    }
}

/// One door's report.
#[derive(Debug, Clone)]
pub struct StatusReport {
    status: Status,
    exports: LiveExports,
    slow_loads: SlowLoads,
}

impl StatusReport {
    /// Whether a request is for it.
    pub fn is_request(method: &str, target: &str) -> bool {
        method == Method::GET.as_str() && target == PATH
    }

    /// The same for a request over HTTP/2.
    pub fn is_requested_by<B>(request: &Request<B>) -> bool {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        Self::is_request(request.method().as_str(), target)
    }

    /// The type of its content.
    pub const CONTENT_TYPE: &str = "application/json";

    /// The document's bytes.
    pub fn bytes(&self) -> Bytes {
        let slow_load = self.slow_loads.slowest();
        let (exports, ended) = (self.exports.list(), self.exports.ended());
        let status = Status { exports, ended, slow_load, ..self.status.clone() };
        // Strings, numbers and lists of them: writing those cannot fail.
        let mut text = serde_json::to_vec(&status).unwrap_or_default();
        text.push(b'\n');
        text.into()
    }

    /// As a response over HTTP/2.
    pub fn response<B>(&self, body: impl FnOnce(Bytes) -> B) -> Response<B> {
        let bytes = self.bytes();
        let length = bytes.len();
        let mut response = Response::new(body(bytes));
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(Self::CONTENT_TYPE));
        headers.insert(header::CONTENT_LENGTH, length.into());
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::engine::Origin;
    use crate::net::Principal;

    fn status() -> Status {
        let door = |kind, address: &str| Door { kind, address: address.to_owned() };
        Status {
            version: "1.2.3".to_owned(),
            instance: "0123".to_owned(),
            pid: 7,
            door: door(Kind::Docker, "unix:///d"),
            doors: vec![door(Kind::Docker, "unix:///d"), door(Kind::Buildkit, "unix:///b")],
            engine: Engine {
                kind: EngineKind::Docker,
                version: "29".to_owned(),
                address: "unix:///e".to_owned(),
                ..Engine::default()
            },
            builders: vec![Builder {
                address: "tcp://far:1".to_owned(),
                door: "unix:///b".to_owned(),
                plain_is_load: true,
                load_compression: Some("fast".to_owned()),
                push_compression: None,
            }],
            policy: Policy { push_compression: Some("gzip".to_owned()), ..Policy::default() },
            exports: Vec::new(),
            ended: BTreeMap::new(),
            metrics: None,
            slow_load: None,
        }
    }

    #[test]
    fn the_keys_of_the_document_are_stable() {
        let status = status();
        let exports = LiveExports::default();
        let (builder, principal) = ("b".to_owned(), Principal::Unix { uid: 1, gid: 2, pid: None });
        let origin = Origin { export: "e".to_owned(), door: "docker", builder, principal };
        let slow_loads = SlowLoads::default();
        slow_loads.note(SlowLoad { builder: "b".to_owned(), compressing_ms: 20_000, load_ms: 26_000, bytes: 7 });
        let report = status.report(&status.doors[1], exports.clone(), slow_loads);
        let _listed = exports.add(&origin, vec!["demo:1".to_owned()]);
        let mut document: Value = serde_json::from_slice(&report.bytes()).unwrap();
        document["exports"][0]["created"].take().as_u64().unwrap();
        assert_eq!(
            document,
            json!({
                "version": "1.2.3",
                "instance": "0123",
                "pid": 7,
                "door": { "kind": "buildkit", "address": "unix:///b" },
                "doors": [
                    { "kind": "docker", "address": "unix:///d" },
                    { "kind": "buildkit", "address": "unix:///b" },
                ],
                "engine": { "kind": "docker", "version": "29", "address": "unix:///e" },
                "builders": [{
                    "address": "tcp://far:1", "door": "unix:///b", "plain_is_load": true, "load_compression": "fast",
                }],
                "policy": {
                    "plain_is_load": false,
                    "push_compression": "gzip",
                    "names_restricted": false,
                    "deny_tag_move": false,
                    "caches_restricted": false,
                },
                "exports": [{
                    "id": "e", "door": "docker", "builder": "b", "principal": "uid 1, gid 2", "state": "open",
                    "created": null, "names": ["demo:1"],
                }],
                "slow_load": { "builder": "b", "compressing_ms": 20000, "load_ms": 26000, "bytes": 7 },
            })
        );
    }

    #[test]
    fn each_door_has_its_own_policy() {
        let mut status = status();
        assert!(!status.plain_is_load());
        status.door = status.doors[1].clone();
        assert!(status.plain_is_load());
    }

    #[test]
    fn the_document_of_a_later_version_is_read() {
        let text = r#"{"version":"9","instance":"x","door":{"kind":"later","address":"unix:///r"},"more":[1]}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!((status.door.kind, status.doors.len()), (Kind::Other, 0));
    }

    #[test]
    fn only_the_exact_request_gets_a_response() {
        assert!(StatusReport::is_request("GET", PATH));
        for (method, target) in [
            ("POST", PATH),
            ("HEAD", PATH),
            ("GET", "/_linkspan/status/"),
            ("GET", "/_linkspan/status?x"),
            ("GET", "/v1.55/_linkspan/status"),
            ("GET", "/_ping"),
        ] {
            assert!(!StatusReport::is_request(method, target), "{method} {target}");
        }
    }
}
