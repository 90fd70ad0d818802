"""Images into the nodes of a cluster of containers, as kind has them, beside what `kind load docker-image` does."""

import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from builds import Contender, LOAD
from figures import ratio, take_turns
from machine import run, write
from statistics import median

NODE_IMAGE = "local/node"
TARGET = 10
CONFIG = """version = 3
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
"""


class Cluster:
    """Two nodes that run the real containerd; no cluster can be pulled here."""

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        self.nodes = [f"{name}-control-plane", f"{name}-worker"]
        for node, role in zip(self.nodes, ("control-plane", "worker")):
            # kind has /var on a volume and /run in memory.
            self.docker("run", "-d", "--name", node, "--privileged", "--network", "none", "--tmpfs", "/run", "--volume", "/var",
                        "--label", f"io.x-k8s.kind.cluster={name}", "--label", f"io.x-k8s.kind.role={role}", NODE_IMAGE)
            bench.closing.append(lambda node=node: self.docker("rm", "--force", "--volumes", node, check=False))
        deadline = time.monotonic() + 60
        for node in self.nodes:
            while subprocess.run(["docker", "exec", node, "ctr", "version"], env=bench.stack.env, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, check=False).returncode:
                if time.monotonic() > deadline:
                    raise SystemExit(f"bench: error: containerd in {node} does not respond; see `docker logs {node}`")
                time.sleep(0.1)

    def docker(self, *arguments, check=True):
        return run("docker", *arguments, env=self.bench.stack.env, check=check)

    def load(self, image):
        """By Linkspan."""
        run(self.bench.binary, "load", image, "--to", f"kind://{self.name}", "--quiet", env=self.bench.stack.env)

    def kind_load(self, image):
        """A `docker save` into a temporary file, and an import of it in all nodes at once (kind, `pkg/cmd/kind/load`)."""
        with tempfile.TemporaryDirectory(dir=self.bench.work) as folder, ThreadPoolExecutor(len(self.nodes)) as workers:
            archive = os.path.join(folder, "images.tar")
            self.docker("save", "-o", archive, image)
            list(workers.map(lambda node: self.take(node, archive), self.nodes))

    def take(self, node, archive):
        with open(archive, "rb") as file:
            run("docker", "exec", "--privileged", "-i", node, "ctr", "--namespace=k8s.io", "images", "import", "--all-platforms", "--digests",
                "--snapshotter=overlayfs", "-", env=self.bench.stack.env, stdin=file)


def make_node_image(bench):
    """An image of the installed programs: there is nowhere to pull one from."""
    context = bench.folder("node-image")
    for program in ("containerd", "ctr", "containerd-shim-runc-v2", "runc"):
        shutil.copy(shutil.which(program, path=bench.stack.env["PATH"]), os.path.join(context, program))
    write(os.path.join(context, "config.toml"), CONFIG)
    os.makedirs(os.path.join(context, "tmp"))
    write(os.path.join(context, "Dockerfile"), "FROM scratch\nCOPY containerd ctr containerd-shim-runc-v2 runc /usr/bin/\n"
          "COPY config.toml /etc/containerd/config.toml\nCOPY --chmod=1777 tmp /tmp\nENV PATH=/usr/bin\n"
          'ENTRYPOINT ["containerd"]\n')
    run("docker", "buildx", "build", "--builder", "default", "--load", "-t", NODE_IMAGE, context, env=bench.stack.env)


def kind_edit(bench, name):
    """Two nodes that have the image; the last line of its Dockerfile changed. The build itself is not timed."""
    base, size = bench.base()
    bench.need_space(size * 5, "--size")
    make_node_image(bench)
    ways = {"linkspan": Cluster.load, "kind": Cluster.kind_load}
    contenders = {way: (Contender(bench, f"kind-{way}", "linkspan", LOAD, base), Cluster(bench, way), ways[way]) for way in ways}

    def measure(contender, turn):
        image, cluster, load = contender
        image.edit(f"edit {turn}")
        image.build()
        run("sync")
        started = time.monotonic()
        load(cluster, f"bench-{image.name}")
        return time.monotonic() - started

    for contender in contenders.values():
        measure(contender, "first")
    times = take_turns(bench.options.runs, contenders, measure)
    measured = ratio(times, "kind", "linkspan")
    yield {"case": name, "measured": measured, "target": TARGET, "reached": measured >= TARGET, "runs": bench.options.runs, "size_bytes": size,
           "cluster_s": {way: round(median(values), 4) for way, values in times.items()},
           "spread_s": {way: [round(min(values), 4), round(max(values), 4)] for way, values in times.items()}}
