"""The machinery of a long run: commands with limits, one stack, and Linkspan as users start it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
STACK = os.path.join(ROOT, "scripts", "stack")

# No command of these cases needs longer on a busy machine; one that does hangs, which is a failure.
LIMIT = 240
# Variables by which the machine's shell could change what the program does.
FOREIGN = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE",
           "BUILDKIT_HOST", "LINKSPAN_TO", "LINKSPAN_LAYOUT", "LINKSPAN_OBJECT", "LINKSPAN_CONFIG")


class Failed(Exception):
    """An invariant is broken, or the machine lacks something."""


class Ended:
    """How a command ended."""

    def __init__(self, command, code, output):
        self.command, self.code, self.output = command, code, output

    def __str__(self):
        return f"{' '.join(self.command)} ended with {self.code}:\n{self.output[-3000:]}"


class Command:
    """A command that runs, in a process group of its own; its output goes to one unnamed file."""

    def __init__(self, *command, env=None, stdin=None):
        self.command = command
        self.file = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, env=env, stdin=stdin or subprocess.DEVNULL, stdout=self.file, stderr=subprocess.STDOUT,
                                        start_new_session=True)

    def kill(self):
        """SIGKILL to the process itself, as the kernel does when memory is short."""
        self.process.kill()

    def wait(self, limit=LIMIT):
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise Failed(f"hangs, and was killed after {limit} s: {Ended(self.command, None, self.said())}") from None
        return Ended(self.command, code, self.said())

    def said(self):
        self.file.seek(0)
        return self.file.read(1 << 20).decode(errors="replace")


def run(*command, env=None, check=True, limit=LIMIT, stdin=None):
    """Runs a command to its end, which has to be a good one unless `check` is false."""
    ended = Command(*command, env=env, stdin=stdin).wait(limit)
    if check and ended.code != 0:
        raise Failed(str(ended))
    return ended


def until(what, look, limit=60.0, every=0.1):
    """Polls `look` until it returns something true, which is handed back."""
    end = time.monotonic() + limit
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"waited {limit:g} s for {what}")
        time.sleep(every)


class Stack:
    """One isolated set of daemons in a folder of its own."""

    def __init__(self, state, parts, cache=None):
        self.state, self.parts = state, parts
        self.env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        if cache:
            self.env["LINKSPAN_CACHE"] = cache
        self.up()
        for line in run(STACK, "env", "--state", state, env=self.env).output.splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self.env[name] = value.strip('"').replace("$PATH", os.environ["PATH"])
        # What Linkspan leaves there is its own.
        self.temporary = os.path.join(state, "linkspan-tmp")
        os.makedirs(self.temporary, exist_ok=True)

    def up(self):
        """Starts what does not run."""
        run(STACK, "up", "--state", self.state, "--only", ",".join(self.parts), env=self.env)

    def pid(self, part):
        with open(os.path.join(self.state, "run", f"{part}.pid"), encoding="ascii") as file:
            return int(file.read().split()[0])

    def down(self):
        run(STACK, "down", "--state", self.state, "--purge", env=self.env, check=False)

    def ctr(self, namespace, *words, check=True):
        return run("ctr", "--address", self.env["CONTAINERD_ADDRESS"], "-n", namespace, *words, env=self.env, check=check)

    def blob(self, digest):
        """The file of a blob in containerd's store."""
        return os.path.join(self.state, "containerd", "root", "io.containerd.content.v1.content", "blobs", *digest.split(":"))


class Machine:
    """What the cases share: options, folders, the program, and the stack, which starts when it is first needed."""

    def __init__(self, work, options, cache=None):
        self.work, self.options, self.cache, self.the_stack = work, options, cache, None
        self.begin()
        self.binary = os.path.abspath(options.binary) if options.binary else self.build()
        self.closing = []

    def build(self):
        run("cargo", "build", "--release", "--locked", "--bin", "linkspan", "--manifest-path", os.path.join(ROOT, "Cargo.toml"), limit=3600)
        target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
        return os.path.join(target, "release", "linkspan")

    def stack(self, *parts):
        """The stack, with at least these parts."""
        if not self.the_stack:
            self.the_stack = Stack(os.path.join(self.work, "s"), list(parts), self.cache)
        missing = [part for part in parts if part not in self.the_stack.parts]
        if missing:
            self.the_stack.parts += missing
            self.the_stack.up()
        return self.the_stack

    def begin(self):
        """A case begins: its time is its own."""
        self.deadline = time.monotonic() + self.options.minutes * 60

    def end(self, engine):
        """A case has ended, well or not: what it started ends, too."""
        for close in [*reversed(self.closing), *([engine.close] if engine else [])]:
            try:
                close()
            except Failed as failed:  # what the case itself found matters more
                say(str(failed))
        self.closing = []

    def has_time(self):
        return time.monotonic() < self.deadline

    def folder(self, *names):
        path = os.path.join(self.work, *names)
        os.makedirs(path, exist_ok=True)
        return path

    def clear(self, *names):
        shutil.rmtree(os.path.join(self.work, *names), ignore_errors=True)

    def close(self):
        self.end(None)
        if self.the_stack:
            self.the_stack.down()


def say(text):
    """A line on standard error, in the name of the script."""
    print(f"{os.path.basename(os.path.dirname(os.path.abspath(sys.argv[0])))}: {text}", file=sys.stderr, flush=True)
