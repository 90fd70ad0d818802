//! What to do about a refusal of an engine.

use super::{EngineError, OBJECT_STORE, REMOTE};
use crate::engine::EngineKind;
use crate::net::{Barrier, SshAddress, silent_remedy};

const STORE_AWAY: &str =
    "check the endpoint (AWS_ENDPOINT_URL), the credentials, the network and the state of the store";

/// What else there is where containerd is docker's. Where another one is asked for it leads to other images.
pub(crate) const BY_DOCKER: &str = "; where it is docker's, `--engine docker-api` does without it";

impl EngineError {
    /// What a person can do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { engine: OBJECT_STORE, .. } => STORE_AWAY.to_owned(),
            Self::Timeout { operation, .. } if ["s3://", "gs://", "az://"].iter().any(|it| operation.contains(it)) => {
                STORE_AWAY.to_owned()
            }
            Self::Unreachable { engine, address, reason } if address.parse::<SshAddress>().is_ok() => {
                return address.parse::<SshAddress>().ok().map(|address| address.hint(engine, &address.explained(engine, reason)));
            }
            Self::Unreachable { engine, reason, .. } => match of_certificates(reason) {
                Some(hint) => hint.to_owned(),
                None => format!("check that {engine} is running and that the address is right"),
            },
            Self::Protocol { reason, .. } if reason.contains("HTTP request to an HTTPS server") => {
                "TLS is spoken there: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH, or use a docker context with certificates"
                    .to_owned()
            }
            Self::Protocol { reason, .. } if reason.contains("`POST /grpc`") => {
                "a proxy before dockerd may pass HTTP/1 alone: let it pass HTTP/2 without TLS, or the upgrade of `POST /grpc` to h2c; \
                 or name dockerd's own socket with --docker-host"
                    .to_owned()
            }
            Self::Permission { engine, address, .. } => match (Barrier::at(address), *engine) {
                (Barrier::Unseen, "docker") => {
                    "run linkspan as root, or as a user of the group that the socket belongs to (usually `docker`)".to_owned()
                }
                (Barrier::Unseen | Barrier::Owner(0), "containerd") => {
                    format!("run linkspan as root: containerd's socket belongs to root{BY_DOCKER}")
                }
                (barrier, _) => barrier.remedy(),
            },
            Self::ClassicStore { version, .. } if major(version).is_some_and(|major| major < FIRST_WITH_STORE) => {
                format!(
                    "export to it with `--engine docker-classic`, or update docker: the containerd image store came \
                     with {FIRST_WITH_STORE} and is the default since 29"
                )
            }
            Self::ClassicStore { .. } => {
                "export to it with `--engine docker-classic`, or add {\"features\":{\"containerd-snapshotter\":true}} to \
                 dockerd's daemon.json and restart it; images of the classic store stay on disk, but out of sight"
                    .to_owned()
            }
            Self::ContainerdStore { .. } => {
                "export to it with `--engine docker`; if it was switched over while linkspan ran, restart linkspan".to_owned()
            }
            Self::Rpc { code: tonic::Code::Unauthenticated, .. } => {
                "name a certificate with --tls-cert and --tls-key, or have docker's client know the right password for this HOST:PORT, as \
                 after `crane auth login HOST:PORT`"
                    .to_owned()
            }
            Self::Stopped { engine, .. } => format!(
                "start {engine}, or say where its socket is (--docker-host, --containerd-address), or choose another \
                 target (--engine layout --layout DIR)"
            ),
            Self::NotProven { .. } => {
                "name the containerd that dockerd uses with --containerd-address, or do without it: --engine docker-api"
                    .to_owned()
            }
            // Of others it is the name itself that is wrong.
            Self::Namespace { reason, .. } if reason.starts_with("docker") => {
                "with `--engine containerd` any namespace can be named".to_owned()
            }
            Self::Layout { reason, .. } if is_denied(reason) => "name a folder of yours with --layout, or with --cache-dir where docker's API alone is used".to_owned(),
            Self::Snapshotter { .. } => "see `ctr plugins ls` for the snapshotters that loaded".to_owned(),
            Self::NoSpace { operation, .. } if operation.contains("://") => {
                "free space in the object store, or raise the quota of the bucket".to_owned()
            }
            Self::Object { hint, .. } => return hint.map(str::to_owned),
            Self::NoSpace { .. } => {
                "free space on the engine's disk, for instance with `docker image prune`".to_owned()
            }
            Self::LayoutFull { .. } => "free space on that disk, or name a folder on another one".to_owned(),
            // containerd was killed between making the folder and noting it (its overlay snapshotter's `createSnapshot`);
            // it only sweeps after a snapshot was removed (`core/metadata/db.go`, `GarbageCollect`).
            Self::Unpack { reason, .. } if reason.contains("file exists") && !reason.contains("/layerdb/") => {
                "containerd left that folder behind when it was killed; it sweeps such folders \
                 when a container or an image is removed: remove one that is not needed"
                    .to_owned()
            }
            Self::Missing { .. } | Self::Vanished { .. } => "something removed content during the export; export again".to_owned(),
            Self::LeaseLost { .. } => "export again".to_owned(),
            Self::NotOffered { engine, .. } if *engine == EngineKind::DockerClassic.name() => {
                "dockerd's classic store keeps neither manifests nor layers as they were built, and shows what it has \
                 through its own commands alone: use `docker images`, `docker save`, `docker tag` and `docker rmi`; \
                 with the containerd image store (\"features\":{\"containerd-snapshotter\":true} in daemon.json) all of it \
                 works here"
                    .to_owned()
            }
            Self::NotOffered { engine, .. } if *engine == EngineKind::DockerApi.name() => {
                "docker's API alone lends no leases and takes whole images: where containerd's socket can be used, \
                 `--engine docker` (as root) offers it"
                    .to_owned()
            }
            Self::NotOffered { engine, .. } if *engine == EngineKind::Cluster.name() => {
                "the nodes of a cluster hold the images that they run, and nothing for builds: keep build caches in docker, in \
                 containerd, in a layout or in a bucket (--engine)"
                    .to_owned()
            }
            Self::NotOffered { engine: REMOTE, .. } => {
                "the exporter API has no call for that: run it on the machine of the engine, without --to and LINKSPAN_TO".to_owned()
            }
            // docker's own words for an image of a container.
            Self::Commit { reason, .. } | Self::Rpc { message: reason, .. } | Self::Protocol { reason, .. }
                if reason.contains("(must be forced)") || reason.contains("(must force)") =>
            {
                "`linkspan rm --force` removes the name all the same; `docker ps -a` shows the containers that use the image".to_owned()
            }
            Self::Cluster { hint, .. } => return hint.clone(),
            Self::Node { node, error } => match &**error {
                Self::NoSpace { .. } => format!(
                    "free space on the disk of that node's containerd: `docker exec {node} crictl rmi --prune` removes the images there \
                     that no container uses"
                ),
                Self::Unreachable { reason, .. } if reason.contains("(it is paused)") => {
                    format!("`docker unpause {node}` lets it go on")
                }
                Self::Unreachable { reason, .. } if reason.contains("no such container any more") => {
                    "the node was removed: export again, which leaves it out".to_owned()
                }
                // The message says what to do in its place.
                Self::Unreachable { reason, .. } if reason.contains("does not run in the node") => return None,
                Self::Unreachable { reason, .. }
                    if ["No such file or directory", "Connection refused"].iter().any(|it| reason.contains(it)) =>
                {
                    format!(
                        "the node runs, and its containerd does not: `docker logs {node}` and `docker exec {node} ps ax` say more; \
                         `docker restart {node}` starts it again"
                    )
                }
                Self::Unreachable { .. } => {
                    format!(
                        "`docker ps -a` shows whether the node is there: `docker start {node}` starts one that stopped, and one that was \
                         removed is left out of the next export"
                    )
                }
                error => return error.hint(),
            },
            Self::NamedOnSome { nodes, .. } => format!(
                "export again when all nodes run, or remove these names on those nodes alone: `linkspan rm` with `?nodes={}` behind the \
                 cluster's address",
                nodes.join(",")
            ),
            Self::NamesLeft { names, .. } => {
                format!("export the image again, or remove its name (`docker rmi {}`)", names.join(" "))
            }
            Self::Collects { who, .. } => (*who).to_owned(),
            Self::Daemon { hint, .. } => return hint.clone(),
            Self::NoAnswer { address } => silent_remedy(address),
            Self::Timeout { .. } => "look at the engine's log: it is stuck or overloaded".to_owned(),
            _ => return None,
        };
        Some(hint)
    }
}

/// What to do about certificates, if it is these that `reason` of a connection to docker is about.
fn of_certificates(reason: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|words| reason.contains(words));
    // The texts of rustls, and of our own reading of files.
    // An authority of the same name, with another key, is that of a bad signature.
    if says(&["UnknownIssuer", "BadSignature"]) {
        return Some(
            "the engine's certificate is of another authority: name the one that signed it, as ca.pem in DOCKER_CERT_PATH or as \
             `ca` of the docker context",
        );
    }
    if says(&["invalid peer certificate"]) {
        return Some("the engine needs a certificate that holds now, and for the host of its address");
    }
    if says(&["certificate of the client", "received fatal alert"]) {
        return Some(
            "show a certificate of the authority that the engine trusts: cert.pem and key.pem in DOCKER_CERT_PATH, or `cert` and \
             `key` of the docker context",
        );
    }
    if says(&["InvalidContentType"]) {
        return Some("no TLS is spoken there: check the port, or unset DOCKER_TLS_VERIFY");
    }
    if says(&["certificate authority ", "client certificate ", "client key "]) {
        return Some("DOCKER_CERT_PATH names the folder of ca.pem, cert.pem and key.pem; a docker context has its own");
    }
    None
}

/// Whether the system refused for want of permission.
fn is_denied(reason: &str) -> bool {
    ["permission denied", "Permission denied", "Read-only file system"].iter().any(|text| reason.contains(text))
}

/// The first release of docker that has the containerd image store.
const FIRST_WITH_STORE: u32 = 24;

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classic(version: &str) -> String {
        let error = EngineError::ClassicStore {
            address: "unix:///d.sock".to_owned(),
            version: version.to_owned(),
            driver: "overlay2".to_owned(),
        };
        error.hint().unwrap()
    }

    #[test]
    fn certificates_have_remedies_of_their_own() {
        let hint = |reason: &str| {
            let (engine, address) = ("docker", "tcp://h:2376".to_owned());
            EngineError::Unreachable { engine, address, reason: reason.to_owned() }.hint().unwrap()
        };
        for (reason, words) in [
            ("cannot connect to tcp://h:2376: invalid peer certificate: UnknownIssuer", "ca.pem in DOCKER_CERT_PATH"),
            ("invalid peer certificate: BadSignature", "ca.pem in DOCKER_CERT_PATH"),
            ("invalid peer certificate: NotValidForName", "for the host of its address"),
            ("received fatal alert: CertificateRequired", "cert.pem and key.pem"),
            (
                "client error: Connection reset by peer (os error 104); engines end a connection like that, too, if they take no \
              certificate of the client",
                "cert.pem and key.pem",
            ),
            ("received corrupt message of type InvalidContentType", "no TLS is spoken there"),
            ("certificate authority /x/ca.pem: No such file or directory (os error 2)", "DOCKER_CERT_PATH names"),
            ("Connection refused (os error 111)", "check that docker is running"),
        ] {
            assert!(hint(reason).contains(words), "{reason}: {}", hint(reason));
        }
    }

    #[test]
    fn a_node_that_may_be_gone_is_not_simply_to_be_started() {
        let hint = |reason: &str| {
            let (engine, address) = ("containerd", "docker-container://n/run/containerd/containerd.sock".to_owned());
            let error = EngineError::Unreachable { engine, address, reason: reason.to_owned() };
            EngineError::Node { node: "n".to_owned(), error: Box::new(error) }.hint().unwrap()
        };
        let broken = hint("broken pipe");
        assert!(broken.contains("whether the node is there") && broken.contains("`docker start n`"), "{broken}");
        let gone = hint("docker has no such container any more");
        assert!(gone.contains("was removed") && !gone.contains("docker start"), "{gone}");
        assert!(hint("the node does not run (it is paused)").starts_with("`docker unpause n`"));
    }

    #[test]
    fn the_remedy_for_a_classic_store_depends_on_the_release() {
        assert!(classic("20.10.24+dfsg1").contains("update docker"));
        for version in ["24.0.9", "28.5.2", "29.7.2", "dev"] {
            assert!(classic(version).contains("containerd-snapshotter"), "{version}");
        }
    }
}
