//! Which engine is chosen, and why none is.

use linkspan::engine::EngineError;
use linkspan::engine::select::{Kind, Selection, select};

use crate::common::{Part, Stack};
use crate::fixture::{containerd_selection, docker_selection};

#[tokio::test(flavor = "multi_thread")]
async fn docker_is_preferred_and_the_reason_says_what_was_proven() {
    let stack = Stack::shared();
    let selection = Selection { kind: Kind::Auto, ..docker_selection(stack) };
    let selected = select(&selection).await.unwrap();
    let identity = selected.engine.identity();
    assert_eq!((identity.kind, identity.namespace.as_str()), ("docker", "moby"));
    assert_eq!(identity.address, stack.docker_host());
    assert!(selected.reason.contains(stack.containerd_address()), "{}", selected.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_is_taken_when_asked_for() {
    let stack = Stack::shared();
    let selected = select(&containerd_selection(stack, "k8s.io")).await.unwrap();
    assert_eq!(
        (selected.engine.identity().kind, selected.engine.identity().namespace.as_str()),
        ("containerd", "k8s.io")
    );
    assert!(selected.engine.identity().version.starts_with('v') || !selected.engine.identity().version.is_empty());
    assert!(selected.reason.contains("k8s.io"), "{}", selected.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_namespace_than_dockers_is_refused() {
    let stack = Stack::shared();
    let selection = Selection { namespace: Some("k8s.io".to_owned()), ..docker_selection(stack) };
    let error = select(&selection).await.unwrap_err();
    assert!(matches!(&error, EngineError::Namespace { namespace, .. } if namespace == "k8s.io"), "{error}");
    assert!(error.to_string().contains("`moby`"), "{error}");
    let selection = Selection { namespace: Some("moby".to_owned()), ..docker_selection(stack) };
    select(&selection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshotter_that_is_not_there_is_named() {
    let stack = Stack::shared();
    stack.ctr("odd", ["namespaces", "create", "odd", "containerd.io/defaults/snapshotter=stargz"]).ok();
    let error = select(&containerd_selection(stack, "odd")).await.unwrap_err();
    assert!(matches!(&error, EngineError::Snapshotter { snapshotter, .. } if snapshotter == "stargz"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_that_is_not_dockers_is_never_written_to() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd]);
    // dockerd learnt the UUID when it started; a containerd with another one is another containerd.
    let found = std::process::Command::new("find")
        .arg(stack.state())
        .args(["-name", "uuid", "-path", "*introspection*"])
        .output();
    let path = String::from_utf8(found.unwrap().stdout).unwrap();
    std::fs::write(path.trim(), "6d0c6f5e-5b1e-4c1d-9d3e-0f0f0f0f0f0f").unwrap();
    let error = select(&docker_selection(&stack)).await.unwrap_err();
    assert!(matches!(error, EngineError::NotProven { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("6d0c6f5e") && said.contains(stack.containerd_address()), "{said}");
    assert!(error.hint().unwrap().contains("--containerd-address"));
}
