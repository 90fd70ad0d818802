//! TLS, passwords and rules of the TCP listeners.

use super::*;
use crate::net::{ServerCertificate, ServerTlsSettings};

fn generated(folder: &str, names: &[&str]) -> ServerCertificate {
    ServerCertificate::Generated { folder: folder.into(), names: names.iter().map(|name| (*name).to_owned()).collect() }
}

#[test]
fn other_machines_reach_a_door_whose_clients_are_known() {
    let remote = "tcp://0.0.0.0:5000";
    let sources = || Sources::new().flag(Setting::RegistryListen, remote).flag(Setting::ExportListen, "tcp://h:1");
    for (setting, file) in [(Setting::ListenHtpasswd, "users"), (Setting::ListenTlsClientCa, "ca.pem")] {
        let config = sources().flag(setting, file).config();
        assert_eq!(config.registry_door.as_ref().unwrap().listen, remote.parse().unwrap());
        assert!(config.security.has_tls(&remote.parse().unwrap()));
        assert!(!config.security.has_tls(&"tcp://127.0.0.1:1".parse().unwrap()));
        assert!(!config.security.has_tls(&"unix:///s".parse().unwrap()));
    }
    let always = sources().flag(Setting::ListenHtpasswd, "users").flag(Setting::ListenTlsLoopback, "true").config();
    assert!(always.security.has_tls(&"tcp://127.0.0.1:1".parse().unwrap()));
    assert!(!always.security.has_tls(&"unix:///s".parse().unwrap()));
    // No client of BuildKit sends a password.
    let builder =
        || Sources::new().flag(Setting::Builder, "unix:///b").flag(Setting::BuildkitListen, "tcp://0.0.0.0:1");
    assert!(builder().flag(Setting::ListenHtpasswd, "users").refusal().contains("expected --listen-tls-client-ca"));
    assert_eq!(builder().flag(Setting::ListenTlsClientCa, "ca.pem").config().builders.len(), 1);
}

#[test]
fn a_refused_address_says_what_is_reached_there() {
    let remote = "tcp://0.0.0.0:5000";
    let registry = || Sources::new().flag(Setting::RegistryListen, remote);
    for (sources, reach) in [
        (Sources::new().flag(Setting::MetricsListen, remote), "sees how much this daemon does, and what fails;"),
        (Sources::new().flag(Setting::ExportListen, remote), "reads the engine's images, and can set any of them;"),
        (registry(), "reads the engine's images;"),
        (registry().flag(Setting::RegistryWritable, "true"), "reads the engine's images, and can set any of them;"),
    ] {
        let refusal = sources.flag(Setting::Builder, "unix:///b").refusal();
        let expected =
            format!("whoever reaches it {reach} expected --listen-tls-client-ca for clients with certificates or");
        assert!(refusal.contains(&expected), "{refusal}");
    }
    // No certificate opens the docker door to others.
    let docker = Sources::new().flag(Setting::DockerListen, "tcp://0.0.0.0:2375").refusal();
    assert!(docker.contains("is no unix socket: whoever reaches Docker's API is root here"), "{docker}");
}

#[test]
fn a_certificate_is_given_or_made() {
    let tls = |sources: Sources| sources.config().security.tls;
    let made =
        |folder: &str, names: &[&str]| ServerTlsSettings { certificate: generated(folder, names), client_ca: None };
    assert_eq!(tls(Sources::new()), made("/var/lib/linkspan/tls", &[]));
    let named = Sources::new().variable("LINKSPAN_LISTEN_TLS_NAME", "registry.test,10.0.0.7");
    assert_eq!(tls(named.flag(Setting::ListenTlsDir, "/d")), made("/d", &["registry.test", "10.0.0.7"]));
    let file = "listen-tls-cert = 'c.pem'\nlisten-tls-key = 'k.pem'\nlisten-tls-client-ca = 'ca.pem'\n";
    let certificate = ServerCertificate::Files { cert: "c.pem".into(), key: "k.pem".into() };
    assert_eq!(tls(Sources::new().file(file)), ServerTlsSettings { certificate, client_ca: Some("ca.pem".into()) });
    let user = |sources: Sources| {
        let export = sources.flag(Setting::ExportListen, "unix:///e.sock");
        export.serving(false, Layer::default()).unwrap().security.tls.certificate
    };
    assert_eq!(user(Sources::new().variable("HOME", "/home/u")), generated("/home/u/.local/state/linkspan/tls", &[]));
    assert_eq!(user(Sources::new().variable("XDG_STATE_HOME", "/s")), generated("/s/linkspan/tls", &[]));
    for (sources, words) in [
        (Sources::new().flag(Setting::ListenTlsCert, "c"), "go together"),
        (Sources::new().flag(Setting::ListenTlsName, "a b"), "is neither a host name nor an IP address"),
        (Sources::new().flag(Setting::ListenHtpasswd, ""), "is no path"),
    ] {
        let refusal = sources.refusal();
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn rules_are_those_of_the_file() {
    let rule = |principals: &str, names: &str, allow: &str| {
        Sources::new().file(&format!("[[rule]]\nprincipals = [{principals}]\nnames = [{names}]\nallow = [{allow}]\n"))
    };
    assert_eq!(Sources::new().config().rules, []);
    let config =
        rule("'user:ci-*', 'anonymous', '*'", "'docker.io/team/*'", "'pull', 'push', 'move', 'delete'").config();
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let [found] = &config.rules[..] else { panic!("{:?}", config.rules) };
    assert_eq!(found.principals, texts(&["user:ci-*", "anonymous", "*"]));
    assert_eq!(found.names, texts(&["docker.io/team/*"]));
    assert_eq!(found.actions, [Action::Pull, Action::Push, Action::Move, Action::Delete]);
    let names = "'*', '*:ci', 'doc*', 'localhost/a', 'reg:5000/*', '*/team/*', 'docker.io/team/app:V1'";
    assert_eq!(rule("'uid:7'", names, "'pull'").config().rules[0].names.len(), 7);
    for (sources, words) in [
        (rule("'ci'", "'*'", "'pull'"), "`principals of rule 1` in config.toml: `ci` is no client"),
        (rule("'user:'", "'*'", "'pull'"), "is no client"),
        (rule("'*'", "''", "'pull'"), "is no pattern of names"),
        (rule("'uid:abc'", "'*'", "'pull'"), "is no number"),
        (rule("'gid:4294967296'", "'*'", "'pull'"), "is no number"),
        (rule("'*'", "'team/*'", "'pull'"), "did you mean `docker.io/team/*`?"),
        (rule("'*'", "'demo'", "'pull'"), "did you mean `docker.io/library/demo`?"),
        (rule("'*'", "'demo:*'", "'pull'"), "did you mean `docker.io/library/demo:*`?"),
        (rule("'*'", "'index.docker.io/team/*'", "'pull'"), "begin with `docker.io/`"),
        (rule("'*'", "'docker.io/Team/*'", "'pull'"), "in lower case"),
        (rule("'*'", "'*'", "'write'"), "`allow of rule 1` in config.toml: `write` is nothing that can be allowed"),
        (rule("", "'*'", "'pull'"), "rule 1 has 0 `principals`"),
        (rule("'*'", "'*'", ""), "rule 1 has 0 `allow`"),
        (Sources::new().file("[[rule]]\nprincipals = ['*']\nnames = ['*']\nallow = ['pull']\ntags = []\n"), "tags"),
    ] {
        let refusal = sources.refusal();
        assert!(refusal.contains(words), "{refusal}");
    }
}
