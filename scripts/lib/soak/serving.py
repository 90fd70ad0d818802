"""`linkspan serve` in front of an engine, and the ways by which an image goes into it."""

import json
import os
import random
import subprocess
from itertools import count

from images import Image, noise, shell
from machine import Command, Failed, until

NUMBERS = count()


class Server:
    """A daemon with all doors that its engine has."""

    def __init__(self, machine, engine, builder=None, settings=(), registry=None):
        self.machine, self.engine = machine, engine
        self.folder = machine.folder(f"doors-{engine.name}")
        self.sockets = {"build": f"{self.folder}/buildkit.sock"}
        arguments = [*engine.flags, "--builder", builder or engine.env["BUILDKIT_HOST"], "--buildkit-listen", f"unix://{self.sockets['build']}"]
        if "export" in engine.ways:
            self.sockets["export"] = f"{self.folder}/export.sock"
            arguments += ["--export-listen", f"unix://{self.sockets['export']}"]
        if "docker-load" in engine.ways:
            self.sockets["docker-load"] = f"{self.folder}/docker.sock"
            arguments += ["--docker-listen", f"unix://{self.sockets['docker-load']}"]
        if registry:
            arguments += ["--registry-listen", f"tcp://{registry}"]
        self.command = [machine.binary, "serve", *arguments, *settings]
        self.log = f"{self.folder}/linkspan.log"
        self.process = None
        machine.closing.append(self.stop)
        self.start()

    def start(self):
        for path in self.sockets.values():
            if os.path.exists(path):
                os.unlink(path)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, env=self.engine.env, stdout=log, stderr=log)
        until(f"linkspan to listen, see {self.log}", lambda: self.has_ended() or all(map(os.path.exists, self.sockets.values())))
        if self.has_ended():
            raise Failed(f"linkspan ended with {self.process.returncode} at its start:\n{self.last_words()}")

    def has_ended(self):
        return self.process.poll() is not None

    def last_words(self, size=3000):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()[-size:]

    def kill(self):
        """SIGKILL, in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()

    def check_log(self):
        """No task of it may have panicked."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            for line in log:
                if "panicked" in line:
                    raise Failed(f"linkspan panicked: {line}\nsee {self.log}")

    def stop(self):
        if self.process and not self.has_ended():
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise Failed(f"linkspan did not end within 60 s of SIGTERM:\n{self.last_words()}") from None


class Work:
    """An image to be loaded, and how: `start` begins it and `digest` says what the engine then has under its names."""

    def __init__(self, machine, engine, way, names, seed, size, shared=()):
        self.machine, self.engine, self.way, self.names = machine, engine, way, names
        self.line, self.seed, self.size = f"line {seed} {way}", seed, size
        self.folder = machine.folder("work", str(next(NUMBERS)))
        self.image = None
        if way == "build":
            self.context()
        else:
            self.image = Image(names, self.line, [shell(), *shared, noise(seed, size), noise(f"{seed}-second", size // 4)])
            self.archive = self.image.write(os.path.join(self.folder, "image.tar"))
            self.image.blobs = {}  # only their digest is needed from now on

    def context(self):
        """A build of the same layers."""
        files = {"line": self.line.encode() + b"\n", "noise": random.Random(f"noise {self.seed}").randbytes(self.size)}
        with open("/bin/busybox" if os.path.exists("/bin/busybox") else "/usr/bin/busybox", "rb") as busybox:
            files["busybox"] = busybox.read()
        files["Dockerfile"] = (b"FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nCOPY --chmod=755 busybox /bin/cat\nCOPY noise /noise\n"
                               b"COPY line /line\nCMD [\"/bin/cat\", \"/line\"]\n")
        for name, data in files.items():
            with open(os.path.join(self.folder, name), "wb") as out:
                out.write(data)

    def start(self, server=None):
        binary, env = self.machine.binary, self.engine.env
        if self.way == "command":
            return Command(binary, "load", "-q", "-i", self.archive, *self.engine.flags, env=env)
        if self.way == "export":
            return Command(binary, "load", "-q", "-i", self.archive, "--to", f"unix://{server.sockets['export']}", env=env)
        if self.way == "docker-load":
            return Command("docker", "load", "-q", "-i", self.archive, env={**env, "DOCKER_HOST": f"unix://{server.sockets['docker-load']}"})
        names = ",".join(self.names)
        return Command("buildctl", "--addr", f"unix://{server.sockets['build']}", "build", "--progress=plain", "--frontend", "dockerfile.v0",
                       "--local", f"context={self.folder}", "--local", f"dockerfile={self.folder}", "--metadata-file", f"{self.folder}/metadata",
                       "--output", f'type=linkspan,"name={names}"', env=env)

    @property
    def digest(self):
        """That of the image, once it is known: a builder says it at the end."""
        if self.image:
            return self.image.digest
        try:
            with open(f"{self.folder}/metadata", encoding="utf-8") as file:
                return json.load(file)["containerimage.digest"]
        except (FileNotFoundError, ValueError):
            return None

    def clean(self):
        self.machine.clear(self.folder)
