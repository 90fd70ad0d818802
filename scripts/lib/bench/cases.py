"""The cases. Each returns one object for the report."""

import os
import shutil
import subprocess
import time

from machine import Stack, run
from statistics import median


def write(path, text):
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


class Contender:
    """One way from a Dockerfile to an image in the engine, with a build context of its own."""

    def __init__(self, bench, name, builder, output, base):
        self.bench, self.name = bench, name
        self.context = bench.folder(f"c-{name}")
        self.dockerfile = (f"FROM {base}\nRUN echo {name} prepared >/prepared\nCOPY data /app/data\n" if base else "")
        write(os.path.join(self.context, "data"), "")
        with open(os.path.join(self.context, "data"), "wb") as data:
            data.write(os.urandom(3_000_000))
        self.edit("first")
        self.command = ["docker", "buildx", "build", "--builder", builder, "-q", "--network", "host",
                        *output, "-t", f"bench-{name}", self.context]

    def edit(self, line):
        """Changes the last line."""
        write(os.path.join(self.context, "Dockerfile"), f"{self.dockerfile}RUN echo {self.name} {line} >/version\n")

    def build(self, env=None):
        """Seconds of the whole command."""
        started = time.monotonic()
        run(*self.command, env=env or self.bench.stack.env)
        return time.monotonic() - started


def contenders(bench, base):
    return {
        "linkspan": Contender(bench, "linkspan", "linkspan", ["--load"], base),
        "tar": Contender(bench, "tar", "tar", ["--load"], base),
        "builtin": Contender(bench, "builtin", "default", ["--load"], base),
        "floor": Contender(bench, "floor", "tar", ["--output", "type=cacheonly"], base),
    }


def take_turns(bench, runs, named, build):
    """Seconds of each contender; in each round they come in another order."""
    times = {name: [] for name in named}
    names = list(named)
    for turn in range(runs):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            times[name].append(build(named[name], turn))
    return times


def figures(case, size, times, peak=None):
    middle = {name: median(values) for name, values in times.items() if values}

    def ratio(one, other):
        return round(middle[one] / middle[other], 3) if one in middle and other in middle else None

    result = {"case": case, "size_bytes": size, "runs": max((len(v) for v in times.values()), default=0)}
    for name in ("linkspan", "tar", "builtin", "floor"):
        result[f"{name}_s"] = round(middle[name], 4) if name in middle else None
    result["tar_over_linkspan"] = ratio("tar", "linkspan")
    result["linkspan_over_builtin"] = ratio("linkspan", "builtin")
    result["linkspan_over_floor"] = ratio("linkspan", "floor")
    result["linkspan_peak_rss_bytes"] = peak
    result["spread_s"] = {name: [round(min(v), 4), round(max(v), 4)] for name, v in times.items() if v}
    return result


def prepared(bench):
    """The contenders with everything built, loaded and cached once."""
    if not hasattr(bench, "prepared"):
        base, size = bench.base()
        bench.prepared = contenders(bench, base), size
        for contender in bench.prepared[0].values():
            contender.build()
    return bench.prepared


def warm(bench, case):
    named, size = prepared(bench)
    for contender in named.values():
        contender.build()
    times = take_turns(bench, bench.options.runs, named, lambda contender, _: contender.build())
    return figures(case, size, times, bench.linkspan.peak_bytes())


def edit(bench, case):
    named, size = prepared(bench)

    def build(contender, turn):
        contender.edit(f"edit {turn}")
        return contender.build()

    return figures(case, size, take_turns(bench, bench.options.runs, named, build), bench.linkspan.peak_bytes())


def layers100(bench, case):
    named = {name: Contender(bench, f"{name}-100", builder, output, None) for name, builder, output in (
        ("linkspan", "linkspan", ["--load"]), ("tar", "tar", ["--load"]),
        ("builtin", "default", ["--load"]), ("floor", "tar", ["--output", "type=cacheonly"]))}
    for name, contender in named.items():
        for index in range(100):
            write(os.path.join(contender.context, f"f{index}"), f"{name} {index}")
        lines = "".join(f"COPY f{index} /f{index}\n" for index in range(100))
        write(os.path.join(contender.context, "Dockerfile"), f"FROM scratch\n{lines}")
        contender.build()
    times = take_turns(bench, bench.options.runs, named, lambda contender, _: contender.build())
    return figures(case, 100 * 16, times, bench.linkspan.peak_bytes())


def cold(bench, case):
    """From a builder that holds the whole image to an engine that has seen nothing, until a container has run."""
    named, size = prepared(bench)
    times, peaks = {"linkspan": [], "tar": []}, []
    for turn in range(min(bench.options.runs, 3)):
        for name in ("linkspan", "tar") if turn % 2 else ("tar", "linkspan"):
            times[name].append(cold_run(bench, named[name], size, peaks))
    return figures(case, size, times, max(peaks))


def cold_run(bench, contender, size, peaks):
    mount = bench.folder("cold")
    image = os.path.join(bench.work, "cold.img")
    with open(image, "wb") as file:
        file.truncate(int(size * 4 + 4e9))  # sparse
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    run("mount", "-o", "loop", image, mount)
    engine = None
    try:
        engine = Stack(os.path.join(mount, "s"), only="containerd,dockerd")
        env = {**engine.env, "BUILDX_CONFIG": bench.folder("cold-buildx")}
        linkspan = None
        address = bench.stack.env["BUILDKIT_HOST"]
        if contender.name == "linkspan":
            linkspan = bench.start_linkspan(engine, bench.folder("cold-linkspan"))
            address = linkspan.socket
        shutil.rmtree(env["BUILDX_CONFIG"])
        run("docker", "buildx", "create", "--name", contender.name, "--driver", "remote", address, env=env)
        run("docker", "buildx", "inspect", contender.name, env=env)
        run("sync")
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as drop:
            drop.write("3")
        seconds = contender.build(env)
        started = time.monotonic()
        run("docker", "run", "--rm", "--network", "host", f"bench-{contender.name}", "true", env=env)
        seconds += time.monotonic() - started
        if linkspan:
            peaks.append(linkspan.peak_bytes())
            bench.closing.remove(linkspan.stop)
            linkspan.stop()
        return seconds
    finally:
        if engine:
            engine.down()
        subprocess.run(["umount", "-l", mount], check=False)
        os.unlink(image)


def memory(bench, case):
    """A large image of another platform, so that nothing unpacks it: just the stream."""
    size = int(bench.options.memory_size * 1e9)
    free = shutil.disk_usage(bench.work).free
    if free < size * 3.5:
        raise SystemExit(f"bench: error: the memory case needs {size * 3.5 / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free; use --memory-size")
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
    result = figures(case, size, {"linkspan": [seconds]}, linkspan.peak_bytes())
    run("docker", "rmi", "bench-memory", env=bench.stack.env)
    shutil.rmtree(context)
    return result


CASES = {"warm": warm, "edit": edit, "cold": cold, "layers100": layers100, "memory": memory}
