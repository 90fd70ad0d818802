"""The exporter API, driven by `benches/export_api.rs`; `scripts/bench --help` tells what each case is."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median

from machine import ROOT, Program, run

MIB = 1 << 20
STREAM_MIB = 3072
SMALL_BLOBS = 10_000
# So many for each run of a comparison with `ctr`, which takes its time; both rates are per blob.
SMALL_COMPARED = 2000
# As many at a time as the client of `small` writes.
WRITES = 16

TARGETS = {
    "api-warm layout": 0.020, "api-warm docker": 0.100, "api-stream": 0.8, "api-small layout": 2000.0,
    "api-small containerd": 1.0, "api-memory": 64 * MIB,
}


def client(*words):
    """What the measuring client prints."""
    said = run("cargo", "bench", "--quiet", "--locked", "--bench", "export_api", "--", *map(str, words), cwd=ROOT)
    return json.loads(next(line for line in said.splitlines() if line.startswith("{")))


def start(bench, name, *engine):
    """A Linkspan with the door of the exporter API; its address."""
    address = f"unix://{bench.folder(name)}/export.sock"
    program = Program(bench.binary, ["serve", *engine, "--export-listen", address], bench.stack.env, bench.folder(name), [address])
    bench.closing.append(program.stop)
    return program, address


@contextmanager
def layout(bench, name, turn=0):
    """A Linkspan over a layout that was not there before and is deleted at the end."""
    folder = os.path.join(bench.work, f"{name}-layout-{turn}")
    shutil.rmtree(folder, ignore_errors=True)
    program, address = start(bench, name, "--engine", "layout", "--layout", folder)
    try:
        run("sync")  # what came before must not be written in our time
        yield program, address, folder
    finally:
        bench.stop(program)
        # One of large files goes at once. Many small ones stay to the end: where inodes were just deleted, the kernel
        # makes new files slowly.
        if turn == 0:
            shutil.rmtree(folder, ignore_errors=True)


def turns(bench, most=3):
    return range(min(bench.options.runs, most))


def result(name, measured, runs, is_reached, **more):
    return {"case": name, "measured": measured, "target": TARGETS[name], "reached": is_reached, "runs": runs, **more}


def rounded(values):
    return [round(value, 4) for value in values]


def api_warm(bench, _):
    """100 layers that the engine holds: on a layout and on Docker, in turns."""
    docker, docker_address = start(bench, "api-docker", "--engine", "docker", "--docker-host", bench.stack.env["DOCKER_HOST"])
    times = {"layout": [], "docker": []}
    with layout(bench, "api-warm") as (_, address, _):
        for _ in turns(bench):
            times["layout"].append(client(address, "warm")["seconds"])
            times["docker"].append(client(docker_address, "warm")["seconds"])
    bench.stop(docker)
    for engine, seconds in times.items():
        name = f"api-warm {engine}"
        yield result(name, round(median(seconds), 5), len(seconds), median(seconds) <= TARGETS[name], spread=rounded(seconds))


def api_stream(bench, name):
    """3 GB in 8 layers, until they are on the disk, against what hashing and the disk allow; in turns."""
    bench.need_space(STREAM_MIB * MIB * 2, "another TMPDIR")
    rates, hashed, written = [], [], []
    for _ in turns(bench):
        with layout(bench, name) as (_, address, _):
            rates.append(client(address, "stream", STREAM_MIB)["mib_per_second"])
        run("sync")
        floor = client(bench.folder("api-floor"), "floor", STREAM_MIB)
        hashed.append(floor["sha256_mib_per_second"])
        written.append(floor["disk_mib_per_second"])
    most = min(median(hashed), median(written))
    measured = median(rates) / most
    yield result(name, round(measured, 3), len(rates), measured >= TARGETS[name], mib_per_second=rounded(rates),
                 sha256_mib_per_second=rounded(hashed), disk_mib_per_second=rounded(written))


def api_small(bench, _):
    """10,000 blobs of 1 KiB to a layout, until they are on the disk; and to containerd, against `ctr content ingest`."""
    rates = []
    for turn in turns(bench):
        with layout(bench, "api-small", turn + 1) as (_, address, _):
            rates.append(client(address, "small-kept", SMALL_BLOBS)["blobs_per_second"])
    name = "api-small layout"
    yield result(name, round(median(rates), 1), len(rates), median(rates) >= TARGETS[name], spread=rounded(rates))

    program, address = start(bench, "api-containerd", "--engine", "containerd", "--namespace", "bench-api",
                             "--containerd-address", bench.stack.env["CONTAINERD_ADDRESS"])
    ours, theirs = [], []
    ways = [lambda turn: theirs.append(SMALL_COMPARED / ctr(bench, turn)),
            lambda _: ours.append(client(address, "small", SMALL_COMPARED)["blobs_per_second"])]
    for turn in turns(bench):
        for way in ways if turn % 2 else reversed(ways):  # what one leaves to the garbage collector falls on the other
            way(turn)
    bench.stop(program)
    name, measured = "api-small containerd", median(ours) / median(theirs)
    yield result(name, round(measured, 3), len(ours), measured >= TARGETS[name], blobs_per_second=rounded(ours), ctr_blobs_per_second=rounded(theirs))


def ctr(bench, turn):
    """Seconds of `ctr content ingest` for as many blobs, one process for each and as many at a time."""
    folder, blobs = bench.folder(f"ctr-{turn}"), []
    for number in range(SMALL_COMPARED):
        data = os.urandom(1024)
        blobs.append((os.path.join(folder, str(number)), hashlib.sha256(data).hexdigest()))
        with open(blobs[-1][0], "wb") as file:
            file.write(data)
    program = shutil.which("ctr", path=bench.stack.env["PATH"])
    run("sync")

    def ingest(blob):
        path, digest = blob
        with open(path, "rb") as data:
            subprocess.run([program, "-n", "bench-ctr", "content", "ingest", "--expected-digest", f"sha256:{digest}", "--expected-size", "1024", digest],
                           env=bench.stack.env, stdin=data, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    with ThreadPoolExecutor(WRITES) as workers:
        started = time.monotonic()
        list(workers.map(ingest, blobs))
        seconds = time.monotonic() - started
    shutil.rmtree(folder)
    return seconds


def api_memory(bench, name):
    """--memory-size GB in 8 layers to a layout, made as they are sent."""
    size = int(bench.options.memory_size * 1e9)
    bench.need_space(int(size * 1.1), "--memory-size")
    with layout(bench, name) as (program, address, _):
        streamed = client(address, "stream", size // MIB)
        peak = program.peak_bytes()
    yield result(name, peak, 1, peak <= TARGETS[name], size_bytes=streamed["bytes"], mib_per_second=round(streamed["mib_per_second"], 1))
