"""An engine on another host: this one's, over a real ssh to a port of the loopback."""

import os
import shlex
import shutil
import subprocess
from types import SimpleNamespace

from builds import LOAD, NOTHING, Contender
from machine import Program, free_address, run, write

# It must be started by its whole path.
SSHD = "/usr/sbin/sshd"
HOST = "far"


class Sshd:
    """An sshd with keys of its own, and an `ssh` that knows it as the host `far`; the files of the user are not read."""

    def __init__(self, bench):
        self.folder = bench.folder("ssh")
        # What it gives up its rights in; a machine on which no sshd ever ran has none.
        os.makedirs("/run/sshd", exist_ok=True)
        for key in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.file(key))
        address, port = free_address().rsplit(":", 1)
        programs = os.path.dirname(shutil.which("docker", path=bench.stack.env["PATH"]))
        write(self.file("sshd_config"),
              f"Port {port}\nListenAddress {address}\nHostKey {self.file('host')}\nAuthorizedKeysFile {self.file('user.pub')}\n"
              "PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
              f"SetEnv PATH={programs}:/usr/bin:/bin\n")
        with open(self.file("host.pub"), encoding="ascii") as public:
            write(self.file("known"), f"{HOST} {public.read()}")
        write(self.file("config"),
              f"Host {HOST}\n  HostName {address}\n  Port {port}\n  HostKeyAlias {HOST}\n  IdentityFile {self.file('user')}\n"
              f"  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {self.file('known')}\n  GlobalKnownHostsFile none\n"
              "  StrictHostKeyChecking yes\n  BatchMode yes\n"
              # As Docker's documentation has it ("Use SSH to protect the Docker daemon socket"): else each command of docker's shakes
              # hands, and buildx twice for a load.
              f"  ControlMaster auto\n  ControlPath {self.file('%C')}\n  ControlPersist 600\n")
        ssh = shutil.which("ssh")
        write(self.file("ssh"), f'#!/bin/sh\nexec {ssh} -F {shlex.quote(self.file("config"))} "$@"\n')
        os.chmod(self.file("ssh"), 0o755)
        self.program = Program(SSHD, ["-D", "-e", "-f", self.file("sshd_config")], bench.stack.env, self.folder, [f"{address}:{port}"])
        bench.closing.append(self.stop)

    def stop(self):
        # There is no master if nobody has connected.
        subprocess.run([self.file("ssh"), "-O", "exit", HOST], check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.program.stop()

    def file(self, name):
        return os.path.join(self.folder, name)

    def env(self, engine):
        """The variables of clients that use the dockerd of `engine` over ssh."""
        socket = engine.env["DOCKER_HOST"].removeprefix("unix://")
        return {**engine.env, "DOCKER_HOST": f"ssh://{HOST}{socket}", "PATH": f"{self.folder}:{engine.env['PATH']}"}


def over_ssh(bench):
    """To an engine of which only the API is used, over ssh. All clients have the same DOCKER_HOST."""
    base, size = bench.base()
    env = Sshd(bench).env(bench.stack)
    linkspan = bench.start_linkspan(SimpleNamespace(env=env), bench.folder("over-ssh"), "docker-api")
    bench.builder("over-ssh", linkspan.socket)
    return {
        "linkspan": Contender(bench, "ssh-linkspan", "over-ssh", LOAD, base, env),
        "tar": Contender(bench, "ssh-tar", "tar", LOAD, base, env),
        "builtin": Contender(bench, "ssh-builtin", "default", LOAD, base, env),
        "floor": Contender(bench, "ssh-floor", "tar", NOTHING, base, env),
    }, size, linkspan
