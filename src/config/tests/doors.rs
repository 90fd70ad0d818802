//! The doors of a daemon.

use super::*;

/// The addresses of the docker door and of the exporter API's door.
fn doors(config: Result<Config, ConfigError>) -> (Option<String>, Option<String>) {
    let config = config.unwrap();
    let docker = config.docker_door.map(|door| door.listen.to_string());
    (docker, config.export_listen.map(|listen| listen.to_string()))
}

#[test]
fn a_daemon_without_configured_doors_opens_the_default_ones() {
    let serving = |sources: Sources, is_root| doors(sources.serving(is_root, Layer::default()));
    let some = |text: &str| Some(text.to_owned());
    let root = (some("unix:///run/linkspan/docker.sock"), some("unix:///run/linkspan/export.sock"));
    assert_eq!(serving(Sources::new(), true), root);
    assert_eq!(serving(Sources::new().variable("XDG_RUNTIME_DIR", "/run/user/7"), true), root);
    let users = (some("unix:///run/user/7/linkspan/docker.sock"), some("unix:///run/user/7/linkspan/export.sock"));
    assert_eq!(serving(Sources::new().variable("XDG_RUNTIME_DIR", "/run/user/7"), false), users);
    // The door of a builder is beside them.
    let buildkit = |is_root| {
        let sources =
            Sources::new().flag(Setting::Builder, "unix:///b.sock").variable("XDG_RUNTIME_DIR", "/run/user/7");
        sources.serving(is_root, Layer::default()).unwrap().builders[0].listen.to_string()
    };
    assert_eq!(buildkit(false), "unix:///run/user/7/linkspan/buildkit.sock");
    assert_eq!(buildkit(true), "unix:///run/linkspan/buildkit.sock");
    let clients = Sources::new().variable("XDG_RUNTIME_DIR", "/run/user/7");
    let clients = clients.variable("BUILDKIT_HOST", "unix:///run/user/7/linkspan/buildkit.sock");
    assert!(clients.serving(false, Layer::default()).unwrap().builders.is_empty(), "it was set for clients");
    for engine in ["containerd", "layout"] {
        assert_eq!(serving(Sources::new().flag(Setting::Engine, engine), true), (None, root.1.clone()));
    }
    for folder in ["", "relative"] {
        let nowhere = || Sources::new().variable("XDG_RUNTIME_DIR", folder);
        for sources in [nowhere(), nowhere().flag(Setting::Builder, "unix:///b.sock")] {
            let error = sources.serving(false, Layer::default()).unwrap_err();
            assert!(matches!(error, ConfigError::NoRuntimeFolder), "{error}");
        }
        // Only a daemon needs the folder.
        nowhere().flag(Setting::Builder, "unix:///b.sock").resolve(false, None).unwrap();
        let error = nowhere().flag(Setting::BuildkitListen, "unix:///a").resolve(false, None).unwrap_err().to_string();
        assert!(error.contains("--docker-listen unix:///path/docker.sock,"), "{error}");
    }
    // That of systemd is taken without the variable, as by the commands that look for a daemon.
    let sources = Sources::new();
    let users = sources.folder.path().join("users").join(rustix::process::geteuid().as_raw().to_string());
    fs::create_dir_all(&users).unwrap();
    let door = |name: &str| Some(format!("unix://{}/linkspan/{name}.sock", users.display()));
    assert_eq!(doors(sources.resolve(false, Some(Layer::default()))), (door("docker"), door("export")));
    let error = Sources::new().variable("XDG_RUNTIME_DIR", "/run/user/7").flag(Setting::BuildkitListen, "unix:///a");
    let error = error.resolve(false, None).unwrap_err().to_string();
    assert!(error.contains("--export-listen unix:///run/user/7/linkspan/export.sock,"), "{error}");
    // If any door is configured, no default door is added.
    let one = Sources::new().flag(Setting::ExportListen, "unix:///e.sock");
    assert_eq!(serving(one, true), (None, some("unix:///e.sock")));
    for sources in [
        Sources::new().flag(Setting::Builder, "unix:///b.sock"),
        Sources::new().variable("BUILDKIT_HOST", "unix:///b.sock"),
        Sources::new().file("[[builder]]\naddress = 'unix:///b.sock'\n"),
    ] {
        let config = sources.serving(true, Layer::default()).unwrap();
        assert_eq!((config.builders.len(), config.docker_door, config.export_listen), (1, None, None));
    }
    // Commands other than the daemon have no default doors.
    assert_eq!(doors(Sources::new().load()), (None, None));
}

#[test]
fn the_registry_door_is_opened_alone_and_only_where_this_machine_reaches_it() {
    let sources = || Sources::new().flag(Setting::RegistryListen, "tcp://127.0.0.1:5000");
    let opened = |sources: Sources| sources.serving(true, Layer::default());
    let config = opened(sources().variable("BUILDKIT_HOST", "unix:///b.sock")).unwrap();
    let listen: Address = "tcp://127.0.0.1:5000".parse().unwrap();
    assert_eq!(
        config.registry_door,
        Some(RegistryDoor {
            listen: listen.clone(),
            mirror_tags: false,
            catalog: false,
            writable: false,
            redirect: false
        })
    );
    assert_eq!((config.builders.len(), config.docker_door, config.export_listen), (0, None, None));
    let file = "registry-listen = 'tcp://127.0.0.1:5000'\nregistry-mirror-tags = true\nregistry-catalog = true\nregistry-writable = true\nregistry-redirect = true\n";
    let door = opened(Sources::new().file(file)).unwrap().registry_door;
    assert_eq!(door, Some(RegistryDoor { listen, mirror_tags: true, catalog: true, writable: true, redirect: true }));
    for (sources, words) in [
        (Sources::new().flag(Setting::RegistryListen, "tcp://0.0.0.0:5000"), "can be reached from other machines"),
        (sources().flag(Setting::ExportListen, "tcp://127.0.0.1:5000"), "a door needs an address of its own"),
        (sources().flag(Setting::RegistryCatalog, "maybe"), "is neither `true` nor `false`"),
        (Sources::new().flag(Setting::RegistryCatalog, "true"), "open it with --registry-listen tcp://127.0.0.1:5000"),
        (Sources::new().flag(Setting::RegistryMirrorTags, "true"), "--registry-mirror-tags is for the registry door"),
    ] {
        let error = opened(sources).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_default_docker_door_does_not_lead_to_itself() {
    let door = "unix:///run/linkspan/docker.sock";
    let config = Sources::new().variable("DOCKER_HOST", door).serving(true, Layer::default()).unwrap();
    assert_eq!(config.engine.docker_host, None);
    let error = Sources::new().flag(Setting::DockerHost, door).serving(true, Layer::default()).unwrap_err().to_string();
    assert!(
        error.starts_with("the default of --docker-listen: `unix:///run/linkspan/docker.sock` is the address of"),
        "{error}"
    );
}

#[test]
fn names_of_sockets_that_are_handed_over_open_doors_and_give_way_to_everything() {
    let inherited = |names: &[(Setting, &str)]| {
        let mut layer = Layer::default();
        for (setting, address) in names {
            layer.add(*setting, *address, Origin::Variable("LISTEN_FDNAMES".to_owned()));
        }
        layer
    };
    let some = |text: &str| Some(text.to_owned());
    // linkspan.socket listens at the default addresses for any engine.
    let usual = || {
        let mut layer = Layer::default();
        layer.add(Setting::DockerListen, DEFAULT_DOCKER_LISTEN.to_owned(), Origin::Default(Setting::DockerListen));
        layer
    };
    assert_eq!(doors(Sources::new().serving(true, usual())), (some(DEFAULT_DOCKER_LISTEN), None));
    assert_eq!(doors(Sources::new().flag(Setting::Engine, "containerd").serving(true, usual())), (None, None));
    let docker = inherited(&[(Setting::DockerListen, "unix:///d.sock")]);
    assert_eq!(doors(Sources::new().serving(true, docker.clone())), (some("unix:///d.sock"), None));
    let own = Sources::new().flag(Setting::DockerListen, "unix:///own.sock");
    assert_eq!(doors(own.serving(true, docker)), (some("unix:///own.sock"), None));
    let buildkit = inherited(&[(Setting::BuildkitListen, "unix:///l.sock")]);
    let listens =
        |sources: Sources| sources.serving(true, buildkit.clone()).unwrap().builders.remove(0).listen.to_string();
    assert_eq!(listens(Sources::new().flag(Setting::Builder, "unix:///b.sock")), "unix:///l.sock");
    let table = "[[builder]]\naddress = 'unix:///b.sock'\nlisten = 'unix:///own.sock'\n";
    assert_eq!(listens(Sources::new().file(table)), "unix:///own.sock");
}
