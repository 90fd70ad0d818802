"""A bucket of MinIO as an engine, which the distribution registry reads for us."""

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request

from engines import Engine
from images import MANIFEST, check_graph, digest
from machine import Failed, run, until

USER, PASSWORD, BUCKET = "linkspan", "linkspan-secret", "soak"


def free_address():
    """A port of this host that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def get(url, accept="*/*"):
    """The body, or None where there is nothing."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise Failed(f"{url}: {error}") from None


def listens(url):
    try:
        urllib.request.urlopen(url, timeout=2).close()
        return True
    except OSError:
        return False


class Object(Engine):
    name = "object"

    def __init__(self, machine):
        super().__init__(machine)
        self.programs = []
        self.data, address, registry = machine.folder("minio"), free_address(), free_address()
        os.makedirs(os.path.join(self.data, BUCKET), exist_ok=True)
        self.start("minio", "server", "--quiet", "--address", address, self.data, MINIO_ROOT_USER=USER, MINIO_ROOT_PASSWORD=PASSWORD,
                   MINIO_BROWSER="off", MINIO_CI_CD="1", MINIO_UPDATE="off")
        until("minio", lambda: listens(f"http://{address}/minio/health/ready"))
        self.env.update(AWS_ACCESS_KEY_ID=USER, AWS_SECRET_ACCESS_KEY=PASSWORD, AWS_REGION="us-east-1",
                        AWS_ENDPOINT_URL=f"http://{address}", AWS_ALLOW_HTTP="true")
        config = os.path.join(machine.folder("registry"), "registry.yml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  s3: {{accesskey: {USER}, secretkey: {PASSWORD}, "
                      f"region: us-east-1, regionendpoint: \"http://{address}\", bucket: {BUCKET}, secure: false, forcepathstyle: true, "
                      f"rootdirectory: /p}}\nhttp: {{addr: \"{registry}\"}}\n")
        self.start("registry", "serve", config, OTEL_TRACES_EXPORTER="none")
        self.registry = f"http://{registry}/v2"
        until("the registry", lambda: listens(f"{self.registry}/"))

    def start(self, program, *words, **variables):
        path = shutil.which(program, path=self.stack.env["PATH"])
        if not path:
            raise Failed(f"{program} is not installed; hint: scripts/stack install")
        log = open(os.path.join(self.machine.folder("registry"), f"{program}.log"), "wb")
        process = subprocess.Popen([path, *words], env={**self.stack.env, **variables}, stdout=log, stderr=log)
        self.programs.append(process)

    @property
    def flags(self):
        return ["--engine", "object", "--object", f"s3://{BUCKET}/p"]

    def names(self):
        catalog = json.loads(get(f"{self.registry}/_catalog?n=1000") or b"{}").get("repositories", [])
        found = {}
        for repository in catalog:
            for tag in json.loads(get(f"{self.registry}/{repository}/tags/list") or b"{}").get("tags") or []:
                # Linkspan leaves out what docker adds to a short name.
                found[f"docker.io/library/{repository}:{tag}"] = self.tagged(repository, tag)
        return found

    def tagged(self, repository, tag):
        manifest = get(f"{self.registry}/{repository}/manifests/{tag}", MANIFEST)
        return digest(manifest) if manifest is not None else None

    def check(self, name, root):
        repository = name.rsplit(":", 1)[0]
        base = f"{self.registry}/{repository}"

        def read(blob):
            return get(f"{base}/manifests/{blob}", MANIFEST) if blob == root else get(f"{base}/blobs/{blob}")

        check_graph(root, read, f"the bucket's {name}")

    def remove(self, name):
        run(self.machine.binary, "rm", name, *self.flags, env=self.env)

    def left(self):
        """Leases, uploads without a digest, and multipart uploads, as MinIO keeps them."""
        found = []
        for top, _, files in os.walk(os.path.join(self.data, BUCKET, "p", "_linkspan")):
            key = os.path.relpath(top, os.path.join(self.data, BUCKET, "p"))
            if "xl.meta" in files and key.startswith(("_linkspan/leases/", "_linkspan/uploads/", "_linkspan/condemned/")):
                found.append(key)
        multipart = os.path.join(self.data, ".minio.sys", "multipart")
        for path in (os.path.join(multipart, name) for name in os.listdir(multipart)) if os.path.isdir(multipart) else ():
            found += [f"multipart upload {name}" for name in os.listdir(path)]
        return found + super().left()

    def close(self):
        for process in reversed(self.programs):
            process.kill()
            process.wait()
