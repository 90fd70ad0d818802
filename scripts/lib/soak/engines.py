"""The engines that images are exported into, and how to see, without Linkspan, what is in them."""

import json
import os
import re

from images import check_graph, full
from machine import Failed, run

# What Linkspan stores under its own leases has keys that begin so.
OURS = "linkspan-"
# Our unfinished snapshots; dockerd's and containerd's own have four letters behind the time.
UNFINISHED = re.compile(r"extract-\d+-[0-9a-f]+\.[0-9a-f]+")


def read_file(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def entries(folder):
    """Every file below a folder, by its path in it."""
    return sorted(os.path.relpath(os.path.join(top, name), folder) for top, _, names in os.walk(folder) for name in names)


class Engine:
    """One engine. `ways` are those of `serving.py` that reach it."""

    parts = ()
    ways = ("command", "export", "build")
    # A command that only looks, before which what dead processes left is released.
    next_command = ("images",)

    def __init__(self, machine):
        self.machine = machine
        self.stack = machine.stack("buildkitd", *self.parts)
        self.env = {**self.stack.env, "TMPDIR": self.stack.temporary}

    def runs(self, name, image):
        """Fails unless a container of the image prints its line."""

    def left(self):
        """What belongs to no process that lives: leases, ingests, unfinished snapshots, files."""
        return [f"temporary file {name}" for name in entries(self.stack.temporary)]

    def close(self):
        pass


class Containerd(Engine):
    name, parts, namespace = "containerd", ("containerd",), "soak"

    @property
    def flags(self):
        return ["--engine", "containerd", "--containerd-address", self.env["CONTAINERD_ADDRESS"], "--namespace", self.namespace]

    def ctr(self, *words, check=True):
        return self.stack.ctr(self.namespace, *words, check=check)

    def rows(self, *words):
        return [line.split() for line in self.ctr(*words).output.splitlines()[1:] if line.strip()]

    def names(self):
        return {row[0]: row[2] for row in self.rows("images", "ls")}

    def check(self, name, digest):
        check_graph(digest, lambda blob: read_file(self.stack.blob(blob)), f"{self.name}'s {name}")
        said = self.ctr("images", "check", f"name=={full(name)}").output
        if "complete" not in said or not said.rstrip().endswith("true"):
            raise Failed(f"half an image: {name} is not complete or not unpacked:\n{said}")

    def runs(self, name, image):
        # `ctr` loses the words of a container that ends before its pipes were opened.
        for attempt in range(20):
            said = self.ctr("run", "--rm", full(name), f"soak-{os.getpid()}-{attempt}-{abs(hash(name)) % 10 ** 6}", check=attempt == 19).output
            if image.line in said:
                return
        raise Failed(f"a container of {name} printed {said!r} and not {image.line!r}")

    def remove(self, name):
        self.ctr("images", "rm", full(name))

    def left(self):
        leases = self.ctr("leases", "ls", "-q").output.split()
        found = [f"lease {lease}" for lease in leases if lease.startswith(OURS)]
        found += [f"ingest {row[0]}" for row in self.rows("content", "active") if row[0].startswith(OURS)]
        found += [f"snapshot {row[0]}" for row in self.rows("snapshots", "ls") if UNFINISHED.fullmatch(row[0])]
        return found + super().left()


class Docker(Containerd):
    name, parts, namespace = "docker", ("containerd", "dockerd"), "moby"
    ways = ("command", "export", "build", "docker-load")
    host = "DOCKER_HOST"

    @property
    def flags(self):
        return ["--engine", self.name, "--docker-host", self.env[self.host]]

    def docker(self, *words, check=True):
        return run("docker", *words, env={**self.env, "DOCKER_HOST": self.env[self.host]}, check=check)

    def runs(self, name, image):
        said = self.docker("run", "--rm", "--network", "none", "--pull", "never", name).output
        if said.strip() != image.line:
            raise Failed(f"a container of {name} printed {said!r} and not {image.line!r}")

    def remove(self, name):
        self.docker("rmi", "-f", name)


class DockerApi(Docker):
    name, ways = "docker-api", ("command", "export", "build")

    @property
    def folder(self):
        return self.machine.folder("docker-api-cache")

    @property
    def flags(self):
        return [*super().flags, "--cache-dir", self.folder]

    def left(self):
        """A layout keeps parts of blobs for an hour, and nobody takes up those that dockerd got from the load that was killed."""
        there = {row[0].replace(":", "-") for row in self.rows("content", "ls")}
        is_there = lambda one: one.startswith("ingest ") and one.removeprefix("ingest ").split(".")[0] in there
        return super().left() + [one for one in layout_left(self.folder) if not is_there(one)]


class DockerClassic(Docker):
    name, parts, host = "docker-classic", ("containerd", "dockerd-classic"), "LINKSPAN_DOCKER_CLASSIC_HOST"
    ways, next_command = ("command", "build"), ("cache", "ls")

    @property
    def flags(self):
        return [*super().flags, "--cache-dir", self.machine.folder("docker-classic-cache")]

    def names(self):
        rows = [line.split() for line in self.docker("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").output.splitlines()]
        return {full(row[0]): row[1] for row in rows if "<none>" not in row[0]}

    def check(self, name, digest):
        """A classic store keeps no blobs; what its image prints is looked at by `runs`."""

    def left(self):
        """What dockerd unpacks an archive into, too."""
        found = [f"dockerd's {name}" for name in entries(os.path.join(self.stack.state, "classic", "tmp"))]
        return found + Engine.left(self) + layout_left(self.machine.folder("docker-classic-cache"))


def layout_left(folder):
    """What Linkspan keeps in a layout beside the image: leases, and blobs that are not complete."""
    own = os.path.join(folder, ".linkspan")
    return [f"{part} {name}" for part in ("leases", "ingest") for name in entries(os.path.join(own, part))]


class Layout(Engine):
    name = "layout"

    @property
    def folder(self):
        return self.machine.folder("layout")

    @property
    def flags(self):
        return ["--engine", "layout", "--layout", self.folder]

    def names(self):
        index = json.loads(read_file(os.path.join(self.folder, "index.json")) or b"{}")
        named = ((entry.get("annotations", {}).get("io.containerd.image.name"), entry["digest"]) for entry in index.get("manifests", []))
        return {name: digest for name, digest in named if name}

    def check(self, name, digest):
        check_graph(digest, lambda blob: read_file(os.path.join(self.folder, "blobs", *blob.split(":"))), f"the layout's {name}")

    def remove(self, name):
        run(self.machine.binary, "rm", name, *self.flags, env=self.env)

    def left(self):
        return super().left() + layout_left(self.folder)
