"""Whole builds: through the doors, by tar, by the engine's own builder, and exporting nothing (the floor)."""

import os
import shutil
import time

from figures import figures, take_turns
from machine import drop_caches, fresh_engine, run, write


class Contender:
    """One way from a Dockerfile to an image in the engine, with a build context of its own."""

    def __init__(self, bench, name, builder, output, base, env=None):
        self.bench, self.name = bench, name
        self.env = env or bench.stack.env
        self.context = bench.folder(f"c-{name}")
        self.dockerfile = (f"FROM {base}\nRUN echo {name} prepared >/prepared\nCOPY data /app/data\n" if base else "")
        with open(os.path.join(self.context, "data"), "wb") as data:
            data.write(os.urandom(3_000_000))
        self.edit("first")
        self.command = ["docker", "buildx", "build", "--builder", builder, "-q", "--network", "host",
                        *(option.replace("NAME", f"bench-{name}") for option in output), "-t", f"bench-{name}", self.context]

    def edit(self, line):
        """Changes the last line."""
        write(os.path.join(self.context, "Dockerfile"), f"{self.dockerfile}RUN echo {self.name} {line} >/version\n")

    def build(self, env=None):
        """Seconds of the whole command."""
        started = time.monotonic()
        run(*self.command, env=env or self.env)
        return time.monotonic() - started


LOAD, NOTHING = ["--load"], ["--output", "type=cacheonly"]


def remote(bench):
    """A builder on a socket, the first quick start of the README."""
    base, size = bench.base()
    return {
        "linkspan": Contender(bench, "linkspan", "linkspan", LOAD, base),
        "tar": Contender(bench, "tar", "tar", LOAD, base),
        "builtin": Contender(bench, "builtin", "default", LOAD, base),
        "floor": Contender(bench, "floor", "tar", NOTHING, base),
    }, size, bench.linkspan


def container(bench):
    """Builders of the docker-container driver, which are reached through an engine's socket."""
    base, size = bench.base()
    through = {**bench.stack.env, "DOCKER_HOST": bench.linkspan.docker}
    bench.container_builder("c-linkspan", bench.linkspan.docker)
    bench.container_builder("c-tar", bench.stack.env["DOCKER_HOST"])
    return {
        "linkspan": Contender(bench, "container-linkspan", "c-linkspan", LOAD, base, through),
        "tar": Contender(bench, "container-tar", "c-tar", LOAD, base),
        "builtin": Contender(bench, "container-builtin", "default", LOAD, base),
        "floor": Contender(bench, "container-floor", "c-tar", NOTHING, base),
    }, size, bench.linkspan


def classic(bench):
    """To an engine with the classic image store."""
    base, size = bench.base()
    env = bench.classic()
    linkspan = bench.start_linkspan(bench.stack, bench.folder("classic-linkspan"), "docker-classic")
    bench.builder("classic-linkspan", linkspan.socket)
    return {
        "linkspan": Contender(bench, "classic-linkspan", "classic-linkspan", ["--output", "type=linkspan,name=NAME"], base, env),
        "tar": Contender(bench, "classic-tar", "tar", LOAD, base, env),
        "builtin": Contender(bench, "classic-builtin", "default", LOAD, base, env),
        "floor": Contender(bench, "classic-floor", "tar", NOTHING, base, env),
    }, size, linkspan


def docker_api(bench):
    """To an engine of which only the API is used."""
    base, size = bench.base()
    linkspan = bench.start_linkspan(bench.stack, bench.folder("docker-api"), "docker-api")
    bench.builder("docker-api", linkspan.socket)
    return {
        "linkspan": Contender(bench, "api-linkspan", "docker-api", LOAD, base),
        "tar": Contender(bench, "api-tar", "tar", LOAD, base),
        "builtin": Contender(bench, "api-builtin", "default", LOAD, base),
        "floor": Contender(bench, "api-floor", "tar", NOTHING, base),
    }, size, linkspan


def prepared(bench, ways):
    """The contenders with everything built, loaded and cached once."""
    if ways not in bench.prepared:
        bench.prepared[ways] = ways(bench)
        for contender in bench.prepared[ways][0].values():
            contender.build()
    return bench.prepared[ways]


def warm(ways):
    """Nothing changed."""
    def case(bench, name):
        named, size, linkspan = prepared(bench, ways)
        for contender in named.values():
            contender.build()
        times = take_turns(bench.options.runs, named, lambda contender, _: contender.build())
        return figures(name, size, times, linkspan.peak_bytes())
    return case


def edit(ways):
    """The last line changed."""
    def case(bench, name):
        named, size, linkspan = prepared(bench, ways)

        def build(contender, turn):
            contender.edit(f"edit {turn}")
            return contender.build()

        return figures(name, size, take_turns(bench.options.runs, named, build), linkspan.peak_bytes())
    return case


def layers100(bench, name):
    named = {key: Contender(bench, f"{key}-100", builder, output, None) for key, builder, output in (
        ("linkspan", "linkspan", LOAD), ("tar", "tar", LOAD), ("builtin", "default", LOAD), ("floor", "tar", NOTHING))}
    for key, contender in named.items():
        for index in range(100):
            write(os.path.join(contender.context, f"f{index}"), f"{key} {index}")
        lines = "".join(f"COPY f{index} /f{index}\n" for index in range(100))
        write(os.path.join(contender.context, "Dockerfile"), f"FROM scratch\n{lines}")
        contender.build()
    times = take_turns(bench.options.runs, named, lambda contender, _: contender.build())
    return figures(name, 100 * 16, times, bench.linkspan.peak_bytes())


# The part of the base image that a big edit changes: 666 MB of 3 GB.
BIG_EDIT = 0.222
COMPRESSIONS = ["fast", "zstd", "uncompressed"]


def big_edit(bench, name):
    """A RUN that makes a layer of real files: what its compression costs, and what --load-compression saves of that."""
    base, size = bench.base()
    files, changed = bench.base_files(size * BIG_EDIT)
    runs = min(bench.options.runs, 3)
    named = {
        "linkspan": Contender(bench, "big-linkspan", "linkspan", LOAD, base),
        "tar": Contender(bench, "big-tar", "tar", LOAD, base),
        "builtin": Contender(bench, "big-builtin", "default", LOAD, base),
        "floor": Contender(bench, "big-floor", "tar", NOTHING, base),
    }
    for how in COMPRESSIONS:
        linkspan = bench.start_linkspan(bench.stack, bench.folder(how), settings=["--load-compression", how])
        bench.builder(how, linkspan.socket)
        named[how] = Contender(bench, f"big-{how}", how, LOAD, base)
    # Nothing is deleted in between, because the kernel makes files slowly where inodes were just deleted.
    bench.need_space(changed * len(named) * runs * 3.5, "--size or --runs")
    for contender in named.values():
        with open(os.path.join(contender.context, "list"), "w", encoding="utf-8", errors="surrogateescape") as listed:
            listed.write("\n".join(files) + "\n")
        contender.dockerfile += "COPY list /list\n"
        contender.edit("first")
        contender.build()

    def build(contender, turn):
        lines = f"RUN busybox mkdir /edit && cd /base && busybox cpio -o -H newc </list | (cd /edit && busybox cpio -id) && echo {contender.name} {turn} >/edit/line\n"
        write(os.path.join(contender.context, "Dockerfile"), contender.dockerfile + lines)
        run("sync")  # what the contender before has left for the kernel to write is not this one's
        return contender.build()

    times = take_turns(runs, named, build)
    others = {key: times[key] for key in ("tar", "builtin", "floor")}
    yield figures(name, changed, {"linkspan": times["linkspan"], **others}, bench.linkspan.peak_bytes())
    for how in COMPRESSIONS:
        yield figures(f"{name} {how}", changed, {"linkspan": times[how], **others})


COLD = {
    "tar": None,
    "linkspan": [],
    "diff-service": ["--layer-applier", "containerd"],
}


def cold(bench, name):
    """From a builder that holds the whole image to an engine that has seen nothing, until a container has run; also with
    containerd's diff service in the place of our own unpacking."""
    named, size, _ = prepared(bench, remote)
    peaks = {way: [] for way in COLD}

    def measure(way, _):
        with fresh_engine(bench, int(size * 4 + 4e9)) as engine:
            return cold_run(bench, named["linkspan" if COLD[way] is not None else "tar"], engine, COLD[way], peaks[way])

    times = take_turns(min(bench.options.runs, 3), {way: way for way in COLD}, measure)
    for way, label in (("linkspan", name), ("diff-service", f"{name} diff service")):
        yield figures(label, size, {"linkspan": times[way], "tar": times["tar"]}, max(peaks[way]))


def cold_run(bench, contender, engine, settings, peaks):
    """Seconds; `settings` are those of the Linkspan in between, if there is one."""
    env = {**engine.env, "BUILDX_CONFIG": bench.folder("cold-buildx")}
    linkspan, address = None, bench.stack.env["BUILDKIT_HOST"]
    if settings is not None:
        linkspan = bench.start_linkspan(engine, bench.folder("cold-linkspan"), settings=settings)
        address = linkspan.socket
    shutil.rmtree(env["BUILDX_CONFIG"])
    run("docker", "buildx", "create", "--name", contender.name, "--driver", "remote", address, env=env)
    run("docker", "buildx", "inspect", contender.name, env=env)
    drop_caches()
    seconds = contender.build(env)
    started = time.monotonic()
    run("docker", "run", "--rm", "--network", "host", f"bench-{contender.name}", "true", env=env)
    seconds += time.monotonic() - started
    if linkspan:
        peaks.append(linkspan.peak_bytes())
        bench.stop(linkspan)
    return seconds


def memory(bench, name):
    """A large image of another platform, so that nothing unpacks it: just the stream."""
    size = int(bench.options.memory_size * 1e9)
    bench.need_space(size * 3.5, "--memory-size")
    context, parts = bench.folder("memory"), max(1, round(size / 1e9))
    for index in range(parts):
        run("dd", "if=/dev/urandom", f"of={context}/{index}", "bs=1M", f"count={size // parts >> 20}")
    lines = "".join(f"COPY {index} /{index}\n" for index in range(parts))
    write(os.path.join(context, "Dockerfile"), f"FROM scratch\n{lines}")
    linkspan = bench.start_linkspan(bench.stack, bench.folder("memory-linkspan"))
    bench.builder("memory", linkspan.socket)
    started = time.monotonic()
    # Random bytes do not compress; asking for no compression only saves the builder the attempt.
    run("docker", "buildx", "build", "--builder", "memory", "-q", "--platform", "linux/arm64", "--provenance=false",
        "--output", "type=linkspan,name=bench-memory,compression=uncompressed", context, env=bench.stack.env)
    seconds = time.monotonic() - started
    result = figures(name, size, {"linkspan": [seconds]}, linkspan.peak_bytes())
    run("docker", "rmi", "bench-memory", env=bench.stack.env)
    shutil.rmtree(context)
    return result
