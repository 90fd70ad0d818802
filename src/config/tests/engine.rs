//! The engine.

use super::*;

#[test]
fn every_engine_can_be_configured() {
    for (text, kind) in [
        ("auto", None),
        ("docker", Some(EngineKind::Docker)),
        ("docker-classic", Some(EngineKind::DockerClassic)),
        ("docker-api", Some(EngineKind::DockerApi)),
        ("containerd", Some(EngineKind::Containerd)),
        ("layout", Some(EngineKind::Layout)),
    ] {
        let sources = Sources::new().flag(Setting::Engine, text).flag(Setting::Builder, "unix:///b");
        assert_eq!(sources.config().engine.kind, kind);
    }
}

#[test]
fn a_cluster_is_an_engine_with_an_address() {
    let sources = |text: &str| Sources::new().flag(Setting::Engine, text).variable("DOCKER_HOST", "unix:///d.sock");
    // The namespace is that of other commands.
    let config = sources("kind://dev?nodes=dev-worker").variable("CONTAINERD_NAMESPACE", "mine").config();
    assert_eq!(config.engine.kind, Some(EngineKind::Cluster));
    assert_eq!(config.engine.cluster.as_ref().map(ToString::to_string).as_deref(), Some("kind://dev?nodes=dev-worker"));
    assert_eq!(config.engine.docker_address().to_string(), "unix:///d.sock", "its nodes are found there");
    assert_eq!(sources("k3d://").config().engine.cluster.map(|it| it.name).as_deref(), Some("k3s-default"));
    for (text, words) in [("kind://Dev", "is no cluster: the name of a cluster"), ("cluster", "is no engine")] {
        let refusal = sources(text).refusal();
        assert!(refusal.contains(words), "{refusal}");
    }
    for setting in [Setting::Namespace, Setting::ContainerdAddress] {
        let refusal = sources("kind://").flag(setting, "/mine").refusal();
        assert!(refusal.contains(&format!("leave --{} out", setting.name())), "{refusal}");
    }
    let refusal = sources("kind://").flag(Setting::DockerListen, "unix:///door.sock").refusal();
    assert!(refusal.contains("needs Docker as the engine"), "{refusal}");
}

#[test]
fn the_shell_of_a_user_of_the_docker_door_names_no_engine() {
    let door = || Sources::new().flag(Setting::DockerListen, "unix:///a");
    let engine = |sources: Sources| sources.config().engine.docker_host.map(|host| host.to_string());
    assert_eq!(engine(door().variable("DOCKER_HOST", "unix:///a")), None);
    assert_eq!(engine(door().variable("DOCKER_HOST", "unix:///b")).as_deref(), Some("unix:///b"));
    // By another path to the same folder.
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
    let (direct, by_link) = (folder.path().join("a.sock"), folder.path().join("link/a.sock"));
    let linked = || Sources::new().flag(Setting::DockerListen, direct.to_str().unwrap());
    assert_eq!(engine(linked().variable("DOCKER_HOST", by_link.to_str().unwrap())), None);
    assert!(engine(linked().variable("DOCKER_HOST", folder.path().join("b.sock").to_str().unwrap())).is_some());
    let refusal = linked().flag(Setting::DockerHost, by_link.to_str().unwrap()).refusal();
    assert!(refusal.contains("the door would lead to itself"), "{refusal}");
    let usual = "unix:///run/linkspan/docker.sock";
    assert_eq!(engine(Sources::new().variable("DOCKER_HOST", usual)), None, "a daemon has it open, not this process");
    let refusal = door().variable("LINKSPAN_DOCKER_HOST", "unix:///a").refusal();
    assert!(refusal.contains("the door would lead to itself"), "{refusal}");
    let usual = Sources::new().flag(Setting::DockerListen, "unix:///var/run/docker.sock").refusal();
    assert!(usual.contains("name dockerd's address with --docker-host"), "{usual}");
}

#[test]
fn namespaces_follow_containerd() {
    let accepted = |text: &str| Sources::new().flag(Setting::Namespace, text).load().is_ok();
    let longest = "n".repeat(76);
    for good in ["default", "k8s.io", "moby", "0", "A-b_c.d", longest.as_str()] {
        assert!(accepted(good), "{good}");
    }
    let too_long = "n".repeat(77);
    for bad in ["", ".", "a..b", "-a", "a-", "a/b", "a b", "ü", "a.-b", "../etc", too_long.as_str()] {
        assert!(!accepted(bad), "{bad}");
    }
}

#[test]
fn a_layout_goes_with_its_own_engine_or_with_none_that_is_named() {
    let layout = |sources: Sources| sources.flag(Setting::Layout, "/images").config().engine;
    let selection = layout(Sources::new().flag(Setting::Engine, "layout").variable("DOCKER_HOST", "tcp://elsewhere:1"));
    assert_eq!(
        (selection.kind, selection.layout.as_deref()),
        (Some(EngineKind::Layout), Some(std::path::Path::new("/images")))
    );
    assert_eq!(selection.docker_host, None);
    // A --layout flag alone overrides the engine of the environment and of the file.
    let others = || Sources::new().variable("LINKSPAN_ENGINE", "docker").file("engine = 'containerd'");
    assert_eq!(
        (layout(Sources::new()).kind, layout(others()).kind),
        (Some(EngineKind::Layout), Some(EngineKind::Layout))
    );
    assert_eq!(layout(Sources::new().flag(Setting::Engine, "auto")).kind, None);
    assert_eq!(layout(Sources::new().flag(Setting::DockerHost, "/d.sock")).kind, None, "not alone");
    let ambient = Sources::new().variable("LINKSPAN_LAYOUT", "/images");
    assert_eq!(ambient.config().engine.kind, None, "only where it is, not that it is meant");
    let other = Sources::new().file("layout = '/images'").flag(Setting::Engine, "docker").config().engine;
    assert_eq!((other.kind, other.layout), (Some(EngineKind::Docker), None));
    assert_eq!(
        Sources::new().file("layout = 'relative/images'").config().engine.layout,
        Some("relative/images".into())
    );
    for engine in ["docker", "containerd"] {
        let error = Sources::new().flag(Setting::Engine, engine).flag(Setting::Layout, "/images").refusal();
        assert!(error.contains("--engine layout"), "{error}");
    }
    let error = Sources::new().flag(Setting::Layout, "file:///images").refusal();
    assert!(error.starts_with("--layout: `file:///images` is no directory"), "{error}");
}

#[test]
fn a_bucket_goes_with_its_own_engine() {
    let bucket = |sources: Sources| sources.flag(Setting::Object, "s3://images/ci").config().engine;
    for selection in [
        bucket(Sources::new()),
        bucket(Sources::new().variable("LINKSPAN_ENGINE", "docker")),
        bucket(Sources::new().flag(Setting::Engine, "object").variable("DOCKER_HOST", "tcp://elsewhere:1")),
        Sources::new().file("engine = 'object'\nobject = 's3://images/ci'").config().engine,
    ] {
        assert_eq!(selection.kind, Some(EngineKind::Object));
        assert_eq!(selection.object.unwrap().to_string(), "s3://images/ci");
        assert_eq!(selection.docker_host, None);
    }
    let ambient = Sources::new().variable("LINKSPAN_OBJECT", "s3://images/ci").config().engine;
    assert_eq!((ambient.kind, ambient.object), (None, None), "only which, not that it is meant");
    for (flags, expected) in [
        (&[(Setting::Engine, "object")][..], "--object s3://BUCKET/PREFIX"),
        (&[(Setting::Engine, "docker"), (Setting::Object, "s3://b")], "--engine object"),
        (&[(Setting::Layout, "/images"), (Setting::Object, "s3://b")], "leave one of them out"),
        (&[(Setting::Object, "/images")], "expected `s3://BUCKET/PREFIX`"),
    ] {
        let sources = flags.iter().fold(Sources::new(), |sources, (setting, text)| sources.flag(*setting, text));
        let error = sources.refusal();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_address_without_a_scheme_is_a_path() {
    let config = Sources::new()
        .flag(Setting::DockerHost, "/d.sock")
        .flag(Setting::Builder, "/b.sock")
        .flag(Setting::BuildkitListen, "/l.sock")
        .flag(Setting::DockerListen, "/door.sock")
        .flag(Setting::ExportListen, "/e.sock")
        .variable("CONTAINERD_ADDRESS", "unix:///c.sock")
        .config();
    assert_eq!(config.engine.docker_address().to_string(), "unix:///d.sock");
    assert_eq!(config.engine.containerd_address, Some("/c.sock".into()));
    assert_eq!(config.builders[0].endpoint.to_string(), "unix:///b.sock");
    assert_eq!(config.builders[0].listen.to_string(), "unix:///l.sock");
    assert_eq!(config.docker_door.unwrap().listen.to_string(), "unix:///door.sock");
    assert_eq!(config.export_listen.unwrap().to_string(), "unix:///e.sock");
    let config = Sources::new().flag(Setting::DockerListen, "/d.sock").variable("DOCKER_HOST", "unix:///d.sock");
    assert_eq!(config.config().engine.docker_host, None, "it is the same address");
    let sources = Sources::new().flag(Setting::DockerListen, "unix:///d.sock").flag(Setting::DockerHost, "/d.sock");
    assert!(sources.refusal().contains("the door would lead to itself"));
}
