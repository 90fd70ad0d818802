//! Which engine is taken.

use super::*;

#[test]
fn a_socket_is_the_one_of_an_address_with_and_without_its_scheme_and_through_links() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, link) = (folder.path().join("socket"), folder.path().join("link"));
    std::fs::write(&socket, "").unwrap();
    std::os::unix::fs::symlink(&socket, &link).unwrap();
    for address in [format!("unix://{}", socket.display()), socket.display().to_string()] {
        assert!(is_socket(&socket, &address) && is_socket(&link, &address), "{address}");
        assert!(!is_socket(&folder.path().join("other"), &address), "{address}");
    }
}

fn at(host: &str) -> Selection {
    Selection { docker_host: Some(host.parse().unwrap()), ..Selection::default() }
}

#[tokio::test]
async fn a_remote_docker_is_refused_by_name() {
    for host in ["tcp://127.0.0.1:2375", "ssh://user@host"] {
        let directly = Selection { kind: Some(EngineKind::Docker), ..at(host) };
        let error = select(&directly).await.unwrap_err();
        assert!(matches!(error, EngineError::Address { engine: "docker", .. }), "{error}");
        assert!(error.to_string().contains(host), "{error}");
    }
}

#[tokio::test]
async fn a_configured_docker_that_is_absent_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/docker.sock", folder.path().display());
    let error = select(&at(&host)).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable { engine: "docker", .. }), "{error}");
}

#[tokio::test]
async fn a_layout_is_taken_only_where_no_engine_was_ever_installed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = |name: &str| folder.path().join(name);
    let selection = Selection { layout: Some(folder.path().join("images")), ..Selection::default() };
    let places = installed::Places::below(folder.path());
    let choose = async || containerd_or_layout(&selection, &socket("d.sock"), &socket("c.sock"), &places).await;

    let (chosen, reason) = choose().await.unwrap();
    assert!(matches!(chosen, Chosen::Layout(_)));
    assert!(reason.contains("no engine is installed"), "{reason}");

    std::fs::create_dir_all(folder.path().join("usr/bin")).unwrap();
    std::fs::write(folder.path().join("usr/bin/dockerd"), "").unwrap();
    let error = choose().await.unwrap_err();
    assert!(matches!(error, EngineError::Stopped { engine: "docker", .. }), "{error}");
    assert!(error.to_string().contains("usr/bin/dockerd") && error.hint().unwrap().contains("--engine layout"));

    // A containerd beside a stopped Docker is that Docker's.
    std::fs::write(socket("c.sock"), "").unwrap();
    let error = choose().await.unwrap_err();
    assert!(matches!(error, EngineError::Stopped { engine: "docker", .. }), "{error}");
    let named = Selection { namespace: Some("mine".to_owned()), ..selection.clone() };
    let named = Selection { containerd_address: Some(socket("c.sock")), ..named };
    let error = containerd_or_layout(&named, &socket("d.sock"), &socket("c.sock"), &places).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable { engine: "containerd", .. }), "{error}");
}

#[tokio::test]
async fn containerd_is_taken_where_docker_was_never_installed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(folder.path().join("usr/bin")).unwrap();
    std::fs::write(folder.path().join("usr/bin/containerd"), "").unwrap();
    let places = installed::Places::below(folder.path());
    let selection = Selection { containerd_address: None, ..Selection::default() };
    let choose = async || containerd_or_layout(&selection, &socket("d.sock"), &socket("c.sock"), &places).await;

    let error = choose().await.unwrap_err();
    assert!(matches!(error, EngineError::Stopped { engine: "containerd", .. }), "{error}");
    std::fs::write(socket("c.sock"), "").unwrap();
    // It is reached for, wherever it is.
    match choose().await {
        Ok((chosen, _)) => assert!(matches!(chosen, Chosen::Containerd(_))),
        Err(error) => assert!(matches!(error, EngineError::Unreachable { engine: "containerd", .. }), "{error}"),
    }
}

#[tokio::test]
async fn a_containerd_that_is_absent_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let selection = Selection {
        kind: Some(EngineKind::Containerd),
        containerd_address: Some(folder.path().join("containerd.sock")),
        ..Selection::default()
    };
    let error = select(&selection).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable { engine: "containerd", .. }), "{error}");
}
