//! The import rules of Linkspan, checked on its sources.
//!
//! Data flows one way, door -> export -> engine, and only the composition root knows everything. A rule that nobody
//! checks is broken within a month; `RULES` below is the list, and each has its reason.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

use std::fs;
use std::path::{Path, PathBuf};

// In a folder of their own, or cargo would take them for other test binaries.
#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/paths.rs"]
mod paths;

/// Files below `of` must not name anything below one of `never`.
struct Rule {
    of: &'static str,
    never: &'static [&'static str],
    why: &'static str,
}

const CONCRETE_ENGINES: &[&str] = &[
    "crate::engine::cluster",
    "crate::engine::containerd",
    "crate::engine::docker",
    "crate::engine::docker_classic",
    "crate::engine::local",
    "crate::engine::object",
    "crate::engine::remote",
    "crate::engine::repository",
    "crate::engine::select",
    "crate::engine::doctor",
];

const PASS_THROUGH: &[&str] = &[
    "crate::image",
    "crate::engine",
    "crate::export",
    "crate::source",
    "crate::door",
    "crate::tunnel",
    "crate::docker_api",
];

const RULES: &[Rule] = &[
    Rule {
        of: "image",
        never: &["tokio", "tokio_util", "tokio_stream", "tonic", "tonic_prost", "hyper", "hyper_util", "hyperlocal"],
        why: "the image model is pure: no runtime, no transport",
    },
    Rule {
        of: "image",
        never: &[
            "crate::engine",
            "crate::export",
            "crate::source",
            "crate::door",
            "crate::net",
            "crate::http1",
            "crate::http2",
            "crate::progress",
        ],
        why: "everything stands on the image model, so it stands on nothing",
    },
    Rule { of: "export", never: &["crate::door"], why: "the core knows no transport: doors call it" },
    Rule { of: "export", never: CONCRETE_ENGINES, why: "the core knows engines by their trait only" },
    Rule {
        of: "caches",
        never: &["crate::door", "crate::export"],
        why: "doors call it, and an export stores no cache",
    },
    Rule { of: "caches", never: CONCRETE_ENGINES, why: "caches know engines by their traits only" },
    Rule { of: "door", never: CONCRETE_ENGINES, why: "a door is given its engine" },
    Rule { of: "engine", never: &["crate::door"], why: "an engine does not know who exports" },
    Rule {
        of: "engine",
        never: &["crate::export", "crate::caches"],
        why: "an engine stores images; who may export what is not its concern",
    },
    Rule {
        of: "engine/remote",
        never: &[
            "crate::engine::containerd",
            "crate::engine::docker",
            "crate::engine::docker_classic",
            "crate::engine::local",
            "crate::engine::object",
            "crate::engine::repository",
            "crate::engine::select",
        ],
        why: "a daemon's engine is known by what the API says of it",
    },
    Rule {
        of: "engine/repository",
        never: &[
            "crate::engine::local::disk",
            "crate::engine::local::files",
            "crate::engine::local::init",
            "crate::engine::local::lock",
            "crate::engine::local::paths",
            "crate::engine::local::process_file",
            "crate::engine::local::seal",
        ],
        why: "where the stores of a repository keep their content is theirs to know",
    },
    Rule { of: "engine/local", never: &["crate::engine::repository"], why: "stores do not know the engine over them" },
    Rule {
        of: "export_v1",
        never: &[
            "crate::door",
            "crate::engine",
            "crate::export",
            "crate::output",
            "crate::net",
            "crate::http1",
            "crate::http2",
            "crate::source",
        ],
        why: "the API's contract is shared by its server and its clients, so it knows neither",
    },
    Rule {
        of: "cache_v1",
        never: &["crate::door", "crate::engine", "crate::export", "crate::caches", "crate::net", "crate::source"],
        why: "the API's contract is shared by its server and its clients, so it knows neither",
    },
    Rule {
        of: "content_server",
        never: &["crate::door", "crate::export", "crate::caches"],
        why: "it serves the blobs of whatever a door names",
    },
    Rule { of: "content_server", never: CONCRETE_ENGINES, why: "its blobs are those of any engine" },
    Rule {
        of: "api_server",
        never: &["crate::door", "crate::export", "crate::caches"],
        why: "doors bring their services, and it serves them",
    },
    Rule {
        of: "source",
        never: &["crate::door", "crate::engine", "crate::export"],
        why: "a source does not know where its bytes go",
    },
    Rule {
        of: "output",
        never: &["crate::door", "crate::engine", "crate::export", "crate::net", "crate::http1", "crate::http2"],
        why: "an output is given its source, and does not know who reads it",
    },
    Rule {
        of: "http1",
        never: PASS_THROUGH,
        why: "the pass-through knows nothing of images, and is given its streams",
    },
    Rule { of: "http1", never: &["crate::http2"], why: "what relays bytes understands no calls" },
    Rule {
        of: "http2",
        never: PASS_THROUGH,
        why: "the pass-through knows nothing of images, and is given its streams",
    },
    Rule { of: "http2", never: &["crate::http1"], why: "what forwards calls relays no bytes" },
    Rule {
        of: "net",
        never: &[
            "crate::image",
            "crate::engine",
            "crate::export",
            "crate::source",
            "crate::door",
            "crate::http1",
            "crate::http2",
            "crate::tunnel",
            "crate::docker_api",
        ],
        why: "a connection is bytes and whose they are",
    },
    Rule {
        of: "tunnel",
        never: &["crate::image", "crate::engine", "crate::export", "crate::source", "crate::door"],
        why: "what runs inside a stream of a container knows nothing of images",
    },
    Rule {
        of: "docker_api",
        never: &[
            "crate::image",
            "crate::engine",
            "crate::export",
            "crate::source",
            "crate::door",
            "crate::http1",
            "crate::http2",
            "crate::tunnel",
            "crate::config",
        ],
        why: "engines and tunnels both stand on dockerd's API, so it stands on connections alone",
    },
    Rule {
        of: "buildx",
        never: &[
            "crate::image",
            "crate::engine",
            "crate::export",
            "crate::source",
            "crate::door",
            "crate::net",
            "crate::http1",
            "crate::http2",
        ],
        why: "it is buildx's files, and nothing of ours",
    },
    Rule {
        of: "config",
        never: &["crate::door", "crate::export"],
        why: "configuration is read before anything exists",
    },
];

/// The libraries of metrics and traces.
const OBSERVATION: &[&str] = &[
    "prometheus_client",
    "opentelemetry",
    "opentelemetry_http",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "tracing_opentelemetry",
];

/// Parts that know everything; nothing else may know them.
const TOP: &[&str] = &[
    "crate::cli",
    "crate::daemon",
    "crate::doctor",
    "crate::setup",
    "crate::config",
    "crate::running",
    "crate::telemetry",
    "crate::metrics",
];
const BELOW_TOP: &[&str] = &[
    "image",
    "progress",
    "source",
    "engine",
    "export",
    "caches",
    "output",
    "door",
    "export_v1",
    "cache_v1",
    "content_server",
    "api_server",
    "net",
    "passwords",
    "http1",
    "http2",
    "tunnel",
    "docker_api",
    "buildx",
];

const FOLDERS: &[&str] = &["src", "proto", "scripts", "tests", "benches", "target"];

#[test]
fn the_sources_keep_the_rules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&src);
    assert!(files.len() > 20, "only {} sources found below {}", files.len(), src.display());
    let violations: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(&src).unwrap().to_str().unwrap();
            violations(name, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn there_are_no_other_folders() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let others: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && !FOLDERS.contains(&name.as_str()))
        .collect();
    assert_eq!(others, Vec::<String>::new(), "everything lives in one of {FOLDERS:?}");
}

/// What a test reads from a socket or a pipe once is read by `read_some`, which an ended child of another test does not
/// interrupt.
#[test]
fn no_test_reads_once_without_going_on_when_interrupted() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let once: Vec<_> = sources(&tests)
        .iter()
        .filter(|file| !file.ends_with("common/relay.rs") && !file.ends_with("tests/architecture.rs"))
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            text.lines()
                .filter(|line| reads_once(line))
                .map(|line| format!("{}: {line}", file.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(once.is_empty(), "use common::read_some, read_exact or read_to_end:\n{}", once.join("\n"));
    assert!(reads_once("while let Ok(count @ 1..) = from.read(&mut buffer) {"), "the check can fail");
}

/// A read of the standard library that may end early; those of tokio are awaited and go on by themselves.
fn reads_once(line: &str) -> bool {
    line.contains(".read(&mut ") && !line.contains(".await")
}

#[test]
fn the_check_can_fail() {
    let cases = [
        ("image/digest.rs", "use tokio::io::AsyncRead;"),
        ("image/graph/mod.rs", "fn f() { ::tonic::Code::Ok; }"),
        ("image/mod.rs", "use super::engine::Engine;"),
        ("export/mod.rs", "use crate::{image::Digest, engine::{Engine, docker::Docker}};"),
        ("export/plan.rs", "use crate::engine;\nfn f() -> engine::containerd::Client {}"),
        ("export/plan.rs", "use crate::engine::select as choose;\nfn f() { choose::select() }"),
        ("export/plan.rs", "use super::super::door;"),
        ("caches/mod.rs", "use crate::engine::local::Entry;"),
        ("engine/caches.rs", "use crate::caches::Caches;"),
        ("door/buildkit/mod.rs", "use crate::door::registry::Push;"),
        ("door/buildkit/solve.rs", "use super::super::registry::Push;"),
        ("door/buildkit/mod.rs", "mod tests { use super::super::docker; }"),
        ("door/docker.rs", "use crate::door::buildkit;"),
        ("door/buildkit/mod.rs", "use crate::engine::select::select;"),
        ("engine/docker/mod.rs", "pub use crate::door::buildkit::Door;"),
        ("engine/docker/mod.rs", "use crate::config::Config;"),
        ("source/mod.rs", "use crate::engine::*;"),
        ("net/principal.rs", "use crate::engine::Origin;"),
        ("http2/mod.rs", "type D = crate::image::Digest;"),
        ("tunnel/exec.rs", "use crate::engine::EngineError;"),
        ("docker_api/mod.rs", "use crate::engine::EngineError;"),
        ("http2/pool.rs", "use crate::tunnel::ExecDial;"),
        ("config/mod.rs", "use crate::door::buildkit::Settings;"),
        ("engine/remote/mod.rs", "use crate::engine::repository::RepositoryEngine;"),
        ("engine/repository/lease.rs", "use super::super::local::lock;"),
        ("engine/local/gc.rs", "use crate::engine::repository::Stores;"),
        ("export_v1/error.rs", "use crate::export::ExportError;"),
        ("cache_v1/mod.rs", "use crate::caches::Caches;"),
        ("content_server/mod.rs", "use crate::door::export_api;"),
        ("api_server/mod.rs", "use crate::caches::Caches;"),
        ("engine/remote/mod.rs", "use crate::export::NamePolicy;"),
        ("door/export_api/mod.rs", "use crate::engine::remote::connect;"),
        ("progress.rs", "use crate::daemon;"),
        ("export/run.rs", "use prometheus_client::registry::Registry;"),
        ("daemon/mod.rs", "use opentelemetry::Context;"),
        ("door/registry/mod.rs", "use crate::metrics::Metrics;"),
        ("activity.rs", "use crate::export::Exports;"),
    ];
    for (file, text) in cases {
        assert!(!violations(file, text).is_empty(), "{file}: {text}");
    }
}

#[test]
fn what_is_allowed_passes() {
    let cases = [
        ("image/digest.rs", "// use tokio::io;\n/* tonic::Code /* nested */ hyper */ const A: &str = \"tokio::io\";"),
        ("image/digest.rs", "const A: &str = r#\"a \" tokio::io\"#; const C: char = '\"'; fn f<'a>(x: &'a str) {}"),
        ("image/digest.rs", "struct Tonic { tokio: u8 }\nuse sha2::Digest;"),
        ("export/mod.rs", "use crate::engine::{Engine, Ingest};\nuse tokio::sync::Semaphore;"),
        ("door/buildkit/mod.rs", "mod solve;\nuse crate::door::buildkit::solve::edit;\nuse self::solve;"),
        ("door/buildkit/solve.rs", "mod tests { use super::super::Door; }"),
        ("door/mod.rs", "pub mod buildkit; pub use self::buildkit::Door;"),
        ("engine/select.rs", "use super::docker::DockerEngine;"),
        ("daemon/mod.rs", "use crate::door::buildkit::Door;\nuse crate::engine::select::select;"),
        ("cli/mod.rs", "use crate::{daemon, doctor, config};"),
        ("metrics/mod.rs", "use prometheus_client::registry::Registry;"),
        ("trace_context.rs", "use opentelemetry::Context;"),
        ("door/docker/mod.rs", "use crate::activity::Activity;\nuse crate::trace_context;"),
    ];
    for (file, text) in cases {
        assert_eq!(violations(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

/// Every `.rs` file below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// What `file` (its name below `src`) names against the rules, a line for each path and rule.
fn violations(file: &str, text: &str) -> Vec<String> {
    let module = module(file);
    let below = |path: &str, prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let own = |of: &str| of.split('/').enumerate().all(|(at, part)| module.get(at).is_some_and(|name| name == part));
    let mut paths = paths::of(&module, text);
    paths.sort();
    paths.dedup();
    let mut found = Vec::new();
    for path in paths {
        let whys = RULES.iter().filter(|rule| own(rule.of) && rule.never.iter().any(|never| below(&path, never)));
        let mut add = |why: &str| found.push(format!("src/{file} names {path}: {why}"));
        whys.for_each(|rule| add(rule.why));
        if BELOW_TOP.iter().any(|part| own(part)) && TOP.iter().any(|top| below(&path, top)) {
            add("only the composition root knows everything, and nothing knows it");
        }
        let is_observing = ["metrics", "telemetry", "trace_context"].iter().any(|part| own(part));
        if !is_observing && OBSERVATION.iter().any(|library| below(&path, library)) {
            add("what happens is told to `activity` and in spans, and who counts or sends it is not known");
        }
        if own("activity")
            && ["crate::metrics", "crate::door", "crate::export", "crate::engine"].iter().any(|it| below(&path, it))
        {
            add("everything tells what happens, so that stands on nothing");
        }
        if let ["door", mine, ..] = module.iter().map(String::as_str).collect::<Vec<_>>()[..]
            && let Some(other) = path.strip_prefix("crate::door::").and_then(|rest| rest.split("::").next())
            && is_module(other)
            && other != mine
        {
            add("a door knows no other door");
        }
    }
    found
}

/// Modules are written in small letters; what the folder of all doors exports itself is not.
fn is_module(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
}

/// `door/buildkit/mod.rs` is `["door", "buildkit"]`.
fn module(file: &str) -> Vec<String> {
    let name = file.trim_end_matches(".rs").trim_end_matches("/mod");
    name.split('/').filter(|part| !matches!(*part, "lib" | "main")).map(str::to_owned).collect()
}
