"""A Debian machine whose first process is systemd, in namespaces of this one: systemd-nspawn over a root of debootstrap."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SUITE = "bookworm"
# What the root has: a service manager, and Docker by Debian's own units.
PACKAGES = "systemd,systemd-sysv,dbus,init-system-helpers,ca-certificates,docker.io,man-db"
# Programs of the stack that take the place of Debian's older ones, whose units stay.
PROGRAMS = {
    "dockerd": "/usr/sbin/dockerd",
    "docker": "/usr/bin/docker",
    "containerd": "/usr/bin/containerd",
    "containerd-shim-runc-v2": "/usr/bin/containerd-shim-runc-v2",
    "runc": "/usr/sbin/runc",
}
# No network: nothing outside the machine changes.
DAEMON_JSON = '{"bridge": "none", "iptables": false, "ip6tables": false}\n'
LIMIT = 180
CGROUPS = pathlib.Path("/sys/fs/cgroup")


def die(what, hint=None):
    sys.exit(f"try-package: error: {what}" + (f"\ntry-package: hint: {hint}" if hint else ""))


def call(*command, limit=LIMIT, good=True, **options):
    """Runs a command, and returns what it prints, with its errors."""
    shown = " ".join(str(word) for word in command)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit, check=False, **options)
    except subprocess.TimeoutExpired as error:
        die(f"`{shown}` took longer than {limit} s: {(error.stdout or b'').decode(errors='replace')}")
    text = done.stdout.decode(errors="replace")
    if good and done.returncode != 0:
        die(f"`{shown}` failed (exit code {done.returncode}):\n{text}")
    return text if good else (done.returncode, text)


def until(what, good, limit=LIMIT):
    """Waits until `good()` returns something true, and returns that."""
    end = time.monotonic() + limit
    while True:
        found = good()
        if found:
            return found
        if time.monotonic() > end:
            die(f"waited {limit} s for {what}")
        time.sleep(0.1)


def base(cache):
    """The root that all machines are made of; made once."""
    for program in ("debootstrap", "systemd-nspawn"):
        if shutil.which(program) is None:
            die(f"{program} is missing", "apt install debootstrap systemd-container")
    root = cache / f"debian-{SUITE}"
    with open(cache / ".debian.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = root / "etc/linkspan-packages"
        if done.is_file() and done.read_text() == PACKAGES:
            return root
        print(f"try-package: making {root} (once)", file=sys.stderr)
        shutil.rmtree(root, ignore_errors=True)
        call("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root, limit=1800)
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        (root / "etc/docker").mkdir(exist_ok=True)
        (root / "etc/docker/daemon.json").write_text(DAEMON_JSON)
        done.write_text(PACKAGES)
    return root


class Machine:
    """One machine: its files are gone when it ends."""

    def __init__(self, cache):
        self.base = base(cache)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tp-", dir=os.environ.get("LINKSPAN_TEST_DIR", "/tmp")))
        self.root = self.folder / "root"
        self.name = f"linkspan-try-{os.getpid()}"
        self.process = None
        self.first = 0
        self.boots = 0

    def __enter__(self):
        for name in ("upper", "work", "root", "docker", "containerd"):
            (self.folder / name).mkdir()
        options = f"lowerdir={self.base},upperdir={self.folder}/upper,workdir={self.folder}/work"
        call("mount", "-t", "overlay", "overlay", "-o", options, self.root)
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.halt()
        call("umount", "-l", self.root, good=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def groups(self):
        """Control groups of its own: without a service manager that made them, two machines would share them."""
        roots = [CGROUPS] if (CGROUPS / "cgroup.controllers").exists() else [path for path in CGROUPS.iterdir() if path.is_dir()]
        return [root / self.name for root in roots if (root / "cgroup.procs").exists()]

    def enter_groups(self):
        """Moves the process that becomes the machine."""
        for group in self.groups():
            group.mkdir(exist_ok=True)
            # A new set of processors and memory is empty.
            for name in ("cpuset.cpus", "cpuset.mems"):
                with contextlib.suppress(OSError):
                    (group / name).write_text((group.parent / name).read_text())
            (group / "cgroup.procs").write_text(str(os.getpid()))

    def boot(self):
        """Starts systemd, and waits for Docker."""
        command = ["systemd-nspawn", "--quiet", "-D", self.root, f"--machine={self.name}", "--register=no", "--keep-unit"]
        command += ["--private-network", "--capability=all", "--console=pipe", "--boot", "--link-journal=no"]
        for name in ("docker", "containerd"):
            command.append(f"--bind={self.folder / name}:/var/lib/{name}")
        for name, place in PROGRAMS.items():
            found = shutil.which(name)
            if found is None:
                die(f"{name} is not on PATH", "scripts/stack install")
            command.append(f"--bind-ro={os.path.realpath(found)}:{place}")
        self.boots += 1
        with open(self.folder / f"console-{self.boots}", "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=self.enter_groups
            )
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")

        def first():
            if self.process.poll() is not None:
                die("the machine did not start:\n" + (self.folder / f"console-{self.boots}").read_text(errors="replace"))
            for child in children.read_text().split():
                with contextlib.suppress(OSError):
                    if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                        return int(child)
            return 0

        self.first = until("systemd to start", first)
        until("the machine to boot", lambda: self.run("systemctl", "is-system-running", good=False)[1].strip() in ("running", "degraded"))
        until("Docker", lambda: self.run("docker", "-H", "unix:///run/docker.sock", "version", good=False)[0] == 0)

    def halt(self):
        """Ends it, and waits for that."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is None and self.first:
                # SIGRTMIN+4 is systemd's poweroff.
                os.kill(self.first, signal.SIGRTMIN + 4)
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            os.kill(self.first or self.process.pid, signal.SIGKILL)
            self.process.wait(30)
        self.process = None
        for group in self.groups():
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def run(self, *command, **options):
        """Runs a command in the machine."""
        return call("nsenter", "-t", str(self.first), "-a", "-r", "-w", *command, **options)

    def path(self, place):
        """A path by which this machine's processes reach what is at `place` in that one; sockets, too."""
        return f"/proc/{self.first}/root{place}"

    def property(self, unit, name):
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()
