//! Commands that attach to containers.

use crate::{
    both_ways::{BothWays, Container, Side, base},
    common::{Run, Stack, text, until},
};

#[test]
fn version_and_info() {
    let sides = BothWays::of(Stack::shared());
    sides.compare(|side| side.outcome(&side.docker(["version"]).ok()));
    sides.compare(|side| {
        side.outcome(&side.docker(["info", "--format", "{{.ID}} {{.Driver}} {{.ServerVersion}}"]).ok())
    });
    // The version in the path is the client's affair.
    for version in ["1.44", "1.50"] {
        sides.compare(|side| side.outcome(&side.docker(["version"]).env("DOCKER_API_VERSION", version).ok()));
    }
    let (code, ..) = sides.compare(|side| side.outcome(&side.docker(["ps"]).env("DOCKER_API_VERSION", "9.99").fails()));
    assert_eq!(code, Some(1));
}

#[test]
fn run_with_input_both_outputs_and_an_exit_code() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let input = "line\n".repeat(100_000);
    let script = "cat; echo on stderr >&2; exit 7";
    let (code, stdout, stderr) = sides.compare(|side| {
        side.outcome(&side.run(["--rm", "-i", image, "sh", "-c", script]).stdin(input.as_str()).fails())
    });
    assert_eq!((code, stdout == input, stderr.as_str()), (Some(7), true, "on stderr\n"));
    // Without -i, input that nobody reads is no reason to wait; with an end of it, `cat` ends.
    sides.compare(|side| side.outcome(&side.run(["--rm", image, "cat"]).stdin("unread").ok()));
    sides.compare(|side| side.outcome(&side.run(["--rm", "-i", image, "cat"]).ok()));
    sides.compare(|side| side.outcome(&side.run(["--rm", image, "no-such-program"]).fails()));
    sides.compare(|side| side.outcome(&side.run(["--rm", "no.such.host.invalid/image"]).fails()).0);
}

#[test]
fn exec_with_input_and_an_exit_code() {
    let sides = BothWays::of(Stack::shared());
    let (image, name) = (base(sides.stack), "exec");
    let _container = Container(sides.stack, name.to_owned());
    sides.direct().run(["-d", "--name", name, image, "sleep", "1000"]).ok();
    let (code, stdout, stderr) = sides.compare(|side| {
        let run = side.docker(["exec", "-i", name, "sh", "-c", "cat; echo no >&2; exit 9"]);
        side.outcome(&run.stdin("over to you\n").fails())
    });
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(9), "over to you\n", "no\n"));
    sides.compare(|side| side.outcome(&side.docker(["exec", "-d", name, "touch", "/tmp"]).ok()));
    sides.compare(|side| side.outcome(&side.docker(["exec", name, "no-such-program"]).fails()));
    sides.compare(|side| side.outcome(&side.docker(["exec", "no-such-container", "ls"]).fails()));
}

#[test]
fn attach_to_what_waits_for_input() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let (code, stdout, _) = sides.compare(|side| {
        let name = side.named("attach");
        let _container = Container(side.stack, name.clone());
        let script = "read x; echo got $x; exit 5";
        side.docker(["create", "-i", "--network", "host", "--name", &name, image, "sh", "-c", script]).ok();
        side.docker(["start", &name]).ok();
        side.outcome(&side.docker(["attach", &name]).stdin("word\n").fails())
    });
    assert_eq!((code, stdout.as_str()), (Some(5), "got word\n"));
    let (code, stdout, _) = sides.compare(|side| {
        let name = side.named("start");
        let _container = Container(side.stack, name.clone());
        side.docker(["create", "-i", "--network", "host", "--name", &name, image, "cat"]).ok();
        side.outcome(&side.docker(["start", "-ai", &name]).stdin("until the end").ok())
    });
    assert_eq!((code, stdout.as_str()), (Some(0), "until the end"));
}

#[test]
fn logs_that_are_followed() {
    let sides = BothWays::of(Stack::shared());
    let (image, name) = (base(sides.stack), "followed");
    let _container = Container(sides.stack, name.to_owned());
    let script = "read x; for i in 1 2 3; do echo out $i; echo err $i >&2; done; read x";
    sides.direct().run(["-d", "-i", "--name", name, image, "sh", "-c", script]).ok();
    let followed = [sides.through(), sides.direct()].map(|side| side.docker(["logs", "-f", name]).spawn());
    sides.direct().docker(["attach", name]).stdin("go\n").spawn();
    for logs in &followed {
        // What is said is passed on although the response has not ended.
        until("the lines", || logs.stdout(), |output| output.contains("out 3\n"));
    }
    sides.direct().docker(["attach", name]).stdin("end\n").ok();
    let [through, direct] = followed.map(|logs| logs.wait());
    assert_eq!((through.status, &through.stdout, &through.stderr), (direct.status, &direct.stdout, &direct.stderr));
    sides.compare(|side| side.outcome(&side.docker(["logs", "--tail", "1", name]).ok()));
}

#[test]
fn wait_kill_and_the_like() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    sides.compare(|side| {
        let name = side.named("waited");
        let _container = Container(side.stack, name.clone());
        side.run(["-d", "--name", &name, image, "sleep", "1000"]).ok();
        let waiting = side.docker(["wait", &name]).spawn();
        let outputs = [
            side.docker(["pause", &name]).ok(),
            side.docker(["unpause", &name]).ok(),
            side.docker(["kill", &name]).ok(),
            waiting.wait(),
            side.docker(["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", &name]).ok(),
            side.docker(["rename", &name, &name]).fails(),
            side.docker(["rm", &name]).ok(),
            side.docker(["rm", &name]).fails(),
        ];
        outputs.map(|output| side.outcome(&output))
    });
}

/// Runs a command in a terminal of 31 rows, makes it 41 when it has said so, and ends it with Ctrl-C when it has said
/// that. Prints what it saw and the exit code.
const TERMINAL: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios
def size(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
pid, fd = pty.fork()
if pid == 0:
    size(0, 31, 97)
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b""
waiting = [b"31 97", b"41 101"]
while True:
    if not select.select([fd], [], [], 60)[0]:
        sys.exit("nothing for a minute, after: %r" % seen)
    try:
        data = os.read(fd, 4096)
    except OSError:
        data = b""
    if not data:
        break
    seen += data
    if waiting and waiting[0] in seen:
        print("saw", waiting.pop(0).decode())
        if not waiting:
            os.write(fd, b"\x03")
    # Again and again: the client may not listen yet.
    if waiting == [b"41 101"]:
        size(fd, 41, 101)
        os.kill(pid, signal.SIGWINCH)
print("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

fn in_a_terminal(side: &Side<'_>, args: &[&str]) -> Run {
    let run = side.stack.run("python3").env("DOCKER_HOST", &side.host).env("TERM", "xterm");
    run.args(["-c", TERMINAL, "docker"]).args(args)
}

#[test]
fn a_terminal_that_changes_its_size() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let loops = "trap 'exit 3' INT; while :; do busybox stty size; busybox sleep 0.05; done";
    let seen = sides.compare(|side| {
        in_a_terminal(side, &["run", "--rm", "-it", "--network", "host", image, "sh", "-c", loops]).ok().stdout
    });
    assert_eq!(seen, "saw 31 97\nsaw 41 101\nexit 3\n");
    let _container = Container(sides.stack, "terminal".to_owned());
    sides.direct().run(["-d", "--name", "terminal", image, "sleep", "1000"]).ok();
    let seen = sides.compare(|side| in_a_terminal(side, &["exec", "-it", "terminal", "sh", "-c", loops]).ok().stdout);
    assert_eq!(seen, "saw 31 97\nsaw 41 101\nexit 3\n");
}

#[test]
fn compose() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let file = sides.stack.fresh_path("-compose.yaml");
    let service =
        format!("services:\n  one:\n    image: {image}\n    network_mode: host\n    command: echo composed\n");
    std::fs::write(&file, service).unwrap();
    let (code, stdout, _) = sides.compare(|side| {
        let project = side.named("composed");
        let output = side.docker(["compose", "-p", &project, "-f", text(&file), "up"]).output();
        side.docker(["compose", "-p", &project, "-f", text(&file), "down"]).output();
        side.outcome(&output)
    });
    assert_eq!((code, stdout.contains("composed")), (Some(0), true), "{stdout}");
}
