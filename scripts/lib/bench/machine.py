"""The machinery of a benchmark: stacks, builders, Linkspan, and the base image."""

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
STACK = os.path.join(ROOT, "scripts", "stack")
CACHE = os.environ.get("LINKSPAN_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "linkspan")

# Real files of the machine, in the order in which they are taken until the size is reached.
CANDIDATES = ["/usr/lib", "/usr/local", "/usr/share", "~/.rustup", "/opt", "~/.pyenv", "~/go/pkg/mod", "~/.cargo", "/usr/bin"]
LAYERS = 6
BUILDER_IMAGE = "local/buildkit"


def write(path, text):
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


def run(*command, env=None, check=True, **options):
    """Runs a command quietly; on failure its output is shown."""
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if check and done.returncode != 0:
        raise SystemExit(f"bench: error: {' '.join(command)} failed ({done.returncode}):\n{done.stdout[-4000:]}")
    return done.stdout


class Stack:
    """One isolated set of daemons."""

    def __init__(self, state, only=None):
        self.state = state
        run(STACK, "up", "--state", state, *(["--only", only] if only else []))
        self.env = dict(os.environ)
        for line in run(STACK, "env", "--state", state).splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self.env[name] = value.strip('"').replace("$PATH", os.environ["PATH"])

    def down(self):
        run(STACK, "down", "--state", self.state, "--purge", check=False)


@contextmanager
def fresh_engine(bench, space_bytes, parts="containerd,dockerd"):
    """An engine that has seen nothing (and other parts of a stack), on a file system that was just made: on a used one, deleted inodes slow the
    kernel down for minutes."""
    mount, image = bench.folder("fresh"), os.path.join(bench.work, "fresh.img")
    with open(image, "wb") as file:
        file.truncate(space_bytes)  # sparse
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    run("mount", "-o", "loop", image, mount)
    engine = None
    try:
        engine = Stack(os.path.join(mount, "s"), only=parts)
        yield engine
    finally:
        if engine:
            engine.down()
        subprocess.run(["umount", "-l", mount], check=False)
        os.unlink(image)


def stream_archive(into, path, size):
    """Sends the entries of the archive at `path`, and then others that no engine has, `size` bytes in all."""
    chunk = os.urandom(1 << 20)
    with tarfile.open(path) as source, tarfile.open(fileobj=into, mode="w|", bufsize=1 << 20) as out:
        for entry in source:
            out.addfile(entry, source.extractfile(entry))
        rest, number = size - os.path.getsize(path), 0
        while rest > 0:
            entry = tarfile.TarInfo(f"others/{number}")
            entry.size = min(rest, 1 << 30)
            out.addfile(entry, Repeated(number, chunk))
            rest, number = rest - entry.size, number + 1
    into.close()


class Repeated:
    """A file of the same bytes over and over, but for its beginning."""

    def __init__(self, number, chunk):
        self.start, self.chunk = number.to_bytes(8, "big"), chunk

    def read(self, length):
        start, self.start = self.start[:length], b""
        return start + self.chunk[:length - len(start)]


def drop_caches():
    """What was read before does not help."""
    run("sync")
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as drop:
        drop.write("3")


def listens(address):
    """Whether something listens there: `unix://PATH` or `HOST:PORT`."""
    if address.startswith("unix://"):
        return os.path.exists(address.removeprefix("unix://"))
    host, port = address.rsplit(":", 1)
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def free_address():
    """A port of this host that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Program:
    """A program under test, until it listens on all of `addresses`."""

    def __init__(self, binary, arguments, env, folder, addresses):
        name = os.path.basename(binary)
        self.log = open(f"{folder}/{name}.log", "w", encoding="utf-8")
        self.process = subprocess.Popen([binary, *arguments], env=env, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 20
        while not all(map(listens, addresses)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bench: error: {name} did not start, see {self.log.name}:\n{open(self.log.name).read()}")
            time.sleep(0.02)

    def peak_bytes(self):
        """The peak resident size so far."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


class Linkspan(Program):
    """Between builders and clients on one side and a stack's engine on the other."""

    def __init__(self, binary, engine, builder, folder, kind="docker", settings=()):
        self.socket = f"unix://{folder}/linkspan.sock"
        self.docker = f"unix://{folder}/docker.sock"
        host = engine.env["LINKSPAN_DOCKER_CLASSIC_HOST" if kind == "docker-classic" else "DOCKER_HOST"]
        # The docker door does not lead over ssh.
        door = [] if host.startswith("ssh://") else ["--docker-listen", self.docker]
        arguments = ["serve", "--engine", kind, "--docker-host", host, *door,
                     "--builder", builder.env["BUILDKIT_HOST"], "--buildkit-listen", self.socket, *settings]
        super().__init__(binary, arguments, engine.env, folder, [self.socket, self.docker] if door else [self.socket])


class Bench:
    """What all cases share; a context manager that takes everything down."""

    def __init__(self, work, options):
        self.work, self.options = work, options
        self.closing, self.prepared = [], {}

    def __enter__(self):
        run("cargo", "build", "--release", "--locked", "--bin", "linkspan", cwd=ROOT)
        target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
        self.binary = os.path.join(target, "release", "linkspan")
        self.stack = Stack(os.path.join(self.work, "s"))
        self.closing.append(self.stack.down)
        self.linkspan = self.start_linkspan(self.stack, self.folder("l"))
        self.builder("tar", self.stack.env["BUILDKIT_HOST"])
        self.builder("linkspan", self.linkspan.socket)
        return self

    def __exit__(self, *_):
        for close in reversed(self.closing):
            close()

    def folder(self, name):
        path = os.path.join(self.work, name)
        os.makedirs(path, exist_ok=True)
        return path

    def start_linkspan(self, engine, folder, kind="docker", settings=()):
        linkspan = Linkspan(self.binary, engine, self.stack, folder, kind, settings)
        self.closing.append(linkspan.stop)
        return linkspan

    def stop(self, linkspan):
        self.closing.remove(linkspan.stop)
        linkspan.stop()

    def classic(self):
        """The environment of clients of the engine with the classic store."""
        run(STACK, "up", "--state", self.stack.state, "--only", "dockerd-classic")
        return {**self.stack.env, "DOCKER_HOST": self.stack.env["LINKSPAN_DOCKER_CLASSIC_HOST"]}

    def need_space(self, size, option):
        free = shutil.disk_usage(self.work).free
        if free < size:
            raise SystemExit(f"bench: error: this case needs {size / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free; use {option}")

    def builder(self, name, address):
        run("docker", "buildx", "create", "--name", name, "--driver", "remote", address, env=self.stack.env)

    def container_builder(self, name, docker):
        """A builder of the docker-container driver, reached through the engine at `docker`."""
        self.builder_image()
        run("docker", "buildx", "create", "--name", name, "--driver", "docker-container", "--bootstrap",
            "--driver-opt", f"image={BUILDER_IMAGE},network=host", docker, env=self.stack.env)
        self.closing.append(lambda: run("docker", "buildx", "rm", name, env=self.stack.env, check=False))

    def builder_image(self):
        """BuildKit as an image, made of the installed programs: there is nowhere to pull it from."""
        context = self.folder("builder-image")
        if os.listdir(context):
            return
        programs = {"buildkitd": "buildkitd", "buildctl": "buildctl", "runc": "buildkit-runc", "busybox": "busybox"}
        for program, name in programs.items():
            shutil.copy(shutil.which(program, path=self.stack.env["PATH"]), os.path.join(context, name))
        os.makedirs(os.path.join(context, "tmp"))
        with open(os.path.join(context, "Dockerfile"), "w", encoding="ascii") as file:
            file.write("FROM scratch\nCOPY buildkitd buildctl buildkit-runc /usr/bin/\nCOPY busybox /bin/sh\n"
                       "COPY --chmod=1777 tmp /tmp\nENV PATH=/usr/bin:/bin\nVOLUME /var/lib/buildkit\n"
                       'ENTRYPOINT ["buildkitd"]\n')
        run("docker", "buildx", "build", "--builder", "default", "--load", "-t", BUILDER_IMAGE, context, env=self.stack.env)

    def base(self):
        """A base image of at least --size GB of real files, in the stack's registry; its layers are kept in the cache."""
        name = f"{self.stack.env['LINKSPAN_REGISTRY']}/base"
        folder = os.path.join(CACHE, "bench", f"base-{self.options.size:g}")
        if not os.path.exists(os.path.join(folder, "done")):
            make_layers(folder, self.options.size)
        layers = sorted(file for file in os.listdir(folder) if file.endswith(".tar.gz"))
        files = [option for layer in layers for option in ("-f", os.path.join(folder, layer))]
        run("crane", "append", "--oci-empty-base", "--insecure", *files, "-t", name, env=self.stack.env)
        run("crane", "mutate", "--insecure", "--set-platform", "linux/amd64", "-t", name, name, env=self.stack.env)
        with open(os.path.join(folder, "done"), encoding="ascii") as done:
            return name, int(done.read())

    def layer(self):
        """A layer of the base image with real files."""
        return os.path.join(CACHE, "bench", f"base-{self.options.size:g}", "1.tar.gz")

    def base_files(self, size):
        """The first of the base image's files, `size` bytes of them, by their paths below its folder /base."""
        chosen, taken = [], 0
        for index in range(1, LAYERS + 1):
            listed = os.path.join(CACHE, "bench", f"base-{self.options.size:g}", f"list-{index}")
            with open(listed, encoding="utf-8", errors="surrogateescape") as file:
                paths = file.read().split("\0")
            for path in paths:
                if taken >= size:
                    return chosen, taken
                if "\n" not in path:
                    chosen.append(path)
                    taken += os.lstat(f"/{path}").st_size
        return chosen, taken


def make_layers(folder, size_gb):
    """Packs real files into layers, two at a time."""
    print(f"bench: packing a base image of {size_gb:g} GB (kept in {folder})", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    wanted, taken, files = int(size_gb * 1e9), 0, []
    for path in walk_files():
        size = os.lstat(path).st_size
        files.append((path, size))
        taken += size
        if taken >= wanted:
            break
    if taken < wanted:
        raise SystemExit(f"bench: error: this machine has only {taken / 1e9:.1f} GB of files for the base image; use --size")
    shell = os.path.join(folder, "shell")
    os.makedirs(os.path.join(shell, "bin"))
    shutil.copy(shutil.which("busybox"), os.path.join(shell, "bin", "busybox"))
    for applet in ("sh", "echo", "true", "cat"):
        os.symlink("busybox", os.path.join(shell, "bin", applet))
    packing = [pack(folder, 0, ["-C", shell, "bin"])]
    layer, part = [], 0
    for path, size in files:
        layer.append(path.lstrip("/"))
        part += size
        if part >= taken / LAYERS or path == files[-1][0]:
            listed = os.path.join(folder, f"list-{len(packing)}")
            with open(listed, "w", encoding="utf-8", errors="surrogateescape") as out:
                out.write("\0".join(layer))
            packing.append(pack(folder, len(packing), ["-C", "/", "--null", "--no-recursion", "-T", listed]))
            layer, part = [], 0
            if len(packing) % 2 == 0:
                wait(packing[-2:])
    wait(packing)
    with open(os.path.join(folder, "done"), "w", encoding="ascii") as done:
        done.write(str(taken))


def walk_files():
    for top in CANDIDATES:
        for folder, folders, names in os.walk(os.path.expanduser(top)):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if os.path.isfile(path) or os.path.islink(path):
                    yield path


def pack(folder, index, arguments):
    target = os.path.join(folder, f"{index}.tar.gz")
    # Below /base, so that the image's own shell and the machine's libraries do not meet.
    prefix = [] if index == 0 else ["--transform", "s,^,base/,S"]
    return subprocess.Popen(["bash", "-c", 'set -o pipefail; out=$1; shift; tar -cf - "$@" | gzip -6 >"$out"', "-", target, *prefix, *arguments])


def wait(processes):
    for process in processes:
        if process.wait() != 0:
            raise SystemExit("bench: error: tar failed while packing the base image")
