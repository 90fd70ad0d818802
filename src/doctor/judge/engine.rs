//! The checks of the engine and its containerd.

use super::failed;
use crate::buildx::is_same_address;
use crate::doctor::facts::{Facts, RunningLinkspan};
use crate::doctor::inflate::Inflate;
use crate::doctor::report::{Check, Containerd, Engine, Mark, check};
use crate::engine::select::Selected;
use crate::engine::{EngineError, EngineKind, Storage, doctor};
use crate::status;

pub(super) fn engine_check(selected: &Result<Selected, EngineError>, subject: Option<&RunningLinkspan>) -> Check {
    let basis = subject.filter(|subject| subject.is_basis);
    match (selected, basis) {
        (Ok(Selected { engine, reason }), Some(_)) => {
            let reason = reason.strip_prefix("as configured").map_or(String::new(), str::to_owned);
            check("engine", Mark::Ok, format!("{}: of the running Linkspan{reason}", engine.identity()), None)
        }
        (Ok(Selected { engine, reason }), None) => {
            check("engine", Mark::Ok, format!("{}: {reason}", engine.identity()), None)
        }
        (Err(EngineError::Permission { address, .. }), Some(RunningLinkspan { status, .. })) => {
            let status::Engine { kind, version, address: at, .. } = &status.engine;
            let found =
                format!("{kind} {version} ({at}): as the running Linkspan says; this user may not ask at {address}");
            check("engine", Mark::Ok, found, None)
        }
        (Err(error), _) => failed("engine", error),
    }
}

/// The examined engine, or, if this process may not connect to it, the one that the running Linkspan names.
pub(super) fn engine(selected: &Result<Selected, EngineError>, subject: Option<&RunningLinkspan>) -> Option<Engine> {
    match (selected, subject.filter(|subject| subject.is_basis)) {
        (Ok(selected), _) => {
            let it = selected.engine.identity().clone();
            Some(Engine {
                kind: it.kind,
                version: it.version,
                address: it.address,
                reason: selected.reason.clone(),
                storage: it.storage,
            })
        }
        (Err(EngineError::Permission { .. }), Some(subject)) => {
            let it = subject.status.engine.clone();
            let parallel_unpack = it.parallel_unpack.unwrap_or_default();
            let storage = match (it.namespace, it.snapshotter, it.storage_driver) {
                (Some(namespace), Some(snapshotter), _) if it.kind == EngineKind::Cluster => {
                    Storage::Cluster { namespace, snapshotter, parallel_unpack, nodes: it.nodes }
                }
                (Some(namespace), Some(snapshotter), _) => {
                    Storage::Containerd { namespace, snapshotter, parallel_unpack }
                }
                (_, _, Some(storage_driver)) => Storage::Classic { storage_driver },
                _ if it.kind == EngineKind::Object => Storage::Bucket {},
                _ => Storage::Directory {},
            };
            let (kind, version, address) = (it.kind, it.version, it.address);
            Some(Engine { kind, version, address, reason: "as the running Linkspan says".to_owned(), storage })
        }
        _ => None,
    }
}

pub(super) fn containerd_checks(
    containerd: &Result<doctor::Containerd, EngineError>,
    subject: Option<&RunningLinkspan>,
) -> Vec<Check> {
    let it = match containerd {
        Ok(it) => it,
        // The running Linkspan has access.
        Err(EngineError::Permission { .. }) if subject.is_some_and(|subject| subject.is_basis) => return Vec::new(),
        Err(error) => return vec![failed("containerd", error)],
    };
    let found = format!(
        "{} at {}, uuid {}, namespace {}, snapshotter {}",
        it.version, it.address, it.uuid, it.namespace, it.snapshotter
    );
    let mut checks = vec![check("containerd", Mark::Ok, found, None)];
    checks.push(if it.parallel_unpack {
        check("unpack", Mark::Ok, "layers are unpacked in parallel", None)
    } else {
        let found =
            format!("layers are unpacked one by one: snapshotter {} lacks the capability `rebase`", it.snapshotter);
        // containerd 2.2 brought it, for overlayfs outside user namespaces (`plugins/snapshots/overlay/plugin`) and
        // for erofs.
        check("unpack", Mark::Slow, found, Some("containerd 2.2 or later with its snapshotter overlayfs, run by root"))
    });
    if it.sharing.as_deref() == Some("isolated") {
        let found = "content of other namespaces is sent again: the sharing policy is `isolated`";
        let remedy =
            "content_sharing_policy = \"shared\" for io.containerd.metadata.v1.bolt in containerd's config.toml";
        checks.push(check("sharing", Mark::Slow, found, Some(remedy)));
    }
    checks
}

pub(super) fn containerd(it: &doctor::Containerd, inflate: Option<&Inflate>) -> Containerd {
    Containerd {
        address: it.address.clone(),
        version: it.version.clone(),
        uuid: it.uuid.clone(),
        sharing: it.sharing.clone(),
        inflate: inflate.map(|inflate| match inflate {
            Inflate::Helper(program) => program,
            Inflate::Builtin => "builtin",
        }),
    }
}

/// A note if the configured containerd is not the one that dockerd uses.
pub(super) fn misplaced_check(found: &Facts, containerd: &Result<doctor::Containerd, EngineError>) -> Option<Check> {
    let (named, used) = (found.containerd_address.as_ref()?, containerd.as_ref().ok()?);
    let unix = |path: &str| format!("unix://{}", path.strip_prefix("unix://").unwrap_or(path));
    let (named, used) = (unix(&named.display().to_string()), unix(&used.address));
    if is_same_address(&named, &used) {
        return None;
    }
    let message = format!("{named} was named, and the engine uses the containerd at {used}");
    let path = used.strip_prefix("unix://").unwrap_or(&used);
    Some(check("containerd", Mark::Note, message, Some(&format!("leave it out, or say --containerd-address {path}"))))
}

pub(super) fn inflate_check(inflate: &Inflate) -> Check {
    match inflate {
        Inflate::Helper(program) => {
            check("inflate", Mark::Ok, format!("containerd inflates gzip with {program}"), None)
        }
        Inflate::Builtin => check(
            "inflate",
            Mark::Slow,
            "containerd inflates gzip with Go's own code: igzip on its PATH is faster",
            Some("apt-get install isal (other systems: isa-l or isa-l-tools), then restart containerd"),
        ),
    }
}
