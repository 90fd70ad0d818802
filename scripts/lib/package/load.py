"""Clients that work all the time, and count what becomes of their requests."""

import contextlib
import hashlib
import http.client
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
import time

# Long enough for a restart that waits for requests under way; a request that takes longer is lost.
LIMIT = 120
# How many restarts in a row may meet one export.
RESUMES = 4
REFUSED = (ConnectionRefusedError, FileNotFoundError, BlockingIOError)


class Refused(Exception):
    """Nobody listened."""


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("docker", timeout=LIMIT)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT)
        try:
            self.sock.connect(self.path)
        except REFUSED as error:
            raise Refused(str(error)) from error


def image(name):
    """An archive of an image with one small layer, as docker's older format has it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        member = tarfile.TarInfo("file")
        member.size = 1 << 20
        tar.addfile(member, io.BytesIO(os.urandom(member.size)))
    layer = layer.getvalue()
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}})
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member_name, text in (("layer.tar", layer), ("config.json", config.encode()), ("manifest.json", manifest.encode())):
            member = tarfile.TarInfo(member_name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return out.getvalue()


class Load:
    """Clients of a docker door and of an export door, until it is stopped."""

    KINDS = ("ping", "kept", "save", "load", "version", "exported")

    def __init__(self, docker, export, linkspan, archive, clients):
        self.docker, self.export, self.linkspan, self.archive = docker, export, linkspan, archive
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.done = {}
        self.refused = []
        self.lost = []
        self.again = 0
        self.resumed = 0
        self.longest = 0.0
        kinds = [getattr(self, kind) for kind in self.KINDS]
        self.threads = [threading.Thread(target=self.client, args=(kinds[at % len(kinds)],)) for at in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(2 * LIMIT)
            if thread.is_alive():
                self.lost.append("a client did not end")

    def client(self, kind):
        keep = {}
        while not self.over.is_set():
            begun = time.monotonic()
            try:
                kind(keep)
            except Refused as error:
                with self.lock:
                    self.refused.append(f"{kind.__name__}: {error}")
                # Not as fast as it can.
                time.sleep(0.05)
            except Exception as error:  # whatever it is, there was no response
                keep.clear()
                with self.lock:
                    self.lost.append(f"{kind.__name__}: {error!r}")
                time.sleep(0.05)
            else:
                with self.lock:
                    self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1
                    self.longest = max(self.longest, time.monotonic() - begun)

    def each(self):
        with self.lock:
            return {kind: self.done.get(kind, 0) for kind in self.KINDS}

    def total(self):
        with self.lock:
            return sum(self.done.values())

    def ask(self, method, path, body=None):
        connection = Connection(self.docker)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/x-tar"} if body else {})
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise ValueError(f"{path}: {response.status} {text[:200]!r}")
            return text

    def ping(self, _):
        """A connection for each request."""
        if self.ask("GET", "/_ping") != b"OK":
            raise ValueError("no OK")

    def kept(self, keep):
        """One connection for many requests, as docker's clients have it: when the server closes one that is idle, Go's
        HTTP client repeats what was not answered at all."""
        is_new = "connection" not in keep
        connection = keep.setdefault("connection", Connection(self.docker))
        try:
            connection.request("GET", "/version")
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            connection.close()
            keep.clear()
            if is_new:
                raise
            with self.lock:
                self.again += 1
            return self.kept(keep)
        if b"ApiVersion" not in response.read():
            raise ValueError("no version")
        if response.will_close:
            connection.close()
            keep.clear()
        return None

    def save(self, _):
        """A stream from the engine, whole."""
        text = self.ask("GET", "/images/linkspan-test:1/get")
        with tarfile.open(fileobj=io.BytesIO(text)) as tar:
            if "manifest.json" not in tar.getnames():
                raise ValueError("no manifest")

    def load(self, _):
        """A stream to the engine, which Linkspan reads."""
        if b"Loaded image" not in self.ask("POST", "/images/load?quiet=1", self.archive):
            raise ValueError("nothing was loaded")

    def program(self, *command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=2 * LIMIT, check=False)
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            is_refused = "refused" in text or "No such file" in text or "Is the docker daemon running" in text
            raise (Refused if is_refused else ValueError)(text.strip())

    def version(self, _):
        """docker's own client."""
        self.program("docker", "-H", f"unix://{self.docker}", "version")

    def exported(self, _):
        """An export through the exporter API, by a client of its own. It is several calls; where the server ends between two of
        them, and the client says so, the command goes on with the same export when it is repeated."""
        path = os.path.join(os.path.dirname(self.linkspan), "image.tar")
        command = (self.linkspan, "load", "--to", f"unix://{self.export}", "-i", path)
        for _ in range(RESUMES):
            try:
                return self.program(*command)
            except ValueError as error:
                if "went away" not in str(error):
                    raise
                with self.lock:
                    self.resumed += 1
        return self.program(*command)

    def figures(self):
        with self.lock:
            return {
                "requests": dict(sorted(self.done.items())),
                "refused": len(self.refused),
                "lost": len(self.lost),
                "repeated_on_idle_connections": self.again,
                "resumed_exports": self.resumed,
                "longest_seconds": round(self.longest, 2),
                "failures": (self.refused + self.lost)[:5],
            }
