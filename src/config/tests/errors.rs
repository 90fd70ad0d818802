//! The message of each error.

use super::*;

#[test]
fn wrong_values_are_named_with_their_place() {
    let sources = Sources::new;
    let cases = [
        (
            sources().flag(Setting::Engine, "podman"),
            "--engine: `podman` is no engine; expected `auto`, `docker`, `docker-classic`, `docker-api`, `containerd`, `layout`, `object`, `kind://CLUSTER` or `k3d://CLUSTER`",
        ),
        (
            sources().variable("LINKSPAN_ENGINE", "podman"),
            "LINKSPAN_ENGINE: `podman` is no engine; expected `auto`, `docker`, `docker-classic`, `docker-api`, `containerd`, `layout`, `object`, `kind://CLUSTER` or `k3d://CLUSTER`",
        ),
        (
            sources().file("engine = 5"),
            "`engine` in config.toml: `5` is no engine; expected `auto`, `docker`, `docker-classic`, `docker-api`, `containerd`, `layout`, `object`, `kind://CLUSTER` or `k3d://CLUSTER`",
        ),
        (
            sources().file("layer-applier = 'none'"),
            "`layer-applier` in config.toml: `none` does not say who unpacks layers; expected `auto` or `containerd`",
        ),
        (
            sources().variable("BUILDKIT_HOST", "tcp://nowhere"),
            "BUILDKIT_HOST: `tcp://nowhere` is no address: expected a port, as in `tcp://127.0.0.1:1234`",
        ),
        (
            sources().flag(Setting::DockerHost, "localhost/x"),
            "--docker-host: `localhost/x` is no address: expected `unix:///path`, a path that begins with `/` or `.`, `tcp://host:port` or \
             `ssh://[user@]host[:port][/path]`",
        ),
        (
            sources().variable("CONTAINERD_ADDRESS", "tcp://c:1"),
            "CONTAINERD_ADDRESS: `tcp://c:1` is no socket of this machine; expected a path such as \
             `/run/containerd/containerd.sock`",
        ),
        (
            sources().variable("BUILDKIT_HOST", "kube-pod://b"),
            "BUILDKIT_HOST: `kube-pod://b` is no address: expected `unix:///path`, a path that begins with `/` or `.`, `tcp://host:port` or \
             `docker-container://NAME`",
        ),
        (
            sources().file("[[builder]]\naddress = 'unix:///a'\nlisten = 'tcp://0.0.0.0:1'"),
            "`listen of builder 1` in config.toml: `tcp://0.0.0.0:1` can be reached from other machines, and whoever \
             reaches it uses the builder, and can set any image of the engine; expected --listen-tls-client-ca for clients with \
             certificates (BuildKit's clients send no passwords), or a unix socket or a loopback address such as `tcp://127.0.0.1:1234`",
        ),
        (sources().flag(Setting::PlainIsLoad, "yes"), "--plain-is-load: `yes` is neither `true` nor `false`"),
        (
            sources().flag(Setting::LoadCompression, "gzip"),
            "--load-compression: `gzip` is no compression of loads; expected `as-asked` (gzip as buildx asks, the \
             default), `fast` (gzip level 1), `zstd` or `uncompressed`",
        ),
        (
            sources().file("push-compression = 'fast'"),
            "`push-compression` in config.toml: `fast` is no compression of pushes; expected `as-asked` (each layer as it \
             was made first, the default) or `gzip`",
        ),
        (
            sources().flag(Setting::Group, "nobody-has-this"),
            "--group: `nobody-has-this` is no group in group; expected a group's name, or its number",
        ),
        (
            sources().flag(Setting::Group, "4294967295"),
            "--group: `4294967295` is no group in group; expected a group's name, or its number",
        ),
        (
            sources().flag(Setting::DrainTimeout, "1m"),
            "--drain-timeout: `1m` is not a whole number of seconds from 0 to 86400",
        ),
        (
            sources().flag(Setting::DrainTimeout, "86401"),
            "--drain-timeout: `86401` is not a whole number of seconds from 0 to 86400",
        ),
        (
            sources().flag(Setting::LogLevel, "loud"),
            "--log-level: `loud` is no level; expected `error`, `warn`, `info`, `debug` or `trace`",
        ),
        (sources().flag(Setting::LogFormat, "xml"), "--log-format: `xml` is no log format; expected `text` or `json`"),
        (
            sources().flag(Setting::Config, "/nonexistent/file"),
            "cannot read the configuration file /nonexistent/file: No such file or directory (os error 2)",
        ),
    ];
    for (sources, expected) in cases {
        assert_eq!(sources.refusal(), expected);
    }
}

#[test]
fn contradictions_are_explained() {
    let builders = |count: usize| {
        (0..count).fold(Sources::new(), |sources, number| sources.flag(Setting::Builder, &format!("tcp://b:{number}")))
    };
    let listen = |sources: Sources, text| sources.flag(Setting::BuildkitListen, text);
    let cases = [
        (
            builders(2),
            "the builder tcp://b:0 has no address to listen on: with several builders give one --buildkit-listen for \
             each --builder",
        ),
        (
            listen(builders(2), "unix:///a"),
            "2 builders but 1 listen address: they are paired in order, so give one --buildkit-listen for each \
             --builder",
        ),
        (
            listen(listen(builders(1), "unix:///a"), "unix:///b"),
            "1 builder but 2 listen addresses: they are paired in order, so give one --buildkit-listen for each \
             --builder",
        ),
        (
            listen(listen(builders(2), "unix:///a"), "unix:///a"),
            "two builders would listen on unix:///a; give each its own --buildkit-listen",
        ),
        (
            listen(Sources::new().flag(Setting::Builder, "unix:///a"), "unix:///a"),
            "the builder unix:///a is itself the address to listen on; a door needs an address of its own",
        ),
        (
            listen(builders(0), "unix:///a"),
            "no builder is configured: name one with --builder unix:///run/buildkit/buildkitd.sock, with \
             LINKSPAN_BUILDER or BUILDKIT_HOST, or in a [[builder]] table of /etc/linkspan/config.toml; or open the \
             docker door with --docker-listen unix:///run/linkspan/docker.sock, or that of the exporter API with \
             --export-listen unix:///run/linkspan/export.sock, or a registry with --registry-listen tcp://127.0.0.1:5000",
        ),
        (
            Sources::new().flag(Setting::DockerListen, "tcp://127.0.0.1:2375"),
            "--docker-listen: `tcp://127.0.0.1:2375` is no unix socket: whoever reaches Docker's API is root here, and \
             over TCP that is every user of this machine and every page in their browsers; expected `unix:///path`",
        ),
        (
            Sources::new().flag(Setting::DockerListen, "unix:///a").flag(Setting::Engine, "containerd"),
            "--docker-listen: `unix:///a` needs Docker as the engine, and the engine is set to `containerd`",
        ),
        (
            Sources::new().flag(Setting::DockerListen, "unix:///a").flag(Setting::DockerHost, "unix:///a"),
            "--docker-listen: `unix:///a` is the address of the engine itself, so that the door would lead to itself; name \
             dockerd's address with --docker-host, or choose another address",
        ),
        (
            listen(builders(1), "unix:///a").flag(Setting::DockerListen, "unix:///a"),
            "the docker door and the door to tcp://b:0 would both listen on unix:///a; give each an address of its own",
        ),
        (
            listen(builders(1), "unix:///a").flag(Setting::ExportListen, "unix:///a"),
            "--export-listen is unix:///a, which is another door's address or a builder's; a door needs an address of its \
             own",
        ),
        (builders(65), "65 builders are configured; at most 64 can be"),
        (
            Sources::new().variable("LINKSPAN_TLS_CA", "ca.pem"),
            "LINKSPAN_TLS_CA needs exactly one builder, and there are 0; with several, give each its own `tls` in a \
             [[builder]] table of the configuration file",
        ),
        (
            Sources::new().flag(Setting::Builder, "unix:///a").flag(Setting::TlsCa, "ca.pem"),
            "--tls-ca: TLS needs a `tcp://` builder, and this one is a unix socket",
        ),
        (
            builders(1).flag(Setting::TlsServerName, "name"),
            "--tls-server-name: the certificate authority that signed the builder's certificate is missing (tls-ca)",
        ),
        (
            builders(1).flag(Setting::TlsCa, "ca.pem").flag(Setting::TlsKey, "key.pem"),
            "--tls-ca: a certificate and its key go together, and one is missing (tls-cert, tls-key)",
        ),
    ];
    for (sources, expected) in cases {
        assert_eq!(sources.refusal(), expected);
    }
}

#[test]
fn files_that_are_none() {
    let refusal = Sources::new().file("enginee = 'docker'").refusal();
    for part in ["config.toml", "line 1", "unknown field `enginee`; did you mean `engine`?"] {
        assert!(refusal.contains(part), "{part} in: {refusal}");
    }
    assert!(!refusal.contains("`containerd-address`"), "{refusal}");
    for (text, meant) in [
        ("docker_listen = 'x'", "`docker-listen`"),
        ("[[builders]]\naddress = 'x'", "`builder`"),
        ("[[rule]]\nprincipal = []", "`principals`"),
    ] {
        let refusal = Sources::new().file(text).refusal();
        assert!(refusal.ends_with(&format!("; did you mean {meant}?")), "{refusal}");
    }
    // Nothing is near: all are listed, in lines that a terminal has room for.
    let refusal = Sources::new().file("colour = 'red'").refusal();
    for part in ["unknown field `colour`, expected one of", "`containerd-address`", "`builder`"] {
        assert!(refusal.contains(part), "{part} in: {refusal}");
    }
    assert!(refusal.lines().all(|line| line.len() <= 80), "{refusal}");
    let refusal = Sources::new().file("[[builder]]\naddress = 'tcp://b:1'\ntls = { certificate = 'x' }").refusal();
    for part in ["line 3", "unknown field `certificate`", "expected one of\n  `ca`, `cert`, `key`, `server-name`"] {
        assert!(refusal.contains(part), "{part} in: {refusal}");
    }
    let refusal = Sources::new().file("[[builder]]\nlisten = 'unix:///l'").refusal();
    assert!(refusal.contains("missing field `address`"), "{refusal}");
    let refusal = Sources::new().file("group = 1.5").refusal();
    assert!(refusal.contains("expected a string, a whole number or a boolean"), "{refusal}");
    let refusal = Sources::new().file(&"#".repeat((1 << 20) + 1)).refusal();
    assert_eq!(refusal, "the configuration file config.toml is longer than 1048576 bytes; is it the right file?");
}

#[test]
fn variables_must_be_text() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(vec![b'a', 0xff]);
    let refusal = Sources::new().variable("LINKSPAN_NAMESPACE", value).refusal();
    assert_eq!(refusal, "LINKSPAN_NAMESPACE: the value is not UTF-8");
}
