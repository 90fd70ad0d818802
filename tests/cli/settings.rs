//! Command line, variables and configuration file.

use std::fs;

use rustix::process::Signal;

use super::{Daemon, ended, linkspan, unix};
use crate::common::{Run, Stack, until};

#[test]
fn help_and_version() {
    let version = linkspan(["--version"]).ok();
    assert_eq!(version.stdout, concat!("linkspan ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = linkspan(["--help"]).ok().stdout;
    for part in ["serve", "doctor", "Examples:", "docker buildx create --name direct --driver remote"] {
        assert!(help.contains(part), "{part} in:\n{help}");
    }
    for command in ["serve", "doctor"] {
        let help = linkspan([command, "--help"]).ok().stdout;
        for part in ["Examples:", "Exit code:", "--buildkit-listen <ADDR>", "LINKSPAN_BUILDER"] {
            assert!(help.contains(part), "{part} in:\n{help}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}

#[test]
fn what_cannot_be_parsed_exits_2() {
    for args in [&[][..], &["sevre"], &["serve", "--bilder", "unix:///b"], &["serve", "extra"]] {
        let output = linkspan(args.iter().copied()).fails();
        ended(&output, 2);
        assert!(output.stderr.contains("Usage: linkspan"), "{output}");
    }
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("linkspan.toml");
    fs::write(&file, "engine = 'of-the-file'\n").unwrap();
    let file = file.to_str().unwrap();
    let refusal = |run: Run| {
        let output = run.fails();
        ended(&output, 2);
        output.stderr
    };
    let expected = |place: &str, value: &str| {
        format!(
            "linkspan: error: {place}: `{value}` is no engine; expected `auto`, `docker`, `docker-classic`, `docker-api`, `containerd`, `layout`, `object`, `kind://CLUSTER` or `k3d://CLUSTER`\n"
        )
    };
    for command in ["serve", "doctor"] {
        let with_file = || linkspan([command, "--config", file]);
        let with_both = || with_file().env("LINKSPAN_ENGINE", "of-the-variable");
        assert_eq!(refusal(with_file()), expected(&format!("`engine` in {file}"), "of-the-file"));
        assert_eq!(refusal(with_both()), expected("LINKSPAN_ENGINE", "of-the-variable"));
        assert_eq!(refusal(with_both().args(["--engine", "of-the-flag"])), expected("--engine", "of-the-flag"));
        let by_variable = linkspan([command]).env("LINKSPAN_CONFIG", file);
        assert_eq!(refusal(by_variable), expected(&format!("`engine` in {file}"), "of-the-file"));
    }
}

#[test]
fn wrong_values_exit_2_before_anything_opens() {
    let folder = tempfile::tempdir().unwrap();
    let door = unix(&folder.path().join("door.sock"));
    let file = folder.path().join("linkspan.toml");
    fs::write(&file, "[[builder]]\nadress = 'unix:///b.sock'\n").unwrap();
    let file = file.to_str().unwrap();
    let one = ["--builder", "tcp://10.0.0.1:1234", "--buildkit-listen", &door];
    let cases: &[(&[&str], &str)] = &[
        (
            &["--builder", "localhost:1234"],
            "--builder: `localhost:1234` is no address: expected `unix:///path`, a path that begins with `/` or `.`, `tcp://host:port` or `docker-container://NAME`",
        ),
        (
            &["--builder", "unix:///b.sock", "--buildkit-listen", "tcp://0.0.0.0:1234"],
            "--buildkit-listen: `tcp://0.0.0.0:1234` can be reached from other machines",
        ),
        (
            &["--builder", "unix:///b.sock", "--buildkit-listen", &door, "--buildkit-listen", "unix:///other"],
            "1 builder but 2 listen addresses",
        ),
        (&["--namespace", "a/b"], "--namespace: `a/b` is no containerd namespace"),
        (&["--group", "no-such-group"], "--group: `no-such-group` is no group"),
        (&["--tls-ca", "/nonexistent/ca.pem"], "/nonexistent/ca.pem: "),
        (&["--tls-cert", "cert.pem"], "the certificate authority that signed the builder's certificate is missing"),
        (&["--config", "/nonexistent.toml"], "cannot read the configuration file /nonexistent.toml"),
        (&["--config", file], "unknown field `adress`; did you mean `address`?"),
        (&["--docker-is-load=maybe"], "--plain-is-load: `maybe` is neither `true` nor `false`"),
        (&["--cache-max-bytes", "0"], "--cache-max-bytes: `0` would let no cache stay; expected at least 1 byte"),
        (&["--drain-timeout", "soon"], "--drain-timeout: `soon` is not a whole number of seconds"),
        (&["--log-level", "loud"], "--log-level: `loud` is no level"),
        (&["--log-format", "xml"], "--log-format: `xml` is no log format"),
    ];
    for (args, words) in cases {
        let base = if args.contains(&"--builder") { &[][..] } else { &one };
        let output = linkspan(["serve"]).args(base).args(*args).fails();
        // A file that cannot be read is no wrong value.
        ended(&output, if args[0] == "--tls-ca" { 1 } else { 2 });
        assert!(output.stderr.starts_with("linkspan: error: ") && output.stderr.contains(words), "{output}");
    }
    let output = linkspan(["serve", "--buildkit-listen", &door]).fails();
    ended(&output, 1);
    assert!(output.stderr.contains("no builder is configured: name one with --builder unix://"), "{output}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the file that was there");
}

#[test]
fn an_engine_that_is_not_there_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (door, absent) = (folder.path().join("door.sock"), folder.path().join("absent.sock"));
    let address = unix(&absent);
    let absent = absent.to_str().unwrap();
    let cases = [
        ["--engine", "docker", "--docker-host", address.as_str()],
        ["--engine", "auto", "--docker-host", &address],
        ["--engine", "containerd", "--containerd-address", absent],
        ["--engine", "containerd", "--containerd-address", &address],
    ];
    for args in cases {
        let run = linkspan(["serve", "--builder", "unix:///b.sock", "--buildkit-listen", &unix(&door)]).args(args);
        let run = run.args(["--engine-timeout", "0"]);
        let output = run.fails();
        ended(&output, 1);
        for part in ["linkspan: error: ", absent, "No such file or directory", "linkspan: hint: check that "] {
            assert!(output.stderr.contains(part), "{part} in {output}");
        }
        assert!(!door.exists());
    }
}

#[test]
fn neighbours_variables_are_enough() {
    let stack = Stack::shared();
    let door = stack.fresh_path(".sock");
    let run = stack.run(env!("CARGO_BIN_EXE_linkspan")).args(["serve", "--log-format", "json"]);
    let running = Daemon(Some(run.env("LINKSPAN_BUILDKIT_LISTEN", unix(&door)).spawn()));
    until("the door to open", || running.stderr(), |stderr| stderr.contains(&format!("listening on {}", unix(&door))));
    running.signal(Signal::INT);
    let output = running.wait();
    ended(&output, 0);
    assert!(output.stderr.contains(stack.docker_host()) && output.stderr.contains(stack.buildkit_host()), "{output}");
    let drain: serde_json::Value = serde_json::from_str(output.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(drain["fields"]["signal"], "SIGINT");
}
