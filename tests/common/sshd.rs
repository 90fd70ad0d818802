//! A real sshd at a port of its own, and an `ssh` that knows it by the name `far`.

use std::{
    fs::{self, File},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Run, Stack, file_of, text, until};

/// Where Debian has it; it must be started by its whole path.
const SSHD: &str = "/usr/sbin/sshd";

/// An sshd for the user of the tests, with keys of its own, ended when dropped. Only this `ssh` reads its files: those of the
/// user stay as they are.
#[derive(Debug)]
pub(crate) struct Sshd {
    child: Child,
    folder: PathBuf,
    path: String,
}

impl Sshd {
    /// Commands that it starts find the programs in `folders` beside those of the system.
    #[track_caller]
    pub(crate) fn start(stack: &Stack, folders: &[&Path]) -> Self {
        let folder = stack.fresh_path("-ssh");
        fs::create_dir(&folder).unwrap();
        // What it gives up its rights in; a machine on which no sshd ever ran has none.
        fs::create_dir_all("/run/sshd").unwrap();
        for key in ["host", "user", "other"] {
            Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key)).ok();
        }
        fs::copy(folder.join("user.pub"), folder.join("authorized")).unwrap();
        let folders: Vec<_> = folders.iter().map(|folder| text(folder)).chain(["/usr/bin", "/bin"]).collect();
        let (child, port) = Self::listen(stack, &folder, &folders.join(":"));
        Self::write_client(&folder, port);
        let path = format!("{}:{}", text(&folder), stack.variable("PATH"));
        Self { child, folder, path }
    }

    /// Another process may take the port that was free.
    fn listen(stack: &Stack, folder: &Path, path: &str) -> (Child, u16) {
        let in_folder = |name: &str| format!("{}/{name}", text(folder));
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
                 PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                 SetEnv PATH={path}\n",
                in_folder("host"),
                in_folder("authorized"),
            );
            fs::write(folder.join("sshd_config"), config).unwrap();
            let log = File::create(folder.join("sshd.log")).unwrap();
            let mark = stack.mark();
            let mut command = Command::new(SSHD);
            command.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config")).env(mark.0, mark.1);
            let mut child =
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap_or_else(|error| {
                    panic!("{SSHD} does not start: {error}; `scripts/stack install` installs it");
                });
            let look = || (child.try_wait().unwrap().is_some(), TcpStream::connect(("127.0.0.1", port)).is_ok());
            let (has_ended, _) = until("sshd to listen", look, |(has_ended, listens)| *has_ended || *listens);
            if !has_ended {
                return (child, port);
            }
        }
        panic!("sshd ended:\n{}", file_of(folder.join("sshd.log")));
    }

    /// The hosts: `far`; `far-proxied`, through another ssh; `far-refused`, with a key that is not authorized; `far-changed`, whose
    /// key is not the known one; `far-unknown`, whose key nobody knows; `far-closed`, where nothing listens.
    fn write_client(folder: &Path, port: u16) {
        let file = |name: &str| format!("{}/{name}", text(folder));
        let known = |host: &str, key: &str| format!("{host} {}", fs::read_to_string(folder.join(key)).unwrap());
        let names = "far,far-proxied,far-refused,far-closed";
        fs::write(folder.join("known"), known(names, "host.pub") + &known("far-changed", "other.pub")).unwrap();
        let program = file("ssh");
        // All of them have one address, so that keys are looked up by the name.
        let aliases: String = ["far", "far-proxied", "far-refused", "far-changed", "far-unknown", "far-closed"]
            .map(|name| format!("Host {name}\n  HostKeyAlias {name}\n"))
            .concat();
        let config = format!(
            "{aliases}Host far-refused\n  IdentityFile {}\nHost far-closed\n  Port 1\n\
             Host far-proxied\n  ProxyCommand {program} -W %h:%p far\n\
             Host far*\n  HostName 127.0.0.1\n  Port {port}\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {}\n  \
             GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  BatchMode yes\n\
             Host far* !far-refused\n  IdentityFile {}\n",
            file("other"),
            file("known"),
            file("user"),
        );
        fs::write(folder.join("config"), config).unwrap();
        // It keeps the process of each connection, in a file, and becomes ssh.
        let script = format!(
            "#!/bin/sh\necho $$ \"$@\" >>{}\nexec /usr/bin/ssh -F {} \"$@\"\n",
            file("started"),
            file("config")
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The same command, with this `ssh` first on its PATH.
    pub(crate) fn with(&self, run: Run) -> Run {
        run.env("PATH", &self.path)
    }

    /// The variable by which programs find this `ssh`.
    pub(crate) fn variable(&self) -> (String, String) {
        ("PATH".to_owned(), self.path.clone())
    }

    /// What ssh was started with so far: the process, and the arguments.
    pub(crate) fn started(&self) -> Vec<(Pid, String)> {
        let lines = fs::read_to_string(self.folder.join("started")).unwrap_or_default();
        let parse = |line: &str| {
            let (pid, arguments) = line.split_once(' ').unwrap();
            (Pid::from_raw(pid.parse().unwrap()).unwrap(), arguments.to_owned())
        };
        lines.lines().map(parse).collect()
    }

    /// Sends a signal to the processes that serve connections.
    #[track_caller]
    pub(crate) fn signal_sessions(&self, signal: Signal) {
        let pid = self.child.id();
        let sessions = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        for session in sessions.split_whitespace() {
            kill_process(Pid::from_raw(session.parse().unwrap()).unwrap(), signal).unwrap();
        }
    }

    /// Kills the last ssh that was started.
    #[track_caller]
    pub(crate) fn kill_last(&self) {
        kill_process(self.started().last().unwrap().0, Signal::KILL).unwrap();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- sshd's log\n{}", file_of(self.folder.join("sshd.log")));
        }
    }
}
