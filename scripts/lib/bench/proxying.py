"""What it costs that a command goes through the docker door and is not looked into."""

import os
import time

from figures import ratio, take_turns
from machine import run, write
from statistics import median

COPIED_BYTES = 1_000_000_000


def proxy(bench, name):
    """`docker version`, and `docker cp` of 1 GB out of a container and into it."""
    named = {"linkspan": {**bench.stack.env, "DOCKER_HOST": bench.linkspan.docker}, "direct": bench.stack.env}
    container, file, outside = prepare(bench)

    def seconds(*command):
        def timed(env, _):
            started = time.monotonic()
            run(*command, env=env)
            return time.monotonic() - started
        return timed

    version = take_turns(max(bench.options.runs, 21), named, seconds("docker", "version"))
    out = take_turns(bench.options.runs, named, seconds("docker", "cp", "-q", f"{container}:/data", outside))
    into = take_turns(bench.options.runs, named, seconds("docker", "cp", "-q", file, f"{container}:/data"))
    run("docker", "rm", container, env=bench.stack.env)
    result = {"case": name, "size_bytes": COPIED_BYTES, "runs": bench.options.runs,
              "linkspan_peak_rss_bytes": bench.linkspan.peak_bytes()}
    for key, times in (("version", version), ("cp_out", out), ("cp_in", into)):
        for way, values in times.items():
            result[f"{key}_{way}_s"] = round(median(values), 4)
        result[f"{key}_direct_over_linkspan"] = ratio(times, "direct", "linkspan")
    result["version_added_ms"] = round((median(version["linkspan"]) - median(version["direct"])) * 1000, 2)
    return result


def prepare(bench):
    """A container that holds the file, the file, and a place outside to copy to."""
    folder, context = bench.folder("proxy"), bench.folder("proxy-context")
    file = os.path.join(folder, "data")
    run("dd", "if=/dev/urandom", f"of={file}", "bs=1000000", f"count={COPIED_BYTES // 1_000_000}")
    write(os.path.join(context, "Dockerfile"), 'FROM scratch\nCMD ["none"]\n')
    run("docker", "buildx", "build", "--builder", "default", "--load", "-t", "bench-proxy", context, env=bench.stack.env)
    container = run("docker", "create", "bench-proxy", env=bench.stack.env).strip()
    run("docker", "cp", "-q", file, f"{container}:/data", env=bench.stack.env)
    return container, file, os.path.join(folder, "out")
