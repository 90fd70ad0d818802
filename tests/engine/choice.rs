//! Which engine is chosen, and why none is.

use linkspan::engine::EngineError;
use linkspan::engine::EngineKind;
use linkspan::engine::doctor::examine;
use linkspan::engine::select::{DockerAddress, Selection, select};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::{Part, Stack};
use crate::fixture::{Image, Layer, containerd_selection, docker_selection, export, names};

#[tokio::test(flavor = "multi_thread")]
async fn docker_is_preferred_and_the_reason_names_what_was_proven() {
    let stack = Stack::shared();
    let selection = Selection { kind: None, ..docker_selection(stack) };
    let selected = select(&selection).await.unwrap();
    let identity = selected.engine.identity();
    assert_eq!(identity.kind, EngineKind::Docker);
    assert!(identity.to_string().ends_with("namespace moby, snapshotter overlayfs"), "{identity}");
    assert_eq!(identity.address, stack.docker_host());
    assert!(selected.reason.contains(stack.containerd_address()), "{}", selected.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_is_taken_when_configured() {
    let stack = Stack::shared();
    let selected = select(&containerd_selection(stack, "k8s.io")).await.unwrap();
    let identity = selected.engine.identity();
    assert_eq!(identity.kind, EngineKind::Containerd);
    assert!(identity.to_string().contains("namespace k8s.io"), "{identity}");
    assert_eq!(selected.reason, "as configured");
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
    let message = error.to_string();
    assert!(message.contains("6d0c6f5e") && message.contains(stack.containerd_address()), "{message}");
    assert!(error.hint().unwrap().contains("--containerd-address"));

    // Where nothing is configured, docker's API alone is used, which says so.
    let auto = Selection { kind: None, cache_dir: Some(stack.fresh_path("-spool")), ..docker_selection(&stack) };
    let selected = select(&auto).await.unwrap();
    assert_eq!(selected.engine.identity().kind, EngineKind::DockerApi);
    assert!(selected.reason.contains("6d0c6f5e") && selected.reason.contains("API alone"), "{}", selected.reason);
    let image = Image::new(&[Layer::new().file("unproven", "1").tar()]);
    export(&*selected.engine, &image, &names(&["unproven:1"])).await.unwrap();
    assert_eq!(stack.tagged("moby", "unproven:1"), Some(image.root.digest.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classic_store_is_found_and_has_an_engine_of_its_own() {
    let stack = Stack::classic();
    let host: Option<DockerAddress> = Some(stack.docker_classic_host().parse().unwrap());
    let of = |kind| Selection { kind, docker_host: host.clone(), ..Selection::default() };
    let driver = stack.docker_classic(["info", "--format", "{{.Driver}}"]).ok().stdout.trim().to_owned();

    let error = select(&of(Some(EngineKind::Docker))).await.unwrap_err();
    assert!(matches!(&error, EngineError::ClassicStore { driver: named, .. } if *named == driver), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("containerd-snapshotter") && hint.contains("--engine docker-classic"), "{hint}");

    for kind in [None, Some(EngineKind::DockerClassic)] {
        let selected = select(&of(kind)).await.unwrap();
        let identity = selected.engine.identity();
        assert_eq!(
            (identity.kind, identity.address.as_str()),
            (EngineKind::DockerClassic, stack.docker_classic_host())
        );
        assert!(identity.to_string().ends_with(&format!("storage driver {driver}")), "{identity}");
    }
    let selection = Selection { namespace: Some("moby".to_owned()), ..of(Some(EngineKind::DockerClassic)) };
    let error = select(&selection).await.unwrap_err();
    assert!(matches!(&error, EngineError::Namespace { namespace, .. } if namespace == "moby"), "{error}");

    let findings = examine(&of(None)).await;
    let docker = findings.docker.unwrap().unwrap();
    assert_eq!((docker.containerd_store, docker.driver), (false, driver));
    assert!(findings.containerd.is_none(), "it has no part in this");
    assert_eq!(findings.selected.unwrap().engine.identity().kind, EngineKind::DockerClassic);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containerd_store_is_no_classic_one() {
    let selection = Selection { kind: Some(EngineKind::DockerClassic), ..docker_selection(Stack::shared()) };
    let error = select(&selection).await.unwrap_err();
    assert!(matches!(error, EngineError::ContainerdStore { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--engine docker"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_sees_both_halves_of_a_docker() {
    let stack = Stack::shared();
    let findings = examine(&docker_selection(stack)).await;
    assert_eq!(findings.selected.unwrap().engine.identity().kind, EngineKind::Docker);
    let docker = findings.docker.unwrap().unwrap();
    assert!(docker.containerd_store);
    assert_eq!(docker.address, stack.docker_host());
    let containerd = findings.containerd.unwrap().unwrap();
    assert_eq!(containerd.address, format!("unix://{}", stack.containerd_address()));
    assert_eq!((containerd.namespace.as_str(), containerd.snapshotter.as_str()), ("moby", "overlayfs"));
    assert_eq!((containerd.parallel_unpack, containerd.sharing.as_deref()), (true, Some("shared")));
    assert_eq!(containerd.uuid.len(), 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_what_it_met_where_there_is_nothing() {
    let stack = Stack::shared();
    let missing = stack.fresh_path("-missing.sock");
    let selection = Selection {
        docker_host: Some(DockerAddress::Unix(missing.clone())),
        containerd_address: Some(missing),
        ..Selection::default()
    };
    let findings = examine(&selection).await;
    assert!(matches!(findings.selected, Err(EngineError::Unreachable { engine: "docker", .. })));
    assert!(matches!(findings.docker, Some(Err(EngineError::Unreachable { engine: "docker", .. }))));
    assert!(matches!(findings.containerd, Some(Err(EngineError::Unreachable { engine: "containerd", .. }))));
}

/// A dockerd before 29.2 refuses HTTP/2 on its socket, and lets `POST /grpc` be upgraded to it.
pub(crate) struct OldDockerd {
    pub(crate) address: String,
    serve: tokio::task::JoinHandle<()>,
}

impl Drop for OldDockerd {
    fn drop(&mut self) {
        self.serve.abort();
    }
}

/// The dockerd of `stack`, as if it were an old one.
pub(crate) fn old_dockerd(stack: &Stack) -> OldDockerd {
    let socket = stack.fresh_path("-old.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let docker = stack.docker_host().strip_prefix("unix://").unwrap().to_owned();
    let serve = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(as_old_dockerd(client, docker.clone()));
        }
    });
    OldDockerd { address: format!("unix://{}", socket.display()), serve }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_dockerd_proves_itself_over_an_upgrade() {
    let stack = Stack::shared();
    let old = old_dockerd(stack);
    let selection = Selection {
        kind: Some(EngineKind::Docker),
        docker_host: Some(old.address.parse().unwrap()),
        ..Selection::default()
    };
    let engine = select(&selection).await.unwrap().engine;
    let image = Image::new(&[Layer::new().file("old", "1").tar()]);
    export(&*engine, &image, &names(&["old:1"])).await.unwrap();
    assert_eq!(engine.already_complete(&image.root, &names(&["old:1"])).await.unwrap(), Some(3));
}

async fn as_old_dockerd(mut client: tokio::net::UnixStream, docker: String) -> std::io::Result<()> {
    let mut first = [0; 3];
    client.read_exact(&mut first).await?;
    if first == *b"PRI" {
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    }
    let mut docker = tokio::net::UnixStream::connect(docker).await?;
    docker.write_all(&first).await?;
    tokio::io::copy_bidirectional(&mut client, &mut docker).await.map(|_| ())
}
