"""`docker load` through the docker door, against the engine's own."""

import os
import subprocess
import time

from builds import Contender
from figures import figures, take_turns
from machine import drop_caches, fresh_engine, run, stream_archive


def archive(bench):
    """An OCI archive of the base image and a small application, its layers not compressed: as large as its files."""
    path = os.path.join(bench.work, "archive.tar")
    if not os.path.exists(path):
        base, size = bench.base()
        bench.need_space(size * 3, "--size")
        maker = Contender(bench, "archive", "tar", [
            "--provenance=false", "--output", f"type=oci,dest={path},compression=uncompressed,force-compression=true"], base)
        maker.build()
    return path, os.path.getsize(path)


def load(env, path):
    started = time.monotonic()
    run("docker", "load", "-q", "-i", path, env=env)
    return time.monotonic() - started


def ways(engine, linkspan):
    """`tar` is the engine's own load."""
    return {"linkspan": {**engine.env, "DOCKER_HOST": linkspan.docker}, "tar": engine.env}


def load_warm(bench, name):
    """Everything in the archive is present."""
    path, size = archive(bench)
    named = ways(bench.stack, bench.linkspan)
    for env in named.values():
        load(env, path)
    times = take_turns(bench.options.runs, named, lambda env, _: load(env, path))
    return figures(name, size, times, bench.linkspan.peak_bytes())


def load_cold(bench, name):
    """Nothing in the archive is present, on an engine that has seen nothing."""
    path, size = archive(bench)
    times, peaks = {"linkspan": [], "tar": []}, []
    for turn in range(min(bench.options.runs, 3)):
        for way in ("linkspan", "tar") if turn % 2 else ("tar", "linkspan"):
            with fresh_engine(bench, int(size * 4 + 4e9)) as engine:
                linkspan = bench.start_linkspan(engine, bench.folder("load-linkspan"))
                drop_caches()
                times[way].append(load(ways(engine, linkspan)[way], path))
                if way == "linkspan":
                    peaks.append(linkspan.peak_bytes())
                bench.stop(linkspan)
    return figures(name, size, times, max(peaks))


def load_memory(bench, name):
    """An archive of --memory-size GB made as it is sent: half of it layers that are present, half of it others."""
    path, _ = archive(bench)
    load(bench.stack.env, path)
    size = int(bench.options.memory_size * 1e9)
    linkspan = bench.start_linkspan(bench.stack, bench.folder("load-memory-linkspan"))
    started = time.monotonic()
    loading = subprocess.Popen(["docker", "load", "-q"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={**bench.stack.env, "DOCKER_HOST": linkspan.docker})
    stream_archive(loading.stdin, path, size)
    said, _ = loading.communicate()
    if loading.returncode != 0:
        raise SystemExit(f"bench: error: docker load failed: {said.decode()}")
    return figures(name, size, {"linkspan": [time.monotonic() - started]}, linkspan.peak_bytes())
