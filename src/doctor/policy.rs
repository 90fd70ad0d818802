//! What a running Linkspan changes in builds, and what it refuses.

use super::report::{Check, Mark, check};
use crate::build_outputs::compression;
use crate::status::{Builder, Policy, Status};

/// The checks of what `status` says of its policy: none where everything is as it is by default.
pub(super) fn policy_checks(status: &Status) -> Vec<Check> {
    let found = compressions(status).into_iter().chain(restrictions(&status.policy));
    found.map(|found| check("policy", Mark::Note, found, None)).collect()
}

/// The compressions of each door for builds; once, if all doors have the same.
fn compressions(status: &Status) -> Vec<String> {
    let Policy { load_compression, push_compression, .. } = &status.policy;
    let of_docker = compression(load_compression.as_deref(), push_compression.as_deref());
    let has_docker = load_compression.is_some() || push_compression.is_some();
    let docker = has_docker.then_some(("builders behind the docker door".to_owned(), of_docker));
    let builders = status.builders.iter().map(|builder| {
        let Builder { address, load_compression, push_compression, .. } = builder;
        (address.clone(), compression(load_compression.as_deref(), push_compression.as_deref()))
    });
    let all: Vec<_> = docker.into_iter().chain(builders).collect();
    let Some((_, first)) = all.first() else { return Vec::new() };
    if all.iter().all(|(_, changed)| changed == first) {
        return first.iter().cloned().collect();
    }
    all.iter().filter_map(|(of, changed)| changed.as_ref().map(|changed| format!("{of}: {changed}"))).collect()
}

/// What is refused of names.
fn restrictions(policy: &Policy) -> Option<String> {
    let restricted = policy.names_restricted.then_some("names are restricted (--allow-name)");
    let fixed = policy.deny_tag_move.then_some("tags do not move (--deny-tag-move)");
    let parts: Vec<_> = restricted.into_iter().chain(fixed).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineKind;
    use crate::status::{Door, Engine, Kind};

    fn status(policy: Policy, builders: &[(&str, &str)]) -> Status {
        let door = Door { kind: Kind::Export, address: "unix:///e".to_owned() };
        let builder = |&(address, load): &(&str, &str)| Builder {
            address: address.to_owned(),
            load_compression: Some(load.to_owned()),
            push_compression: Some("as-asked".to_owned()),
            ..Builder::default()
        };
        Status {
            version: "1".to_owned(),
            instance: "i".to_owned(),
            pid: 1,
            door,
            doors: Vec::new(),
            engine: Engine { kind: EngineKind::Docker, ..Engine::default() },
            builders: builders.iter().map(builder).collect(),
            policy,
            exports: Vec::new(),
            ended: Default::default(),
            metrics: None,
            slow_load: None,
        }
    }

    fn lines(policy: Policy, builders: &[(&str, &str)]) -> Vec<String> {
        policy_checks(&status(policy, builders)).into_iter().map(|check| check.found).collect()
    }

    fn docker(load: &str, push: &str) -> Policy {
        let (load_compression, push_compression) = (Some(load.to_owned()), Some(push.to_owned()));
        Policy { load_compression, push_compression, ..Policy::default() }
    }

    #[test]
    fn what_is_as_by_default_is_not_said() {
        assert_eq!(lines(Policy::default(), &[]), <[&str; 0]>::default());
        assert_eq!(lines(docker("as-asked", "as-asked"), &[("unix:///b", "as-asked")]), <[&str; 0]>::default());
    }

    #[test]
    fn compressions_are_said_once_or_of_each_builder() {
        let fast = "new layers of loads: gzip level 1 (--load-compression fast)";
        assert_eq!(lines(docker("fast", "gzip"), &[]), [format!("{fast}; pushes: gzip")]);
        assert_eq!(lines(docker("fast", "as-asked"), &[("unix:///b", "fast")]), [fast]);
        let builders = [("unix:///b", "zstd"), ("unix:///c", "as-asked")];
        assert_eq!(
            lines(docker("fast", "as-asked"), &builders),
            [
                format!("builders behind the docker door: {fast}"),
                "unix:///b: new layers of loads: zstd (--load-compression zstd)".to_owned(),
            ]
        );
        // What a later version names is repeated.
        assert_eq!(
            lines(Policy::default(), &[("unix:///b", "lz")]),
            ["new layers of loads: lz (--load-compression lz)"]
        );
    }

    #[test]
    fn restrictions_of_names_are_said() {
        let policy = Policy { names_restricted: true, deny_tag_move: true, ..Policy::default() };
        let expected = "names are restricted (--allow-name); tags do not move (--deny-tag-move)";
        assert_eq!(lines(policy, &[]), [expected]);
    }
}
