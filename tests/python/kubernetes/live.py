"""The chart's pods on a real containerd, with real clients.

usage: live.py WORK    WORK is an empty folder; see `Cluster` for the environment
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from chart import KUBERNETES, ROOT, documents, pods
from pod import Pod, docker, until

PASSWORD = "ci:$2b$05$/M1WL7v3Giwzg1RSy4wUfO8krkbaiSCnWZEfwv3IEiuxP2/UFoCR2\n"  # secret
START = time.monotonic()
HOSTS = "_default,registry.other"


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def linked(binary):
    """What a dynamically linked program needs of this machine."""
    out = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True, timeout=60).stdout
    return re.findall(r"(/\S+) \(0x", out)


class Cluster:
    """One node, whose containerd is NODE_STATE's. Its kubelet is the docker of DOCKER_HOST."""

    def __init__(self, work):
        self.work = pathlib.Path(work)
        self.linkspan = os.environ["LINKSPAN"]
        self.node = pathlib.Path(os.environ["NODE_STATE"])
        self.certs = self.work / "linkspan-keys"  # README's, with `work` as the home
        self.secrets = {}
        self.images = {
            "linkspan": self.linkspan_image("linkspan:kubernetes"),
            "busybox": self.image("busybox:kubernetes", {os.environ["BUSYBOX"]: "/bin/sh"}),
            "moby/buildkit": os.environ["BUILDER_IMAGE"],
        }
        self.environment = {
            **os.environ,
            "PATH": f"{self.stand_ins()}:{os.environ['PATH']}",
            "BUILDX_CONFIG": f"{self.work}/buildx",
            "KUBECTL_FOLDER": f"{self.work}/secrets",
        }

    def files(self, folder, files):
        """A folder with these files of this machine."""
        root = self.work / folder
        for source, target in files.items():
            path = root / target.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pathlib.Path(source).read_bytes())
            path.chmod(0o755)
        return root

    def image(self, name, files):
        """An image of files of this machine."""
        return self.imported(name, self.files(name.partition(":")[0], files))

    @staticmethod
    def imported(name, root, *environment, entrypoint="[]"):
        """An image of a folder."""
        pack = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=security.capability", "-C", root, "-c", "."]
        tar = subprocess.run(pack, check=True, capture_output=True, timeout=60).stdout
        flags = ["--change", f"ENTRYPOINT {entrypoint}", *(p for e in environment for p in ("--change", f"ENV {e}"))]
        subprocess.run(["docker", "import", *flags, "-", name], check=True, input=tar, capture_output=True, timeout=180)
        return name

    def rootless_image(self, name):
        """BuildKit's rootless image, of the same parts as the released one, with this machine's libraries."""
        programs = [shutil.which(p) for p in ("rootlesskit", "buildkitd", "buildctl", "newuidmap", "newgidmap")]
        mappers = programs[-2:]
        root = self.files("rootless", {p: f"/usr/bin/{os.path.basename(p)}" for p in programs} | {l: l for l in linked(mappers[0])})
        self.files("rootless", {shutil.which("runc"): "/usr/bin/buildkit-runc", os.environ["BUSYBOX"]: "/bin/sh"})
        for folder in ("tmp", "home/user/.local/tmp", "home/user/.local/share/buildkit", "run/user/1000"):
            (root / folder).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        (root / "etc").mkdir()
        for file, text in {
            "passwd": "user:x:1000:1000::/home/user:/bin/sh", "group": "user:x:1000:",
            "subuid": "user:100000:65536", "subgid": "user:100000:65536",
        }.items():  # fmt: skip
            (root / "etc" / file).write_text(f"{text}\n")
        subprocess.run(["chown", "-R", "1000:1000", root / "home", root / "run"], check=True, timeout=60)
        for program, capability in zip(mappers, ("cap_setuid", "cap_setgid")):
            file = root / "usr/bin" / os.path.basename(program)
            subprocess.run(["setcap", f"{capability}=ep", file], check=True, timeout=60)
        return self.imported(
            name, root, "PATH=/usr/bin:/bin", "HOME=/home/user", "USER=user",
            "XDG_RUNTIME_DIR=/run/user/1000", "TMPDIR=/home/user/.local/tmp",
            entrypoint='["rootlesskit", "buildkitd"]',
        )  # fmt: skip

    def linkspan_image(self, name):
        """The last stage of the recipe, on what is built already: that needs this machine's libraries, too."""
        authorities = "/etc/ssl/certs/ca-certificates.crt"
        files = {f: f"/out{f}" for f in [*linked(self.linkspan), authorities]} | {self.linkspan: "/out/linkspan"}
        out = self.files("build", files)
        empty = self.work / "nothing"
        empty.mkdir()
        recipe = KUBERNETES / "Dockerfile"
        docker("buildx", "build", "--builder", "default", "--build-context", f"build={out}", "-f", recipe, "-t", name, empty)
        return name

    def stand_ins(self):
        """kubectl: `create secret` keeps the files, and `exec` goes to the container that runs here."""
        folder = self.work / "bin"
        folder.mkdir()
        kubectl = folder / "kubectl"
        kubectl.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/python/kubernetes/kubectl.py" "$@"\n')
        kubectl.chmod(0o755)
        return folder

    def certificates(self):
        """Runs the README's own commands, and takes the Secrets that they make. Nothing of them is left where they are run."""
        text = (KUBERNETES / "README.md").read_text()
        block = next(b for b in re.findall(r"```sh\n(.*?)```", text, re.S) if "openssl" in b)
        here = self.work / "repository"
        here.mkdir()
        environment = {**self.environment, "NODES": "IP:127.0.0.1", "HOME": str(self.work)}
        done = subprocess.run(["bash", "-euc", block], cwd=here, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert not list(here.iterdir()), list(here.iterdir())
        assert self.certs.stat().st_mode & 0o777 == 0o700
        for folder in (self.work / "secrets").iterdir():
            self.secrets[folder.name] = {path.name: path.read_text() for path in folder.iterdir()}
        self.secrets["linkspan-users"] = {"users": PASSWORD}

    def pod(self, case, owner, name, sets, host_paths=(), images=()):
        """A pod of what the chart renders."""
        objects = documents(case, *(part for value in sets for part in ("--set", value)))
        return Pod(
            name,
            pods(objects)[owner],
            self.work / name,
            images={**self.images, **dict(images)},
            host_paths={"/run/containerd": self.node / "run", "/run/k3s/containerd": self.node / "run", **dict(host_paths)},
            secrets=self.secrets,
            config_maps={o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"},
        )

    def run(self, *command, check=True, cwd=None):
        """A client of the cluster."""
        done = subprocess.run(command, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=180)
        if check and done.returncode != 0:
            raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
        return done

    def asked(self, port, certificate=None):
        """What a client with this certificate hears at a port, until the other side ends it."""
        shown = ["-cert", f"{certificate}.crt", "-key", f"{certificate}.key"] if certificate else []
        client = ["openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", "ca.crt"]
        request = "GET /v2/ HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n"
        return subprocess.run(
            [*client, *shown, "-connect", f"127.0.0.1:{port}"],
            cwd=self.certs, input=request, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def ctr(self, *arguments, namespace="k8s.io"):
        """ctr on the node's containerd."""
        return self.run("ctr", "--address", self.node / "run/containerd.sock", "--namespace", namespace, *arguments).stdout


def context(cluster):
    """The image's builder is sent what the recipe needs, and no key that lies in the folder."""
    folder, sent = cluster.work / "checkout", cluster.work / "sent"
    # Not what others build meanwhile, which is large.
    shutil.copytree(ROOT, folder, ignore=lambda at, names: {".git", "target"} & set(names))
    keys = {"ca.key", "server.key", "benches/client.key", "scripts/kubernetes/users", "target/release/linkspan"}
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_text("secret\n")
    recipe = folder / "scripts/kubernetes/Dockerfile"
    recipe.write_text("FROM scratch\n" + next(l for l in recipe.read_text().splitlines(True) if l.startswith("COPY .")))
    docker("buildx", "build", "--builder", "default", "-f", recipe, "-o", f"type=local,dest={sent}", folder)
    found = {str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file()}
    assert not found & keys, found & keys
    places = [".cargo/config.toml", "Cargo.toml", "Cargo.lock", "build.rs", "benches", "scripts/protoc", "scripts/protoc-shim", "src"]
    files = [path for place in places for path in (ROOT / place, *(ROOT / place).rglob("*")) if path.is_file()]
    needed = {str(path.relative_to(ROOT)) for path in files if "target" not in path.parts}
    assert found == needed, found ^ needed
    # Cargo finds every file that the manifest names.
    done = subprocess.run(
        ["cargo", "metadata", "--offline", "--locked", "--no-deps", "--format-version=1"],
        cwd=sent, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def builder(cluster):
    """Builds go into the node's containerd: by `kubectl exec`, and by the port with certificates."""
    port = free_port()
    with cluster.pod("builder-mtls", "linkspan-builder", "linkspan-builder-0", [f"builder.service.port={port}"]) as pod:
        pod.start("linkspan")
        # Linkspan is ready before the builder is, and the builder is not ready without Linkspan.
        assert pod.probe("linkspan", "readinessProbe").returncode == 0
        pod.start("buildkitd")
        until("both to be ready", lambda: all(pod.probe(c, "readinessProbe").returncode == 0 for c in ("linkspan", "buildkitd")))
        context = cluster.work / "context"
        context.mkdir()
        (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
        (context / "file").write_text("first\n")

        def build(name, image, check=True):
            return cluster.run(
                "docker", "buildx", "build", "--builder", name, "-o", f"type=linkspan,name={image}", context, check=check
            )  # fmt: skip

        def create(name, address, *options):
            cluster.run("docker", "buildx", "create", "--name", name, "--driver", "remote", *options, address)

        create("by-exec", "kube-pod://linkspan-builder-0?namespace=linkspan&container=buildkitd")
        build("by-exec", "registry.example/team/demo:1")
        checked = cluster.ctr("images", "check")
        assert re.search(r"registry\.example/team/demo:1 .* complete .* true", checked), checked
        assert "containerd's diff service unpacks all layers" in pod.logs("linkspan"), pod.logs("linkspan")
        # A name that the values do not allow, and one that moves.
        refused = build("by-exec", "registry.example/pause:3", check=False)
        assert refused.returncode != 0 and "registry.example/pause:3" in refused.stderr, refused.stderr
        (context / "file").write_text("second\n")
        refused = build("by-exec", "registry.example/team/demo:1", check=False)
        assert refused.returncode != 0 and "registry.example/team/demo:1" in refused.stderr, refused.stderr
        address, certs = f"tcp://127.0.0.1:{port}", cluster.certs
        create("by-tls", address, "--driver-opt", f"cacert={certs}/ca.crt,cert={certs}/client.crt,key={certs}/client.key")
        build("by-tls", "registry.example/team/demo:2")
        assert "certificate required" in cluster.asked(port).stderr
        names = cluster.ctr("images", "list", "--quiet").split()
        assert names == ["registry.example/team/demo:1", "registry.example/team/demo:2"], names
        assert pod.stop("linkspan") == 0, pod.logs("linkspan")


def rootless(cluster):
    """The same with BuildKit as an ordinary user, as the values have it by default: a step runs, and the image arrives."""
    images = {"moby/buildkit": cluster.rootless_image("rootless:kubernetes")}
    sets = ["builder.buildkit.storage.emptyDir=true"]
    with cluster.pod("plain", "linkspan-builder", "linkspan-builder-0", sets, images=images) as pod:
        pod.start("linkspan")
        pod.start("buildkitd")
        assert pod.probe("buildkitd", "readinessProbe").returncode == 0
        context = cluster.work / "rootless-context"
        context.mkdir()
        (context / "busybox").write_bytes(pathlib.Path(os.environ["BUSYBOX"]).read_bytes())
        (context / "busybox").chmod(0o755)
        (context / "Dockerfile").write_text("FROM scratch\nCOPY busybox /bin/sh\nRUN echo made > /made\n")
        image = ["-o", "type=linkspan,name=registry.example/team/rootless:1"]
        cluster.run("docker", "buildx", "build", "--builder", "by-exec", *image, context)
        checked = cluster.ctr("images", "check")
        assert re.search(r"registry\.example/team/rootless:1 .* complete .* true", checked), checked


def node(cluster):
    """The node's images are served to other nodes' containerd, by the hosts.toml that the init container writes there."""
    port, folder = free_port(), cluster.work / "certs.d"
    (folder / "registry.other").mkdir(parents=True)
    (folder / "registry.other/hosts.toml").write_text("# mine\n")
    hosts = [
        "node.hostsToml.enabled=true", "node.hostsToml.image=busybox", f"node.hostsToml.folder={folder}",
        "node.hostsToml.clientSecret=linkspan-client", f"node.hostsToml.registries={{{HOSTS}}}",
        f"node.hostsToml.endpoints={{https://127.0.0.1:{port}}}", f"node.registry.port={port}",
    ]  # fmt: skip
    with cluster.pod("plain", "linkspan-node", "node", hosts, {str(folder): folder}) as pod:
        printed = pod.run("hosts-toml")
        assert "registry.other/hosts.toml is somebody else's" in printed.stdout, printed
        assert (folder / "registry.other/hosts.toml").read_text() == "# mine\n"
        assert (folder / "_linkspan/tls.key").stat().st_mode & 0o777 == 0o600
        pod.start("linkspan")
        assert pod.probe("linkspan", "readinessProbe").returncode == 0
        assert "cannot be" not in pod.logs("linkspan"), pod.logs("linkspan")
        digest = next(l.split()[2] for l in cluster.ctr("images", "list").splitlines() if "team/demo:1" in l)
        # Another node, whose only way to `registry.example` is the mirror.
        image = f"registry.example/team/demo@{digest}"
        cluster.ctr("images", "pull", "--hosts-dir", folder, image, namespace="kubernetes-other-node")
        assert "certificate required" in cluster.asked(port).stderr
        assert cluster.asked(port, "client").stdout.startswith("HTTP/1.1 200 ")
        restart(cluster, pod)
        assert pod.stop("linkspan") == 0, pod.logs("linkspan")
    # A restart of the DaemonSet takes a Secret that has changed to the node.
    cluster.secrets["linkspan-client"]["tls.crt"] += "# renewed\n"
    with cluster.pod("plain", "linkspan-node", "node-restarted", hosts, {str(folder): folder}) as pod:
        pod.run("hosts-toml")
        assert (folder / "_linkspan/tls.crt").read_text().endswith("# renewed\n")


@contextlib.contextmanager
def minio(cluster):
    """An S3 server with the bucket `images`, as the Secret `bucket` says it."""
    port, user, password = free_port(), "kubernetes", "not-a-secret"
    (cluster.work / "minio/images").mkdir(parents=True)
    environment = {
        **os.environ, "MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password, "MINIO_BROWSER": "off",
        "MINIO_CI_CD": "1", "MINIO_UPDATE": "off",
    }  # fmt: skip
    with open(cluster.work / "minio.log", "wb") as log:
        command = ["minio", "server", "--address", f"127.0.0.1:{port}", cluster.work / "minio"]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def ready():
        if server.poll() is not None:
            raise SystemExit((cluster.work / "minio.log").read_text())
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/minio/health/ready", timeout=10):
                return True
        except OSError:
            return False

    try:
        until("minio to be ready", ready)
        cluster.secrets["bucket"] = {
            "AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": password, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }  # fmt: skip
        yield
    finally:
        server.kill()
        server.wait(timeout=60)


def bucket(cluster):
    """Builds go into a bucket, and every node's own loopback has it: by tag, without anything of the node."""
    port, folder = free_port(), cluster.work / "bucket-certs.d"
    folder.mkdir()
    hosts = [
        f"node.registry.port={port}", f"node.hostsToml.endpoints={{http://127.0.0.1:{port}}}", f"node.hostsToml.folder={folder}",
    ]  # fmt: skip
    images = {"moby/buildkit": "rootless:kubernetes"}
    with (
        minio(cluster),
        cluster.pod("bucket", "linkspan-builder", "linkspan-builder-0", [], images=images) as builders,
        cluster.pod("bucket", "linkspan-node", "bucket-node", hosts, {str(folder): folder}) as nodes,
    ):
        builders.start("linkspan")
        builders.start("buildkitd")
        nodes.run("hosts-toml")
        nodes.start("linkspan")
        name = "registry.example/team/in-bucket:1"
        output = ["-o", f"type=linkspan,name={name}"]
        cluster.run("docker", "buildx", "build", "--builder", "by-exec", *output, cluster.work / "rootless-context")
        cluster.ctr("images", "pull", "--hosts-dir", folder, name, namespace="kubernetes-bucket-node")
        assert nodes.probe("linkspan", "readinessProbe").returncode == 0
        assert cluster.ctr("images", "list", "--quiet", f"name=={name}") == "", "the node's own images are not involved"


def restart(cluster, pod):
    """containerd goes, and comes back with another socket: the pod stays, unready meanwhile."""
    pid = int((cluster.node / "run/containerd.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    until("containerd to be gone", lambda: not pathlib.Path(f"/proc/{pid}").exists())
    assert pod.probe("linkspan", "readinessProbe").returncode != 0
    assert pod.probe("linkspan", "livenessProbe").returncode == 0
    cluster.run(ROOT / "scripts/stack", "up", "--state", cluster.node, "--only", "containerd")
    until("it to be ready again", lambda: pod.probe("linkspan", "readinessProbe").returncode == 0)


def pushes(cluster):
    """Clients push into the node's containerd, within the rules; Linkspan unpacks in the node's own files."""
    port = free_port()
    sets = [f"node.registry.port={port}"]
    # Linkspan and containerd know the socket's folder by one path where they have one view of the processes.
    with cluster.pod("push", "linkspan-node", "pushes", sets, {"/etc/containerd/certs.d": cluster.work / "unused"}) as pod:
        pod.start("linkspan")
        config = cluster.work / "crane"
        config.mkdir()
        environment = {"DOCKER_CONFIG": str(config), "SSL_CERT_FILE": str(cluster.certs / "ca.crt")}
        cluster.environment.update(environment)
        registry, tar = f"127.0.0.1:{port}", cluster.work / "layer.tar"
        subprocess.run(["tar", "-C", cluster.work / "context", "-cf", tar, "."], check=True, timeout=60)
        cluster.run("crane", "auth", "login", registry, "--username", "ci", "--password", "secret")
        push = ["crane", "append", "--oci-empty-base", "-f", tar, "-t"]
        image = f"{registry}/registry.example/team/pushed"
        cluster.run(*push, f"{image}:artifact")
        # With a platform it is an image that can be unpacked.
        cluster.run("crane", "mutate", f"{image}:artifact", "-t", f"{image}:1", "--set-platform", "linux/amd64")
        refused = cluster.run(*push, f"{registry}/registry.example/others/pushed:1", check=False)
        assert refused.returncode != 0 and "403 Forbidden" in refused.stderr, refused
        checked = cluster.ctr("images", "check")
        assert re.search(r"registry\.example/team/pushed:1 .* complete .* true", checked), checked
        logs = pod.logs("linkspan")
        assert "team/pushed:1" in logs and "diff service" not in logs, logs


def absent(cluster):
    """Every flag is one that `serve` takes: it fails for the engine that is not there, and for nothing else."""
    empty = cluster.work / "empty"
    empty.mkdir()
    cluster.secrets["bucket"] = {
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "x", "AWS_ALLOW_HTTP": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
    }  # fmt: skip
    for case, engine in {
        "plain": "containerd does not respond at unix:///run/containerd/containerd.sock",
        "push": "containerd does not respond at unix:///run/containerd/containerd.sock",
        "builder-mtls": "containerd does not respond at unix:///run/containerd/containerd.sock",
        "bucket": "s3://images/ci",
    }.items():
        for owner in pods(documents(case)):
            paths = {"/run/containerd": empty, "/run/k3s/containerd": empty, "/etc/containerd/certs.d": empty}
            with cluster.pod(case, owner, f"absent-{case}", [], paths) as pod:
                pod.extra += ["--env", "LINKSPAN_ENGINE_TIMEOUT=1"]
                done = pod.run("linkspan", check=False)
                assert done.returncode == 1 and engine in done.stderr, (case, owner, done)


def main():
    """All of it, in an order in which each finds what it needs."""
    cluster = Cluster(sys.argv[1])
    cluster.certificates()
    for scenario in (context, absent, builder, rootless, node, bucket, pushes):
        print(f"{scenario.__name__}: {scenario.__doc__}", flush=True)
        scenario(cluster)
        print(f"{scenario.__name__}: passed, {time.monotonic() - START:.0f} s since the start", flush=True)


main()
