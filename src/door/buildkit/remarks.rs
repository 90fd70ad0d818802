//! Our messages in a client's own progress display.

use http::{HeaderMap, header};

use super::exporters::Exporter;

/// Placement when a plain exporter is treated as a load.
pub(super) const TAKEN: &str = "taken for a load, as --plain-is-load says; a file that dest= names is not written";

/// Images stay with registries, although `--from-engine` names some, because the builder cannot be told otherwise.
pub(super) const NO_SOURCES: &str =
    "all images come from registries: --from-engine needs a builder of BuildKit 0.27 or later; hint: update it";
/// The same, because the builder did not say what it can do.
pub(super) const UNKNOWN_BUILDER: &str =
    "all images come from registries (--from-engine): the builder has not said what it is; hint: build again";
/// The same, because the builder cannot call us.
pub(super) const UNSPLIT: &str = "all images come from registries (--from-engine): another build already uses this \
                                  client's session unsplit; hint: run this build alone";
/// The same, because of the source policies of the client.
pub(super) const FOREIGN_POLICY: &str = "all images come from registries (--from-engine): the build has no session of its \
                                         own that its source policy is in; hint: run this build alone";

/// The newest gRPC of Go (minor version of 1) in a buildx that does not mark its loads: buildx 0.23 and 0.24 both have it
/// (their `go.mod`). A client with a later one marks them, so that its plain `oci` is meant for a file.
const LAST_UNMARKED: u32 = 69;

/// The message for a load that is forwarded unchanged.
pub(super) fn passed(why: &str) -> String {
    format!("no direct export, the image goes as an archive: {why}")
}

/// The message for a plain exporter that is forwarded unchanged, if the client cannot mark its loads.
pub(super) fn plain(exporters: &[Exporter], headers: &HeaderMap) -> Option<String> {
    let is_in_doubt = |exporter: &Exporter| exporter.is_plain() && (exporter.kind == "docker" || cannot_mark(headers));
    exporters.iter().any(is_in_doubt).then(|| {
        "this goes as an archive, for it may be meant for a file; for a direct export use -o type=linkspan,name=NAME, \
         or start linkspan with --plain-is-load"
            .to_owned()
    })
}

/// Whether the client may be one that does not mark a load to an engine with the containerd image store.
fn cannot_mark(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let version = agent.split_once("grpc-go/1.").map(|(_, version)| version.split(['.', '-', ' ']).next());
    // Not Go, or an unknown version: the client may be unable to.
    version.flatten().and_then(|minor| minor.parse().ok()).is_none_or(|minor: u32| minor <= LAST_UNMARKED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_remarked(kind: &str, attrs: &[(&str, &str)], agent: &str) -> bool {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let headers = HeaderMap::from_iter([(header::USER_AGENT, agent.parse().unwrap())]);
        plain(&[Exporter { kind: kind.to_owned(), attrs }], &headers).is_some()
    }

    #[test]
    fn only_clients_that_cannot_mark_loads_get_a_remark() {
        for (kind, attrs, agent, expected) in [
            ("docker", &[][..], "grpc-go/1.81.0", true),
            ("oci", &[], "grpc-go/1.59.0", true),
            ("oci", &[], "grpc-go/1.69.4", true),
            ("oci", &[], "buildx/x grpc-go/1.72.2-dev", false),
            ("oci", &[], "else", true),
            ("oci", &[("tar", "false")], "grpc-go/1.59.0", false),
            ("oci", &[("prefer-image-digest", "true")], "grpc-go/1.59.0", false),
            ("docker", &[("dest", "x")], "grpc-go/1.59.0", false),
            ("local", &[], "grpc-go/1.59.0", false),
        ] {
            assert_eq!(is_remarked(kind, attrs, agent), expected, "{kind} {attrs:?} {agent}");
        }
    }
}
