"""Pushes to the registry door, beside unregistry (on the same engine; it neither pins, nor unpacks, nor tells of images) and
the distribution registry, which the engine pulls from before the image is ready to run."""

import hashlib
import http.client
import os
import shutil
from statistics import median
import subprocess
import time
from urllib.parse import urlsplit

from builds import Contender, NOTHING
from figures import ratio, take_turns
from machine import Program, drop_caches, free_address, fresh_engine, run

MIB = 1 << 20
TARGETS = {"registry-blob PUT": 0.8, "registry-blob PATCH": 0.6, "registry-blob doubled": 2.2, "registry-memory": 64 * MIB,
           "object-stream": 0.8, "object-memory": 96 * MIB}


class Push(Contender):
    """Builds with one builder and pushes to the registry at `address`; `pull` is the environment of the engine that pulls
    the image afterwards."""

    def __init__(self, bench, name, address, base, pull=None):
        super().__init__(bench, f"push-{name}", "tar", [], base)
        self.pull = pull
        self.send_to(address)

    def send_to(self, address):
        self.image = f"{address}/bench-{self.name}"
        self.command[self.command.index("-t"):] = ["--push", "-t", self.image, self.context]

    def build(self, env=None):
        seconds, started = super().build(env), time.monotonic()
        if self.pull:
            run("docker", "pull", "-q", self.image, env=self.pull)
            seconds += time.monotonic() - started
        return seconds


def door(bench, name, *engine):
    """Linkspan with a registry door to that engine, and the door's address."""
    address = free_address()
    program = Program(bench.binary, ["serve", *engine, "--registry-listen", f"tcp://{address}", "--registry-writable"],
                      bench.stack.env, bench.folder(name), [address])
    bench.closing.append(program.stop)
    return program, address


def docker_flags(engine):
    return ["--engine", "docker", "--docker-host", engine.env["DOCKER_HOST"], "--containerd-address", engine.env["CONTAINERD_ADDRESS"]]


def unregistry(bench, name, engine):
    address = free_address()
    binary = shutil.which("unregistry", path=bench.stack.env["PATH"])
    socket = engine.env["CONTAINERD_ADDRESS"].removeprefix("unix://")
    program = Program(binary, ["--addr", address, "--sock", socket, "--namespace", "moby"], bench.stack.env, bench.folder(name), [address])
    bench.closing.append(program.stop)
    return program, address


def pushes(bench):
    """The contenders with everything built and pushed once, and Linkspan."""
    if "pushes" not in bench.prepared:
        base, size = bench.base()
        linkspan, address = door(bench, "registry-linkspan", *docker_flags(bench.stack))
        named = {
            "linkspan": Push(bench, "linkspan", address, base),
            "unregistry": Push(bench, "unregistry", unregistry(bench, "registry-unregistry", bench.stack)[1], base),
            "registry": Push(bench, "registry", bench.stack.env["LINKSPAN_REGISTRY"], base, bench.stack.env),
            "floor": Contender(bench, "push-floor", "tar", NOTHING, base),
        }
        for contender in named.values():
            contender.build()
        bench.prepared["pushes"] = named, size, linkspan
    return bench.prepared["pushes"]


def result(name, size, times, peak, target):
    return {"case": name, "size_bytes": size, "runs": max(map(len, times.values())),
            "push_s": {way: round(median(values), 4) for way, values in times.items()},
            "unregistry_over_linkspan": ratio(times, "unregistry", "linkspan"),
            "registry_over_linkspan": ratio(times, "registry", "linkspan"),
            "spread_s": {way: [round(min(v), 4), round(max(v), 4)] for way, v in times.items()},
            "linkspan_peak_rss_bytes": peak, "push_target": target}


def push_warm(bench, name):
    """Nothing changed."""
    named, size, linkspan = pushes(bench)
    for contender in named.values():
        contender.build()
    times = take_turns(bench.options.runs, named, lambda contender, _: contender.build())
    return result(name, size, times, linkspan.peak_bytes(), "unregistry >= 1")


def push_edit(bench, name):
    """The last line changed, until the image is ready to run; unregistry leaves it packed."""
    named, size, linkspan = pushes(bench)

    def build(contender, turn):
        contender.edit(f"edit {turn}")
        return contender.build()

    times = take_turns(bench.options.runs, named, build)
    return result(name, size, times, linkspan.peak_bytes(), "registry >= 3, unregistry >= 1")


def push_cold(bench, name):
    """To an engine and a registry that have seen nothing, until a container has run."""
    named, size, _ = pushes(bench)
    peaks = []

    def measure(way, _):
        with fresh_engine(bench, int(size * 5 + 4e9), "containerd,dockerd,registry") as engine:
            contender = named[way]
            if way == "linkspan":
                program, address = door(bench, "registry-cold", *docker_flags(engine))
            else:
                program, address = None, engine.env["LINKSPAN_REGISTRY"]
                contender.pull = engine.env
            contender.send_to(address)
            drop_caches()
            seconds, started = contender.build(), time.monotonic()
            image = contender.image.removeprefix(f"{address}/") if way == "linkspan" else contender.image
            run("docker", "run", "--rm", "--network", "host", image, "true", env=engine.env)
            seconds += time.monotonic() - started
            if program:
                peaks.append(program.peak_bytes())
                bench.stop(program)
            return seconds

    times = take_turns(min(bench.options.runs, 3), {way: way for way in ("linkspan", "registry")}, measure)
    del bench.prepared["pushes"]  # they push elsewhere now
    return result(name, size, times, max(peaks), "registry >= 1.8")


class Upload:
    """One upload of a blob, as the distribution specification has it."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(address, timeout=600, blocksize=MIB)
        self.location = self.request("POST", "/v2/bench/blobs/uploads/", None, 0, 202)

    def request(self, method, path, body, length, expected):
        headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
        self.connection.request(method, path, body=body, headers=headers)
        response = self.connection.getresponse()
        said = response.read()
        if response.status != expected:
            raise SystemExit(f"bench: error: {method} {path}: {response.status}: {said.decode(errors='replace')}")
        location = urlsplit(response.getheader("Location"))
        return location.path + (f"?{location.query}" if location.query else "")

    def patch(self, piece):
        self.location = self.request("PATCH", self.location, piece, len(piece), 202)

    def put(self, digest, body, length):
        path = self.location + ("&" if "?" in self.location else "?") + f"digest={digest}"
        self.request("PUT", path, body, length, 201)
        self.connection.close()


def blob(bench, _):
    """A blob of 2 GB to containerd: in one PUT, in PATCHes of 1 MiB, half of it in such PATCHes, and by `ctr content ingest`."""
    size, namespace = 2 << 30, "bench-registry"
    bench.need_space(size * 3, "another TMPDIR")
    containerd = bench.stack.env["CONTAINERD_ADDRESS"]
    program, address = door(bench, "registry-blob", "--engine", "containerd", "--containerd-address", containerd, "--namespace", namespace)
    path = os.path.join(bench.work, "blob")
    with open(path, "wb") as out:
        for _ in range(size // MIB):
            out.write(os.urandom(MIB))

    def send(way, _):
        length = size // 2 if way == "half" else size
        with open(path, "r+b") as file:
            file.write(os.urandom(16))  # a blob that nobody has
        digest = digest_of(path, length)
        run("sync")
        started = time.monotonic()
        with open(path, "rb") as file:
            if way == "ctr":
                subprocess.run(["ctr", "-n", namespace, "content", "ingest", "--expected-digest", digest, "--expected-size", str(length), digest],
                               env=bench.stack.env, stdin=file, stdout=subprocess.DEVNULL, check=True)
            elif way == "PUT":
                Upload(address).put(digest, file, length)
            else:
                upload = Upload(address)
                for _ in range(length // MIB):
                    upload.patch(file.read(MIB))
                upload.put(digest, None, 0)
        seconds = time.monotonic() - started
        run("ctr", "-n", namespace, "content", "rm", digest, env=bench.stack.env)
        return seconds

    times = take_turns(min(bench.options.runs, 3), {way: way for way in ("PUT", "PATCH", "half", "ctr")}, send)
    os.unlink(path)
    bench.stop(program)
    rates = {way: round((size // 2 if way == "half" else size) / MIB / median(seconds), 1) for way, seconds in times.items()}
    for way in ("PUT", "PATCH"):
        yield target(f"registry-blob {way}", ratio(times, "ctr", way), len(times[way]), 1, mib_per_second=rates)
    yield target("registry-blob doubled", ratio(times, "PATCH", "half"), len(times["PATCH"]), -1, mib_per_second=rates)


def push_memory(bench, name):
    """--memory-size GB in 8 blobs to a layout, made as they are sent."""
    size = int(bench.options.memory_size * 1e9) // 8
    bench.need_space(int(size * 8 * 1.1), "--memory-size")
    folder = bench.folder("registry-layout")
    program, address = door(bench, "registry-memory", "--engine", "layout", "--layout", folder)
    chunk = os.urandom(MIB)

    def body(number):
        yield number.to_bytes(8, "big") + chunk[8:]
        for _ in range(size // MIB - 1):
            yield chunk

    for number in range(8):
        hashed = hashlib.sha256()
        for piece in body(number):
            hashed.update(piece)
        Upload(address).put(f"sha256:{hashed.hexdigest()}", body(number), size // MIB * MIB)
    peak = program.peak_bytes()
    bench.stop(program)
    shutil.rmtree(folder)
    yield target(name, peak, 1, -1, size_bytes=size * 8)


def target(name, measured, runs, sign, **more):
    """Reached where `measured` is at least the target, or at most where `sign` is negative."""
    return {"case": name, "measured": measured, "target": TARGETS[name], "reached": (measured - TARGETS[name]) * sign >= 0, "runs": runs, **more}


def digest_of(path, length):
    hashed, left = hashlib.sha256(), length
    with open(path, "rb") as file:
        while left > 0:
            piece = file.read(min(left, MIB))
            hashed.update(piece)
            left -= len(piece)
    return f"sha256:{hashed.hexdigest()}"
