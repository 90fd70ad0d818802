"""Images made by hand: what is in them is known, so that an engine's copy can be compared byte by byte."""

import hashlib
import io
import json
import random
import shutil
import tarfile

from machine import Failed

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def archive(files, links=()):
    """A tar archive of these files, which are executable."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return out.getvalue()


def shell():
    """busybox as a shell: the layer that all images share."""
    path = shutil.which("busybox")
    if not path:
        raise Failed("busybox is not on PATH; hint: scripts/stack install")
    with open(path, "rb") as file:
        return archive({"bin/busybox": file.read()}, [("bin/sh", "busybox"), ("bin/cat", "busybox")])


class Image:
    """An image whose container prints its line."""

    def __init__(self, names, line, layers):
        self.names, self.line = names, line
        self.blobs = {}
        own = archive({"line": line.encode() + b"\n"})
        described = [self.keep(data, LAYER) for data in [*layers, own]]
        config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/cat", "/line"], "Env": ["PATH=/bin"]},
                  "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in described]}}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.keep(json.dumps(config).encode(), CONFIG), "layers": described}
        self.root = self.keep(json.dumps(manifest).encode(), MANIFEST)

    def keep(self, data, kind):
        self.blobs[digest(data)] = data
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    @property
    def digest(self):
        return self.root["digest"]

    def write(self, path):
        """An OCI archive that names the image, as buildx writes it."""
        entries = []
        for name in self.names:
            annotations = {"io.containerd.image.name": full(name), "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}
            entries.append({**self.root, "annotations": annotations})
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()}
        files.update({f"blobs/sha256/{name.removeprefix('sha256:')}": data for name, data in self.blobs.items()})
        with open(path, "wb") as out:
            out.write(archive(files))
        return path


def full(name):
    return f"docker.io/library/{name}"


def noise(seed, size):
    """A layer that no other image has."""
    return archive({f"noise-{seed}": random.Random(f"noise {seed}").randbytes(size)})


def children(document):
    """The digests that an index or a manifest names; an image's config has a `config` as well, of another kind."""
    found = [*document.get("manifests", []), *document.get("layers", []), document.get("config") or {}]
    return [child["digest"] for child in found if "digest" in child]


def check_graph(root, read, holder):
    """Fails unless everything below `root` is there and is what its digest says; `read` returns None for what is missing."""
    todo, seen = [root], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        data = read(name)
        if data is None:
            raise Failed(f"half an image: {holder} lacks {name}")
        if digest(data) != name:
            raise Failed(f"a wrong blob: {holder} has other bytes as {name}")
        # Only documents are short JSON objects.
        if len(data) < 1 << 20 and data[:1] == b"{":
            try:
                todo.extend(children(json.loads(data)))
            except ValueError:
                pass
