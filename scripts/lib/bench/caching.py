"""Caches: Linkspan's `type=linkspan` beside BuildKit's `type=local` and `type=registry`.

All contenders build the same image with the same builder, through Linkspan's door, so that only the cache differs. The floor is the same
build without a cache.
"""

import copy
import os
import shutil
from statistics import median
import time

from builds import prepared, remote
from figures import take_turns
from machine import run


class Cache:
    """One type of cache, with everything that it has stored."""

    def __init__(self, bench, contender, kind):
        self.bench, self.contender, self.kind, self.number = bench, contender, kind, 0
        self.folder = os.path.join(bench.folder("caches"), "local")
        self.builder = "linkspan"

    def to(self):
        return {
            "linkspan": ["--cache-to", f"type=linkspan,ref=bench{self.number},mode=max"],
            "local": ["--cache-to", f"type=local,dest={self.folder},mode=max"],
            "registry": ["--cache-to", f"type=registry,ref={self.repository()},mode=max"],
            "floor": [],
        }[self.kind]

    def from_(self):
        return {
            "linkspan": ["--cache-from", f"type=linkspan,ref=bench{self.number}"],
            "local": ["--cache-from", f"type=local,src={self.folder}"],
            "registry": ["--cache-from", f"type=registry,ref={self.repository()}"],
            "floor": [],
        }[self.kind]

    def repository(self):
        return f"{self.bench.stack.env['LINKSPAN_REGISTRY']}/bench-cache-{self.number}:1"

    def forget(self):
        """The next export writes to nothing."""
        if self.kind == "linkspan":
            engine = ["--engine", "docker", "--docker-host", self.bench.stack.env["DOCKER_HOST"],
                      "--containerd-address", self.bench.stack.env["CONTAINERD_ADDRESS"]]
            run(self.bench.binary, "cache", "rm", f"bench{self.number}", *engine)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.number += 1

    def build(self, *arguments):
        """Seconds of the whole command."""
        started = time.monotonic()
        run("docker", "buildx", "build", "--builder", self.builder, "-q", "--network", "host", *arguments,
            self.contender.context, env=self.bench.stack.env)
        return time.monotonic() - started


NOTHING, LOAD = ["-o", "type=cacheonly"], ["--load", "-t", "bench-cached"]


def caches(bench, kinds):
    named, size, linkspan = prepared(bench, remote)
    found = {kind: Cache(bench, named["linkspan"], kind) for kind in kinds}
    for cache in found.values():
        cache.build(*NOTHING, *cache.to())
    return found, size, linkspan


def result(name, size, times, linkspan, target, **more):
    """Medians of whole commands, and of each cache's own share: what it takes more than the build without a cache."""
    medians = {kind: round(median(values), 4) for kind, values in times.items()}
    share = {kind: round(medians[kind] - medians["floor"], 4) for kind in times if kind != "floor"}
    return {"case": name, "size_bytes": size, "runs": max(map(len, times.values())), "cache_s": medians, "share_s": share,
            "spread_s": {kind: [round(min(v), 4), round(max(v), 4)] for kind, v in times.items()},
            "peak_rss_bytes": linkspan.peak_bytes(), "cache_target": target, **more}


def export_warm(bench, name):
    """Nothing has changed."""
    found, size, linkspan = caches(bench, ("linkspan", "local", "registry", "floor"))
    times = take_turns(bench.options.runs, found, lambda cache, _: cache.build(*NOTHING, *cache.to()))
    return result(name, size, times, linkspan, "the share of type=local is >= 3 times Linkspan's")


def export_first(bench, name):
    """To a cache, a folder and a repository that are new. The engine has none of the layers; the registry has those of the base."""
    found, size, linkspan = caches(bench, ("linkspan", "local", "registry", "floor"))

    def export(cache, _):
        cache.forget()
        empty_engine(bench)
        return cache.build(*NOTHING, *cache.to())

    times = take_turns(min(bench.options.runs, 3), found, export)
    for contender in bench.prepared.pop(remote)[0].values():
        shutil.rmtree(contender.context)
    return result(name, size, times, linkspan, "the shares of type=local and type=registry are >= 2 times Linkspan's")


def empty_engine(bench):
    """Nothing is left of what its images, its own builder and its caches shared."""
    env = bench.stack.env
    run("docker", "buildx", "prune", "--builder", "default", "--all", "--force", env=env)
    run("docker", "system", "prune", "--all", "--force", env=env)
    run("ctr", "-n", "moby", "leases", "create", "--id", "bench-collect", env=env)
    run("ctr", "-n", "moby", "leases", "delete", "--sync", "bench-collect", env=env)


def import_fresh(bench, name):
    """Into a builder that has nothing, all steps cached, then `--load`."""
    found, size, linkspan = caches(bench, ("linkspan", "local", "registry"))
    # The same cache through another Linkspan, whose imports are lazy.
    settings = ["--cache-lazy-import"]
    bench.builder("lazy", bench.start_linkspan(bench.stack, bench.folder("lazy"), settings=settings).socket)
    found["lazy"] = copy.copy(found["linkspan"])
    found["lazy"].builder = "lazy"

    def build(cache, _):
        run("docker", "buildx", "prune", "--builder", "linkspan", "--all", "--force", env=bench.stack.env)
        return cache.build(*LOAD, *cache.from_())

    times = take_turns(min(bench.options.runs, 3), found, build)
    return result(name, size, {**times, "floor": [0.0]}, linkspan, "type=local takes >= 1.3 times, type=registry >= 0.9 times as long; type=local >= 2 times as long as lazy imports")


def import_noop(bench, name):
    """Into a builder that has everything."""
    found, size, linkspan = caches(bench, ("linkspan", "floor"))
    times = take_turns(bench.options.runs, found, lambda cache, _: cache.build(*LOAD, *cache.from_()))
    return result(name, size, times, linkspan, "Linkspan's share is <= 40 ms")
