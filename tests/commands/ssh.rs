//! The same commands on another host: by a real ssh and a real sshd.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use rustix::process::Signal;

use crate::common::{Output, Run, Running, Sshd, Stack, linkspan, text, until};
use crate::fixture::image;
use crate::remote::{Daemon, large, until_half_way};
use crate::{archive, listed, named};

/// An sshd whose commands find the program.
fn sshd() -> Sshd {
    Sshd::start(Stack::shared(), &[Path::new(env!("CARGO_BIN_EXE_linkspan")).parent().unwrap()])
}

/// `linkspan ARGS --to ssh://HOST/DOOR`.
fn at(sshd: &Sshd, host: &str, door: &Path, args: &[&str]) -> Run {
    sshd.with(linkspan(args.iter().copied()).args(["--to", &format!("ssh://{host}{}", text(door))]))
}

#[test]
fn every_command_works_on_another_host_over_one_ssh_process() {
    let (sshd, daemon) = (sshd(), Daemon::start(&[]));
    let images: Vec<_> = (0..12).map(|n| image(&format!("image {n} of the far host\n"))).collect();
    let entries: Vec<_> =
        images.iter().enumerate().map(|(n, image)| (image, named(&format!("docker.io/library/far:{n}")))).collect();
    let file = archive(&entries);
    let load = ["load", "-i", text(file.path()), "--json"];
    at(&sshd, "far", &daemon.door, &load).ok();
    assert_eq!(listed(&daemon.folder).len(), images.len());
    let started = sshd.started();
    assert_eq!(started.len(), 1, "all images came by one ssh: {started:?}");
    let options = "-o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=2 -o PermitLocalCommand=no -T";
    let command = format!("{options} -- far linkspan dial-stdio {}", text(&daemon.door));
    assert_eq!(started[0].1, command);

    let again = at(&sshd, "far", &daemon.door, &["load", "-i", text(file.path())]).ok();
    assert!(again.stderr.contains("sent 0 blobs"), "what is there is not sent: {again}");
    for args in [
        &["images", "--json"][..],
        &["inspect", "far:3"],
        &["manifest", "far:3"],
        &["config", "far:3"],
        &["digest", "far:4"],
        &["digest", "far:99"],
        &["ps", "--all", "--quiet"],
        &["cache", "ls"],
    ] {
        let address = |text: String| text.replace("ssh://far/", "unix:///");
        let same = |output: Output| (output.status.code(), output.stdout, address(output.stderr));
        let before = sshd.started().len();
        assert_eq!(same(at(&sshd, "far", &daemon.door, args).output()), same(daemon.run(args).output()), "{args:?}");
        assert_eq!(sshd.started().len(), before + 1, "{args:?}");
    }

    let saved = Stack::shared().fresh_path("-far.tar");
    at(&sshd, "far", &daemon.door, &["save", "-o", text(&saved), "far:5"]).ok();
    let back = tempfile::tempdir().unwrap();
    crate::on(&back, &["load", "-i", text(&saved)]).ok();
    assert_eq!(listed(&back)[0].1, images[5].root.digest.to_string());
}

#[test]
fn images_are_copied_between_hosts_and_an_address_is_found_in_the_environment() {
    let (sshd, one, other) = (sshd(), Daemon::start(&[]), Daemon::start(&[]));
    let image = image("copied between hosts\n");
    let file = archive(&[(&image, named("docker.io/library/copied:1"))]);
    let far = |daemon: &Daemon, name: &str| format!("ssh://far{}:{name}", text(&daemon.door));
    let copy = |from: &str, to: &str| sshd.with(linkspan(["copy", from, to])).ok();
    copy(&format!("oci-archive:{}", text(file.path())), &far(&one, ""));
    let output = copy(&far(&one, "copied:1"), &far(&other, "copied:2"));
    assert_eq!(output.stdout, "Copied image: copied:2\n");
    assert!(output.stderr.contains("sent 4 blobs"), "{output}");
    let to = format!("ssh://far{}", text(&other.door));
    let images = sshd.with(linkspan(["images", "--json"])).env("LINKSPAN_TO", &to).ok();
    assert!(images.stdout.contains(image.root.digest.as_str()), "{images}");
    // By ssh's own means, and with a socket that the far host knows.
    at(&sshd, "far-proxied", &other.door, &["digest", "copied:2"]).ok();
    let programs = far_default(&other.door);
    let default = Sshd::start(Stack::shared(), &[programs.path()]);
    let digest = default.with(linkspan(["digest", "copied:2", "--to", "ssh://far"])).ok();
    assert_eq!(digest.stdout.trim(), image.root.digest.to_string());
    let digest = default.with(linkspan(["copy", "ssh://far/:copied:2", &far(&one, "copied:3")])).ok();
    assert!(digest.stderr.contains("sent 0 blobs"), "{digest}");
}

/// A folder with a `linkspan` whose configuration names `door`.
fn far_default(door: &Path) -> tempfile::TempDir {
    let program = env!("CARGO_BIN_EXE_linkspan");
    far_program(&format!("LINKSPAN_EXPORT_LISTEN=unix://{} exec {program} \"$@\"", text(door)))
}

/// A folder with a script of a shell that is called `linkspan`.
fn far_program(script: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(Stack::shared().state()).unwrap();
    let program = folder.path().join("linkspan");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

/// A load of one image over ssh that is half way when `go_on` is called, which waits for its end. Another load brings the rest.
#[track_caller]
fn resumed(go_on: impl FnOnce(&Sshd, Running, &Daemon)) {
    let (sshd, daemon) = (sshd(), Daemon::start(&[]));
    let (image, file) = large();
    let load = || at(&sshd, "far", &daemon.door, &["load", "-i", text(file.path()), "--json"]);
    let loading = load().spawn();
    until_half_way(&daemon);
    let open = daemon.exports();
    go_on(&sshd, loading, &daemon);
    load().ok();
    assert_eq!(listed(&daemon.folder)[0].1, image.root.digest.to_string());
    assert_eq!(daemon.exports(), [(open[0].0.clone(), "committed".to_owned())], "it was the same export");
}

#[test]
fn a_load_whose_ssh_was_killed_is_resumed() {
    resumed(|sshd, loading, daemon| {
        sshd.kill_last();
        let failed = loading.wait();
        assert_eq!(failed.status.code(), Some(1), "{failed}");
        assert!(failed.stderr.contains("was ended by signal 9"), "{failed}");
        assert!(failed.stderr.contains("went away") && failed.stderr.contains("run the command again"), "{failed}");
        assert_eq!(listed(&daemon.folder), []);
    });
}

/// Stopped, they keep their connections, and everything before them responds: a socket its connects, ssh its keepalives.
#[test]
fn a_daemon_that_stops_in_the_middle_is_noticed_over_every_stream_and_in_both_directions() {
    let (sshd, gone) = (sshd(), self::sshd());
    let daemons: Vec<_> = (0..4).map(|_| Daemon::start(&[])).collect();
    let (image, file) = large();
    let load = ["load", "-i", text(file.path()), "--json"];
    daemons[0].run(&load).ok();
    let fifo = Stack::shared().fresh_path("-fifo");
    let script = r#"mkfifo "$1" && fifo=$1 && shift && exec "$0" "$@" >"$fifo""#;
    let to = format!("ssh://far{}", text(&daemons[0].door));
    let save = [script, env!("CARGO_BIN_EXE_linkspan"), text(&fifo), "save", "large:1", "--to", &to];
    // Each is stopped in its own middle: some are faster than others.
    let (saving, loading, mut saved) = std::thread::scope(|scope| {
        for daemon in &daemons[1..3] {
            scope.spawn(|| {
                until_half_way(daemon);
                daemon.signal(Signal::STOP);
            });
        }
        scope.spawn(|| {
            until_half_way(&daemons[3]);
            gone.signal_sessions(Signal::STOP);
        });
        let saving = sshd.with(Run::new("sh").arg("-c").args(save)).spawn();
        let loading = [
            at(&sshd, "far", &daemons[1].door, &load),
            daemons[2].run(&load),
            at(&gone, "far", &daemons[3].door, &load),
        ]
        .map(Run::spawn);
        until("a pipe to be read", || fifo.exists(), |is_there| *is_there);
        let mut saved = fs::File::open(&fifo).unwrap();
        saved.read_exact(&mut vec![0; 1 << 20]).unwrap();
        daemons[0].signal(Signal::STOP);
        (saving, loading, saved)
    });
    std::io::copy(&mut saved, &mut std::io::sink()).unwrap();
    let [over_ssh, over_a_socket, over_nothing] = loading.map(Running::wait);
    let saving = saving.wait();
    daemons[..3].iter().for_each(|daemon| daemon.signal(Signal::CONT));
    gone.signal_sessions(Signal::CONT);
    for (output, words, hint) in [
        (&saving, "went away: no response within 50 s", ""),
        (&over_ssh, "no response within ", "linkspan there stands still: "),
        (&over_a_socket, "no response within 3", "look at its log: it stands still"),
        (&over_nothing, "Timeout, server ", "see that `ssh far true` works"),
    ] {
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert!(output.stderr.contains(words) && output.stderr.contains(hint), "{words}: {output}");
    }
    for (daemon, sshd) in [(&daemons[1], Some(&sshd)), (&daemons[2], None), (&daemons[3], Some(&gone))] {
        sshd.map_or_else(|| daemon.run(&load), |sshd| at(sshd, "far", &daemon.door, &load)).ok();
        assert_eq!(listed(&daemon.folder)[0].1, image.root.digest.to_string());
    }
}

#[test]
fn a_host_on_which_nothing_responds_is_not_waited_for_as_if_it_worked() {
    let hanging = far_program("exec sleep 100");
    fs::copy(hanging.path().join("linkspan"), hanging.path().join("docker")).unwrap();
    let silent = far_program("echo 'authorised use only' >&2; exit 1");
    let (hangs, refuses) =
        (Sshd::start(Stack::shared(), &[hanging.path()]), Sshd::start(Stack::shared(), &[silent.path()]));
    let to = |sshd: &Sshd, flag: &str| sshd.with(linkspan(["images", flag, "ssh://far"])).spawn();
    let outputs = [to(&hangs, "--to"), to(&hangs, "--docker-host"), to(&refuses, "--to")].map(Running::wait);
    for (output, words, hint) in [
        (&outputs[0], "no response within 40 s", "`ssh far linkspan --version` must respond"),
        (&outputs[1], "no response within 40 s", "`ssh far docker --version` must respond"),
        (&outputs[2], "without a word of linkspan; it showed: authorised use only", "may run no commands"),
    ] {
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert!(output.stderr.contains(words) && output.stderr.contains(hint), "{words}: {output}");
        assert!(!output.stderr.contains("engine's log"), "{output}");
    }
}

#[test]
fn a_load_over_ssh_that_was_interrupted_is_resumed() {
    resumed(|_, loading, _| {
        // As a terminal does: to the ssh, too.
        loading.signal(Signal::INT);
        let interrupted = loading.wait();
        assert_eq!(interrupted.status.code(), Some(130), "{interrupted}");
        assert!(interrupted.stderr.contains("interrupted; what was sent is kept for the next try"), "{interrupted}");
    });
}

#[test]
fn ctrl_c_does_not_end_the_connections_of_a_program_that_goes_on() {
    let (sshd, daemon) = (sshd(), Daemon::start(&[]));
    let (image, file) = large();
    let loading = at(&sshd, "far", &daemon.door, &["load", "-i", text(file.path()), "--json"]).spawn();
    until_half_way(&daemon);
    let [(ssh, _)] = sshd.started()[..] else { panic!("one ssh: {:?}", sshd.started()) };
    rustix::process::kill_process(ssh, rustix::process::Signal::INT).unwrap();
    let loaded = loading.wait();
    assert!(loaded.status.success(), "{loaded}");
    assert_eq!(listed(&daemon.folder)[0].1, image.root.digest.to_string());
    assert_eq!(sshd.started().len(), 1, "it was the same connection");
}

#[test]
fn without_ssh_on_the_path_that_is_said() {
    let failed = linkspan(["images", "--to", "ssh://far"]).env("PATH", "/nowhere").fails();
    assert_eq!(failed.status.code(), Some(1), "{failed}");
    assert!(failed.stderr.contains("`ssh` cannot be run: it is in no folder of PATH"), "{failed}");
}

#[test]
fn what_goes_wrong_over_ssh_is_one_error_with_its_words_and_a_hint() {
    let (sshd, daemon) = (sshd(), Daemon::start(&[]));
    let without = Sshd::start(Stack::shared(), &[]);
    let [old, noisy, forbidden] = [
        // What a program says that has no such command.
        "echo \"error: unrecognized subcommand 'dial-stdio'\" >&2; exit 2".to_owned(),
        format!("echo; echo 'Welcome to far!'; exec {} \"$@\"", env!("CARGO_BIN_EXE_linkspan")),
        "echo 'linkspan: error: cannot relay to unix:///x: Permission denied (os error 13)' >&2; exit 1".to_owned(),
    ]
    .map(|script| {
        let folder = far_program(&script);
        let sshd = Sshd::start(Stack::shared(), &[folder.path()]);
        (sshd, folder)
    });
    let (old, noisy, forbidden) = (&old.0, &noisy.0, &forbidden.0);
    let absent = daemon.door.with_extension("absent");
    for (sshd, host, door, words, hint) in [
        (&sshd, "far", &absent, "No such file or directory", "see that `linkspan serve` runs on far"),
        (&without, "far", &daemon.door, "linkspan: not found", "install linkspan there"),
        (old, "far", &daemon.door, "unrecognized subcommand", "is too old for this: `ssh far linkspan --version`"),
        (
            noisy,
            "far",
            &daemon.door,
            "text comes before the stream on its standard output: `Welcome to far!`",
            "must print nothing",
        ),
        (forbidden, "far", &daemon.door, "Permission denied (os error 13)", "hint: let that user use /"),
        (&sshd, "far-refused", &daemon.door, "Permission denied (publickey", "see that `ssh far-refused true` works"),
        (&sshd, "far-changed", &daemon.door, "Host key verification failed", "`ssh-keygen -R`"),
        (&sshd, "far-unknown", &daemon.door, "Host key verification failed", "connect once with `ssh far-unknown`"),
        (&sshd, "far-closed", &daemon.door, "Connection refused", "see that `ssh far-closed true` works"),
        (&sshd, "user@far.invalid:2222", &daemon.door, "far.invalid", "`ssh -p 2222 user@far.invalid true`"),
    ] {
        for args in [&["images"][..], &["ps"], &["cache", "ls"]] {
            let failed = at(sshd, host, door, args).fails();
            assert_eq!(failed.status.code(), Some(1), "{failed}");
            let lines: Vec<_> = failed.stderr.lines().collect();
            assert_eq!(lines.len(), 2, "an error and a hint: {failed}");
            let error = format!("linkspan: error: the exporter API at ssh://{host}{}: ", text(door));
            let what = lines[0].strip_prefix(&error).unwrap_or_else(|| panic!("{failed}"));
            assert!(what.starts_with("ssh ended with status ") || what.starts_with("text comes before"), "{failed}");
            assert!(lines[0].replace("command not found", "not found").contains(words), "{words}: {failed}");
            assert!(lines[1].starts_with("linkspan: hint: ") && lines[1].contains(hint), "{hint}: {failed}");
        }
    }
    // A socket of another program.
    let docker = Stack::shared().docker_host().trim_start_matches("unix://");
    let other = at(&sshd, "far", Path::new(docker), &["images"]).fails();
    assert!(other.stderr.contains(docker), "{other}");
}

#[test]
fn hostile_addresses_never_reach_ssh() {
    let sshd = sshd();
    let trace = Stack::shared().fresh_path("-trace");
    let touch = format!("touch {}", text(&trace));
    for host in [
        format!("-oProxyCommand={touch}"),
        format!("user@-oProxyCommand={touch}"),
        format!("-oProxyCommand={touch}@far"),
        format!("$({touch})"),
        format!("$({touch})@far"),
        format!("`{touch}`"),
        format!("far;{touch}"),
        "far far".to_owned(),
        "user:secret@far".to_owned(),
        "far:0".to_owned(),
        "far\n".to_owned(),
        String::new(),
    ] {
        let address = format!("ssh://{host}");
        for args in [&["images", "--to", &address][..], &["ps", "--to", &address], &["copy", "demo:1", &address]] {
            let refused = sshd.with(linkspan(args.iter().copied())).fails();
            assert_eq!(refused.status.code(), Some(2), "{refused}");
            let variable = sshd.with(linkspan(["images"])).env("LINKSPAN_TO", &address).fails();
            assert_eq!(variable.status.code(), Some(2), "{variable}");
        }
        let docker = sshd.with(linkspan(["images", "--docker-host", &address])).fails();
        assert_eq!(docker.status.code(), Some(2), "{docker}");
    }
    // A path is a word of the shell there.
    for socket in [format!("/$({touch})"), format!("/x;{touch}"), format!("/'{touch}'"), format!("/`{touch}`")] {
        let failed = sshd.with(linkspan(["images", "--to", &format!("ssh://far{socket}")])).fails();
        assert!(failed.stderr.contains("No such file or directory"), "{failed}");
    }
    assert!(!trace.exists());
    assert_eq!(sshd.started().len(), 4, "ssh was started for the paths alone: {:?}", sshd.started());
}

#[test]
fn a_daemon_of_another_user_folder_is_found_without_an_address() {
    let runtime = tempfile::tempdir_in(Stack::shared().state()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let door = runtime.path().join("linkspan/other-name.sock");
    fs::create_dir(door.parent().unwrap()).unwrap();
    let engine = ["--engine", "layout", "--layout", text(folder.path())];
    let _daemon = crate::common::Linkspan::export(Stack::shared(), &engine, &[], door);
    let program = env!("CARGO_BIN_EXE_linkspan");
    let far = far_program(&format!("XDG_RUNTIME_DIR={} exec {program} \"$@\"", text(runtime.path())));
    let sshd = Sshd::start(Stack::shared(), &[far.path()]);
    let image = image("of another folder\n");
    let file = archive(&[(&image, named("docker.io/library/found:1"))]);
    sshd.with(linkspan(["load", "-q", "-i", text(file.path()), "--to", "ssh://far"])).ok();
    assert_eq!(listed(&folder)[0].1, image.root.digest.to_string());
}

#[test]
fn dial_stdio_relays_until_the_daemon_closes() {
    let stack = Stack::shared();
    let docker = stack.docker_host().trim_start_matches("unix://").to_owned();
    let request = "GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
    // The end of the input is passed on, and the response still comes.
    for address in [docker.clone(), format!("unix://{docker}")] {
        let output = linkspan(["dial-stdio", &address]).stdin(request).ok();
        assert!(output.stdout.starts_with("HTTP/1.1 200 OK") && output.stdout.ends_with("OK"), "{output}");
    }
    // The end of the output ends it, while its input stays open.
    let script = r#"mkfifo "$3" && exec 3<>"$3" && printf "$2" >&3 && "$0" dial-stdio "$1" <&3"#;
    let fifo = stack.fresh_path("-fifo");
    let arguments = [script, env!("CARGO_BIN_EXE_linkspan"), &docker, request, text(&fifo)];
    let output = Run::new("sh").arg("-c").args(arguments).ok();
    assert!(output.stdout.ends_with("OK"), "{output}");
    // Many bytes, both ways.
    let bytes: String = (0..400_000).map(|n| format!("{n}\n")).collect();
    let echo = stack.fresh_path("-echo.sock");
    let listener = std::os::unix::net::UnixListener::bind(&echo).unwrap();
    let echoing = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        std::io::copy(&mut &stream, &mut &stream).unwrap()
    });
    let output = linkspan(["dial-stdio", text(&echo)]).stdin(bytes.clone()).ok();
    assert_eq!(echoing.join().unwrap(), bytes.len() as u64);
    assert!(output.stdout == bytes, "{} of {} bytes", output.stdout.len(), bytes.len());

    // A listener on all interfaces is on this machine.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let everywhere = format!("tcp://0.0.0.0:{}", listener.local_addr().unwrap().port());
    let echoing = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        std::io::copy(&mut &stream, &mut &stream).unwrap()
    });
    assert_eq!(linkspan(["dial-stdio", &everywhere]).stdin("there and back\n").ok().stdout, "there and back\n");
    assert_eq!(echoing.join().unwrap(), 15);

    let secure = linkspan(["dial-stdio"]).env("LINKSPAN_EXPORT_LISTEN", "tcp://127.0.0.1:1");
    let secure = secure.env("LINKSPAN_LISTEN_TLS_LOOPBACK", "true").fails();
    assert!(secure.stderr.contains("cannot relay to tcp://127.0.0.1:1: it has TLS"), "{secure}");
    let absent = linkspan(["dial-stdio", "/no/such.sock"]).fails();
    let expected = "linkspan: error: cannot relay to unix:///no/such.sock: No such file or directory";
    assert!(absent.stderr.starts_with(expected) && absent.stderr.contains("linkspan: hint: "), "{absent}");
    let remote = linkspan(["dial-stdio", "tcp://192.0.2.1:1"]).fails();
    assert!(remote.stderr.contains("on another machine"), "{remote}");
}
