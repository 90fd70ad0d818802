//! Builders and their doors.

use super::*;

#[test]
fn builders_are_paired_and_replaced_as_a_whole() {
    let listens = |config: Config| -> Vec<_> {
        config.builders.iter().map(|builder| format!("{} {}", builder.endpoint, builder.listen)).collect()
    };
    let table = "[[builder]]\naddress = 'unix:///t'\nlisten = 'unix:///u'";
    assert_eq!(listens(Sources::new().file(table).config()), ["unix:///t unix:///u"]);
    assert_eq!(
        listens(Sources::new().file(table).flag(Setting::BuildkitListen, "unix:///v").config()),
        ["unix:///t unix:///v"]
    );
    let flagged = Sources::new().file(table).flag(Setting::Builder, "unix:///f").config();
    assert_eq!(listens(flagged), ["unix:///f unix:///run/linkspan/buildkit.sock"]);
    let several = Sources::new()
        .variable("LINKSPAN_BUILDER", "unix:///a, tcp://b:2")
        .variable("LINKSPAN_BUILDKIT_LISTEN", "unix:///c,unix:///d")
        .config();
    assert_eq!(listens(several), ["unix:///a unix:///c", "tcp://b:2 unix:///d"]);
    let foreign = Sources::new().variable("BUILDKIT_HOST", "unix:///n").config();
    assert_eq!(listens(foreign), ["unix:///n unix:///run/linkspan/buildkit.sock"]);
}

#[test]
fn another_door_does_not_bring_a_builders_door() {
    let doors = |sources: Sources| {
        let config = sources.config();
        (config.docker_door.map(|door| door.listen.to_string()), config.builders.len())
    };
    let door = || Some("unix:///d".to_owned());
    let docker = || Sources::new().flag(Setting::DockerListen, "unix:///d");
    assert_eq!(doors(docker()), (door(), 0));
    assert_eq!(doors(docker().variable("BUILDKIT_HOST", "nothing of ours")), (door(), 0), "not even looked at");
    assert_eq!(doors(docker().flag(Setting::Builder, "unix:///b")), (door(), 1));
    assert_eq!(doors(docker().variable("LINKSPAN_BUILDER", "unix:///b")), (door(), 1));
    let export = Sources::new().flag(Setting::ExportListen, "unix:///e").variable("BUILDKIT_HOST", "unix:///b");
    assert_eq!(doors(export), (None, 0));
    let both = docker().variable("BUILDKIT_HOST", "unix:///b").flag(Setting::BuildkitListen, "unix:///l");
    assert_eq!(doors(both), (door(), 1));
    let file = Sources::new().file("docker-listen = 'unix:///d'\n[[builder]]\naddress = 'unix:///b'");
    assert_eq!(doors(file), (door(), 1));
}

#[test]
fn the_shell_of_a_user_of_a_buildkit_door_names_no_builder() {
    let builders = |sources: Sources| sources.config().builders.len();
    assert_eq!(builders(Sources::new().variable("BUILDKIT_HOST", DEFAULT_LISTEN)), 0);
    let listens = || Sources::new().flag(Setting::Builder, "unix:///b").flag(Setting::BuildkitListen, "unix:///l");
    assert_eq!(builders(listens().variable("BUILDKIT_HOST", "unix:///l")), 1);
    assert_eq!(builders(Sources::new().variable("BUILDKIT_HOST", "unix:///other")), 1);
}

#[test]
fn a_builder_in_a_container_is_one_of_the_docker_that_is_named() {
    let config = |sources: Sources| sources.flag(Setting::Builder, "docker-container://b0").config();
    let docker = |config: Config| match &config.builders[0].endpoint {
        BuilderEndpoint::Container { container, docker } => (container.to_string(), docker.clone()),
        endpoint => panic!("{endpoint} is no container"),
    };
    let expected = |socket: &str| ("docker-container://b0".to_owned(), PathBuf::from(socket));
    assert_eq!(docker(config(Sources::new())), expected("/var/run/docker.sock"));
    // With any engine.
    let containerd = Sources::new().flag(Setting::Engine, "containerd").flag(Setting::DockerHost, "unix:///d.sock");
    assert_eq!(docker(config(containerd)), expected("/d.sock"));
    let refusal = |sources: Sources| sources.flag(Setting::Builder, "docker-container://b0").refusal();
    let message = refusal(Sources::new().variable("DOCKER_HOST", "tcp://d:1"));
    assert!(
        message.contains("`tcp://d:1` is none of this machine; expected `unix:///path` for --docker-host"),
        "{message}"
    );
    let message = refusal(Sources::new().flag(Setting::TlsCa, "ca.pem"));
    assert!(message.contains("this one is in a container"), "{message}");
    let message = Sources::new().flag(Setting::Builder, "docker-container://a/b").refusal();
    assert!(message.contains("expected a container's name or id"), "{message}");
}
