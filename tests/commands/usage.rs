//! What is asked for in a wrong way, and what the program says then: exit codes, and remedies that can be followed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::common::{Run, Stack, text};
use crate::{archive, image, layout, linkspan, listed, named, on};

/// The command that a remedy offers, without what comes before it.
#[track_caller]
fn remedy(stderr: &str) -> &str {
    let line = stderr.lines().find(|line| line.starts_with("linkspan: hint: "));
    line.unwrap_or_else(|| panic!("no remedy in: {stderr}"))
}

#[test]
fn wrong_values_exit_2_and_what_fails_exits_1() {
    let folder = tempfile::tempdir().unwrap();
    let at = text(folder.path());
    for args in [
        &["images", "--engine", "podman"][..],
        &["images", "--namespace", "a b"],
        &["images", "--docker-host", "localhost:x"],
        &["images", "--docker-host", "foo://x"],
        &["images", "--docker-host", "ssh://-x"],
        &["images", "--engine", "foo://x"],
        &["images", "--containerd-address", "foo://x"],
        &["images", "--object", "foo://x"],
        &["images", "--to", "foo://x"],
        &["images", "--to", "/a.sock", "--docker-host", "/b.sock"],
        &["serve", "--builder", "foo://x"],
        &["serve", "--builder", "/b.sock", "--buildkit-listen", "foo://x"],
        &["serve", "--docker-listen", "foo://x"],
        &["serve", "--export-listen", "foo://x"],
        &["serve", "--registry-listen", "foo://x"],
        &["doctor", "--docker-host", "foo://x"],
        &["copy", "docker-daemon:a", "unix://x"],
        &["dial-stdio", "foo://x"],
        &["dial-stdio", "tcp://192.0.2.1:1"],
        &["images", "--engine", "docker", "--docker-host", "tcp://127.0.0.1:1"],
        &["images", "--engine", "docker", "--layout", at],
        &["images", "--layout", "file:///x"],
        &["images", "--to", "localhost:1"],
        &["images", "--to", "tcp://192.0.2.1:1"],
        &["images", "--config", "/no/such/file"],
        &["digest", "--layout", at, "NOT A NAME"],
        &["load", "-t", "NOT A NAME"],
        &["load", "--platform", "a/b/c/d/e"],
        &["save", "--layout", at, "--json", "a"],
        &["copy", "docker://", "oci:x"],
        &["ps", "--to", "tcp://x"],
        &["setup", "buildx", "b", "--docker-listen", "tcp://127.0.0.1:1"],
    ] {
        let output = linkspan(args.iter().copied()).fails();
        assert_eq!(output.status.code(), Some(2), "{output}");
    }
    let by_variable = linkspan(["images"]).env("LINKSPAN_ENGINE", "podman").fails();
    assert_eq!(by_variable.status.code(), Some(2), "{by_variable}");
    let by_variable = linkspan(["images"]).env("DOCKER_HOST", "foo://x").fails();
    assert_eq!(by_variable.status.code(), Some(2), "{by_variable}");
    assert!(by_variable.stderr.contains("DOCKER_HOST: `foo://x` is no address"), "{by_variable}");
    // Where docker has no part, nobody looks at it.
    on(&folder, &["images", "-q"]).env("DOCKER_HOST", "foo://x").ok();
    let beside = linkspan(["images", "--to", "/no/such/door.sock"]).env("DOCKER_HOST", "foo://x").fails();
    assert_eq!(beside.status.code(), Some(1), "{beside}");
    let by_variable = linkspan(["images"]).env("LINKSPAN_TO", "localhost:1").fails();
    assert_eq!(by_variable.status.code(), Some(2), "{by_variable}");
    assert!(by_variable.stderr.contains("LINKSPAN_TO: `localhost:1` is no address"), "{by_variable}");
    for args in [&["digest", "absent:1"][..], &["load", "-i", "/no/such/file"]] {
        assert_eq!(on(&folder, args).fails().status.code(), Some(1));
    }
    let unreachable = linkspan(["images", "--to", "/no/such/door.sock"]).fails();
    assert_eq!(unreachable.status.code(), Some(1), "{unreachable}");
}

#[test]
fn remedies_repeat_the_flags_that_they_need() {
    let folder = tempfile::Builder::new().prefix("with space ").tempdir().unwrap();
    let quoted = format!("'{}'", text(folder.path()));
    let absent = on(&folder, &["digest", "absent:1"]).fails();
    let expected = format!("`linkspan images --engine layout --layout {quoted}` lists");
    assert!(remedy(&absent.stderr).contains(&expected), "{absent}");
    let alone = linkspan(["digest", "absent:1", "--layout", text(folder.path())]).fails();
    assert!(remedy(&alone.stderr).contains(&format!("`linkspan images --layout {quoted}` lists")), "{alone}");
    let place = format!("oci:{}", text(folder.path()));
    let copied = linkspan(["copy", &format!("{place}:absent:1"), &format!("{place}:b")]).fails();
    assert!(remedy(&copied.stderr).contains(&expected), "{copied}");
    let unreachable = linkspan(["images", "--to", "/no/such/door.sock"]).fails();
    assert!(remedy(&unreachable.stderr).contains("serve --export-listen unix:///no/such/door.sock"), "{unreachable}");
}

#[test]
fn who_is_not_root_is_told_of_places_of_his_own_and_of_no_group_that_was_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_linkspan"), at("linkspan")).unwrap();
    let run = |variables: &[&str], args: &[&str]| {
        let ids = ["--reuid=65534", "--regid=65534", "--clear-groups", "env", "-i"];
        Run::new("setpriv").args(ids).args(variables.iter().copied()).arg(at("linkspan")).args(args.iter().copied())
    };
    // A folder of another user's, in which there is nothing.
    fs::create_dir(at("private")).unwrap();
    fs::set_permissions(at("private"), fs::Permissions::from_mode(0o700)).unwrap();
    let (door, private) = (format!("unix://{}", text(&at("private/x.sock"))), at("private"));
    let socket = text(&at("private/c.sock")).to_owned();
    for args in [&["images", "--to", &door][..], &["images", "--engine", "containerd", "--containerd-address", &socket]]
    {
        let output = run(&[], args).fails();
        assert!(output.stderr.contains(&format!("this user may not enter {}", private.display())), "{output}");
        assert!(!output.stderr.contains("group") && !output.stderr.contains("as root"), "{output}");
    }
    // A socket that a group may use.
    let _listener = std::os::unix::net::UnixListener::bind(at("g.sock")).unwrap();
    std::os::unix::fs::chown(at("g.sock"), None, Some(4_000_000)).unwrap();
    fs::set_permissions(at("g.sock"), fs::Permissions::from_mode(0o660)).unwrap();
    let output = run(&[], &["images", "--to", text(&at("g.sock"))]).fails();
    assert!(output.stderr.contains("which is of the group 4000000"), "{output}");
    assert!(remedy(&output.stderr).contains("member of the group 4000000"), "{output}");
    // Where doors would be is where `serve` opens them.
    fs::create_dir(at("run")).unwrap();
    let (variable, own) = (format!("XDG_RUNTIME_DIR={}", text(&at("run"))), at("run/linkspan"));
    let output = run(&[&variable], &["doctor", "--docker-host", "unix:///no/docker.sock"]).fails();
    assert!(output.stdout.contains(text(&own)) || Path::new("/run/linkspan").exists(), "{output}");
    let relayed = run(&[&variable], &["dial-stdio"]).fails();
    let of_machine = Path::new("/run/linkspan").exists();
    assert!(relayed.stderr.contains(&format!("unix://{}/export.sock", own.display())) || of_machine, "{relayed}");
    let nowhere = run(&[], &["ps"]).fails();
    assert!(nowhere.stderr.contains("no Linkspan was found here") || of_machine, "{nowhere}");
}

#[test]
fn files_and_transports_are_no_names_of_images_and_images_are_no_archives() {
    let folder = tempfile::tempdir().unwrap();
    let image = image("meant\n");
    layout(&folder.path().join("images"), &[(&image, named("docker.io/library/meant:1"))]);
    fs::write(folder.path().join("out.tar"), "").unwrap();
    let run = |args: &[&str]| linkspan(args.iter().copied()).dir(folder.path()).fails();
    let source = format!("oci:{}", text(&folder.path().join("images")));
    for (from, to, meant) in [
        (&*source, "out.tar", "say `docker-archive:out.tar`; an image of that name is `out.tar:latest`"),
        (&source, "images", "say `oci:images`; an image of that name is `images:latest`"),
        (&source, "./images", "say `oci:"),
        (&source, "new.tar", "say `docker-archive:new.tar`"),
        ("out.tar", "ssh://far", "say `docker-archive:out.tar`"),
    ] {
        let output = run(&["copy", from, to]);
        assert!(output.status.code() == Some(2) && remedy(&output.stderr).contains(meant), "{output}");
    }
    let output = run(&["copy", &source, "oci"]);
    assert!(output.status.code() == Some(2) && output.stderr.contains("begins with `oci:`"), "{output}");
    let output = run(&["load", "x.tar", "-to", "kind://dev"]);
    assert!(remedy(&output.stderr).contains("did you mean `--to kind://dev`?"), "{output}");
    let output = run(&["push", "demo:1"]);
    assert!(
        output.status.code() == Some(2) && remedy(&output.stderr).contains("copy NAME docker://HOST/NAME"),
        "{output}"
    );
    let namespace = run(&["copy", "containerd:demo:3", "oci:./out"]);
    assert!(namespace.stderr.contains("containerd:default/demo:3"), "{namespace}");
}

#[test]
fn a_layout_that_is_not_there_is_an_error_for_who_reads_and_is_not_made() {
    let above = tempfile::tempdir().unwrap();
    let (absent, out) = (above.path().join("absent"), above.path().join("a.tar"));
    let place = format!("oci:{}", text(&absent));
    for args in [
        &["images"][..],
        &["inspect", "a"],
        &["manifest", "a"],
        &["config", "a"],
        &["digest", "a"],
        &["save", "-o", text(&out), "a"],
    ] {
        let failed = linkspan(args.iter().copied()).args(["--layout", text(&absent)]).fails();
        assert_eq!(failed.status.code(), Some(1), "{failed}");
        assert!(failed.stderr.contains(&format!("there is no layout at {}", text(&absent))), "{failed}");
        let expected = format!("linkspan load --layout {} -i", text(&absent));
        assert!(remedy(&failed.stderr).contains(&expected), "{failed}");
    }
    for args in [["copy", &format!("{place}:a"), "docker-daemon:"], ["copy", &place, "oci:/nowhere/else"]] {
        let failed = linkspan(args).args(["--docker-host", Stack::shared().docker_host()]).fails();
        assert!(failed.stderr.contains("there is no layout at"), "{failed}");
    }
    assert_eq!(fs::read_dir(above.path()).unwrap().count(), 0, "nothing was made");
    // Who writes makes it, and a failed write does not.
    linkspan(["load", "-i", "/no/such/file", "--layout", text(&absent)]).fails();
    assert!(!absent.exists());
    let file = archive(&[(&image("first\n"), named("docker.io/library/first:1"))]);
    linkspan(["load", "-q", "-i", text(file.path()), "--layout", text(&absent)]).ok();
    linkspan(["digest", "first:1", "--layout", text(&absent)]).ok();
}

#[test]
fn a_daemon_is_named_once_for_all_commands() {
    let (stack, folder) = (Stack::shared(), tempfile::tempdir().unwrap());
    let door = stack.fresh_path("-env.sock");
    let engine = ["--engine", "layout", "--layout", text(folder.path())];
    let daemon = crate::common::Linkspan::export(stack, &engine, &[], door.clone());
    let file = archive(&[(&image("by variable\n"), named("docker.io/library/by-variable:1"))]);
    // A path without a scheme, as in the flag.
    let remote = |args: &[&str]| linkspan(args.iter().copied()).env("LINKSPAN_TO", &door);
    remote(&["load", "-q", "-i", text(file.path())]).ok();
    assert_eq!(listed(&folder).len(), 1);
    assert_eq!(remote(&["images", "-q"]).ok().stdout, on(&folder, &["images", "-q"]).ok().stdout);
    remote(&["ps"]).ok();
    let other = tempfile::tempdir().unwrap();
    remote(&["copy", "by-variable:1", &format!("oci:{}", text(other.path()))]).ok();
    assert_eq!(listed(&other), listed(&folder));
    // A flag that names an engine wins.
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(remote(&["images", "-q", "--layout", text(empty.path())]).ok().stdout, "");
    drop(daemon);
}

#[test]
fn the_program_reports_which_commit_it_is() {
    let text = linkspan(["version"]).ok().stdout;
    assert!(text.starts_with(concat!("linkspan ", env!("CARGO_PKG_VERSION"))), "{text}");
    let version: Value = serde_json::from_str(&linkspan(["version", "--json"]).ok().stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let head = Run::new("git").args(["rev-parse", "HEAD"]).dir(env!("CARGO_MANIFEST_DIR")).output();
    if head.status.success() {
        let commit = version["commit"].as_str().unwrap();
        assert!(commit.len() == 40 && text.contains(&commit[..12]), "{text}{version}");
        assert_eq!(version["date"].as_str().unwrap().len(), "2026-01-01".len(), "{version}");
    }
}

#[test]
fn completions_and_man_pages_list_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = linkspan(["completion", shell]).ok().stdout;
        for word in ["inspect", "namespace", "one-platform", "rm"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
    }
    let script = linkspan(["completion", "bash"]).ok().stdout;
    Run::new("bash").args(["-n", "/dev/stdin"]).stdin(script).ok();
    assert!(linkspan(["man"]).ok().stdout.contains(".TH"), "a page");
    let folder = tempfile::tempdir().unwrap();
    linkspan(["man", text(folder.path())]).ok();
    for page in ["linkspan.1", "linkspan-load.1", "linkspan-setup-buildx.1"] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
    let version = format!("\"linkspan {}\"", env!("CARGO_PKG_VERSION"));
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let page = std::fs::read_to_string(&path).unwrap();
        let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
        assert!(title.contains(&version), "{}: {title}", path.display());
        assert!(!page.contains(".SH EXTRA"), "{}", path.display());
    }
    let page = std::fs::read_to_string(folder.path().join("linkspan-ps.1")).unwrap();
    assert!(page.contains(".SH EXAMPLES\n.nf\n  linkspan ps\n") && page.contains(".SH COLUMNS\n"), "{page}");
}

#[test]
fn help_is_short_or_long() {
    for command in ["load", "images", "serve", "copy"] {
        let (short, long) = (linkspan([command, "-h"]).ok().stdout, linkspan([command, "--help"]).ok().stdout);
        assert!(!short.contains("Examples:") && long.contains("Examples:"), "{short}");
        assert!(!short.contains("[env:") && long.contains("[env:"), "{short}");
        assert!(short.lines().count() < long.lines().count() / 2, "{command}: {short}");
    }
}

#[test]
fn an_archive_is_named_with_or_without_a_flag() {
    let file = archive(&[(&image("positional\n"), named("docker.io/library/positional:1"))]);
    let folder = tempfile::tempdir().unwrap();
    on(&folder, &["load", "-q", text(file.path())]).ok();
    assert_eq!(on(&folder, &["ls", "-q"]).ok().lines().len(), 1);
    let both = on(&folder, &["load", "-i", "a.tar", "b.tar"]).fails();
    assert_eq!(both.status.code(), Some(2), "{both}");
    let several = on(&folder, &["load", "a.tar", "b.tar"]).fails();
    assert_eq!(several.status.code(), Some(2), "{several}");
    assert!(several.stderr.contains("one archive is loaded at a time"), "{several}");
}
