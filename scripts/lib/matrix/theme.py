"""What is tried of a pair of versions: each step yields its name and `ok`, or what differs."""

import os
import re

from engines import Containerd, Docker, DockerClassic
from images import full
from machine import Failed, run
from serving import Server, Work

NAME = "matrix:1"


def attempted(step, work):
    """One step: what it fails with is its outcome, and the next one is tried all the same."""
    try:
        return step, work() or "ok"
    except Failed as failed:
        return step, str(failed)


def check_versions(engine, pair):
    """That what runs is what the row says."""
    said = {"containerd": engine.stack.ctr("default", "version").output.split("Server:")[1],
            "buildkit": run("buildctl", "--addr", engine.env["BUILDKIT_HOST"], "debug", "info", env=engine.env).output,
            "buildx": run("docker-buildx", "version", env=engine.env).output}
    if hasattr(engine, "host"):
        said["docker"] = engine.docker("version", "--format", "v{{.Server.Version}}").output
    for name, words in said.items():
        if not re.search(rf"\bv?{re.escape(pair[name])}\.", words):
            raise Failed(f"{name} is not {pair[name]}: {words}")


class Builds:
    """`docker buildx build --load` of one context through Linkspan and past it."""

    def __init__(self, machine, engine, server):
        self.machine, self.engine, self.server = machine, engine, server
        self.work = Work(machine, engine, "build", [NAME], "matrix", 1 << 20)
        # Plugins are found where the stack's docker looks for them.
        self.env = {**engine.env, "DOCKER_HOST": engine.env[engine.host]}
        for name, address in (("direct", engine.env["BUILDKIT_HOST"]), ("through", f"unix://{server.sockets['build']}")):
            run("docker-buildx", "create", "--name", name, "--driver", "remote", address, env=self.env)

    def build(self, builder, tag):
        """The image's id, and what its container prints."""
        run("docker-buildx", "build", "--builder", builder, "--load", "--provenance=false", "-t", tag, self.work.folder, env=self.env)
        image = self.engine.docker("image", "inspect", "--format", "{{.Id}}", tag).output.strip()
        return image, self.engine.docker("run", "--rm", "--network", "none", tag).output

    def exports(self):
        """How many exports the daemon has logged."""
        with open(self.server.log, encoding="utf-8", errors="replace") as log:
            return sum("linkspan::export::report: exported" in line for line in log)

    def compared(self, tag):
        before = self.exports()
        ours = self.build("through", tag)
        if self.exports() == before:
            raise Failed("it passed as without Linkspan: not a direct export")
        theirs = self.build("direct", f"{tag}-direct")
        if ours != theirs:
            raise Failed(f"{ours} and not {theirs}")

    def edited(self):
        with open(os.path.join(self.work.folder, "line"), "w", encoding="ascii") as out:
            out.write("another line\n")
        self.compared("matrix:edit")


def docker(machine, pair, kind=Docker):
    """All steps, on Docker."""
    engine = kind(machine)
    check_versions(engine, pair)
    # Loads that do not say on the wire that they are loads: of older clients, and into a classic store.
    plain = kind is DockerClassic or tuple(map(int, pair["buildx"].split("."))) < (0, 24)
    door = f"{machine.folder('doors-' + engine.name)}/extra-docker.sock"
    settings = ["--plain-is-load"] if plain else []
    if kind is DockerClassic:
        settings += ["--docker-listen", f"unix://{door}"]
    server = Server(machine, engine, settings=settings)
    server.sockets.setdefault("docker-load", door)
    builds = Builds(machine, engine, server)
    yield attempted("cold", lambda: builds.compared("matrix:cold"))
    yield attempted("warm", lambda: builds.compared("matrix:cold"))
    yield attempted("edit", builds.edited)

    def loaded():
        archive = os.path.join(machine.work, "saved.tar")
        engine.docker("save", "-o", archive, "matrix:cold")
        engine.docker("rmi", "-f", "matrix:cold", "matrix:cold-direct")
        run("docker", "load", "-q", "-i", archive, env={**builds.env, "DOCKER_HOST": f"unix://{server.sockets['docker-load']}"})
        engine.runs("matrix:cold", builds.work)

    yield attempted("docker load", loaded)
    yield attempted("exporter API", lambda: api(machine, engine, server))
    server.check_log()


def api(machine, engine, server):
    """`linkspan load`, through the exporter API where the engine has it."""
    way = "export" if "export" in engine.ways else "command"
    work = Work(machine, engine, way, ["matrix-api:1"], "matrix api", 1 << 20)
    ended = work.start(server).wait()
    if ended.code != 0:
        raise Failed(str(ended))
    engine.check(work.names[0], work.digest)
    engine.runs(work.names[0], work)
    return "ok" if way == "export" else "ok (`linkspan load`)"


def containerd(machine, pair):
    """Builds of `type=linkspan`, and the exporter API."""
    engine = Containerd(machine)
    check_versions(engine, pair)
    server = Server(machine, engine)
    work = Work(machine, engine, "build", [NAME], "matrix", 1 << 20)

    def built():
        ended = work.start(server).wait()
        if ended.code != 0:
            raise Failed(str(ended))
        if engine.names()[full(NAME)] != work.digest:
            raise Failed(f"{NAME} is {engine.names()[full(NAME)]} and not {work.digest}")
        engine.check(NAME, work.digest)
        engine.runs(NAME, work)

    def edited():
        work.line = "another line"
        with open(os.path.join(work.folder, "line"), "w", encoding="ascii") as out:
            out.write("another line\n")
        built()

    yield attempted("cold", built)
    yield attempted("warm", built)
    yield attempted("edit", edited)
    yield "docker load", "-"
    yield attempted("exporter API", lambda: api(machine, engine, server))
    server.check_log()


THEMES = {"docker": docker, "docker-classic": lambda machine, pair: docker(machine, pair, DockerClassic), "containerd": containerd}
