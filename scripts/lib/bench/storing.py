"""Images into object storage, beside a distribution registry that keeps its own in a bucket of the same server."""

import hashlib
import json
import os
import shutil
from statistics import median
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from bounds import sha256
from builds import Contender, NOTHING
from figures import ratio, take_turns
from machine import Program, free_address, run, write
from registering import MIB, Push, target

USER, PASSWORD, REGION, BUCKET = "linkspan", "linkspan-secret", "us-east-1", "bench"
# What one command sends at a time, so that the server's own speed is measured with as many.
AT_ONCE = 4
LAYERS, LAYER_MIB = 8, 384


class Server:
    """MinIO with one bucket."""

    def __init__(self, bench, name):
        self.folder, self.address = bench.folder(name), free_address()
        os.makedirs(os.path.join(self.folder, "data", BUCKET))
        env = {**bench.stack.env, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_BROWSER": "off", "MINIO_CI_CD": "1", "MINIO_UPDATE": "off"}
        binary = shutil.which("minio", path=bench.stack.env["PATH"])
        self.program = Program(binary, ["server", "--quiet", "--address", self.address, os.path.join(self.folder, "data")], env, self.folder, [self.address])
        bench.closing.append(self.program.stop)
        self.env = {**bench.stack.env, "AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD, "AWS_REGION": REGION,
                    "AWS_ENDPOINT_URL": f"http://{self.address}", "AWS_ALLOW_HTTP": "true"}

    def linkspan(self, bench, name, *doors):
        """Linkspan with doors to the bucket, and a port for one of them."""
        address = free_address()
        arguments = ["serve", "--object", f"s3://{BUCKET}/{name}", *(door.replace("ADDRESS", address) for door in doors)]
        program = Program(bench.binary, arguments, self.env, bench.folder(f"object-{name}"), [address])
        bench.closing.append(program.stop)
        return program, address

    def registry(self, bench):
        """The distribution registry over the same server."""
        address, folder = free_address(), bench.folder("object-registry")
        config = os.path.join(folder, "registry.yml")
        write(config, f"version: 0.1\nstorage:\n  s3: {{accesskey: {USER}, secretkey: {PASSWORD}, region: {REGION}, regionendpoint: \"http://{self.address}\", "
                      f"bucket: {BUCKET}, secure: false, forcepathstyle: true, rootdirectory: /registry}}\nhttp: {{addr: \"{address}\"}}\n")
        binary = shutil.which("registry", path=bench.stack.env["PATH"])
        program = Program(binary, ["serve", config], {**bench.stack.env, "OTEL_TRACES_EXPORTER": "none"}, folder, [address])
        bench.closing.append(program.stop)
        return address


def contenders(bench):
    """Builds that were stored once: by the buildkit door, pushed to the registry door, pushed to the registry, and not at all."""
    if "objects" not in bench.prepared:
        base, size = bench.base()
        server = Server(bench, "minio")
        linkspan, address = server.linkspan(bench, "doors", "--builder", bench.stack.env["BUILDKIT_HOST"], "--buildkit-listen", "tcp://ADDRESS")
        bench.builder("object", f"tcp://{address}")
        _, registry_door = server.linkspan(bench, "pushes", "--registry-listen", "tcp://ADDRESS", "--registry-writable")
        named = {
            "linkspan": Contender(bench, "object-linkspan", "object", ["--output", "type=linkspan,name=NAME"], base),
            "pushed": Push(bench, "object-pushed", registry_door, base),
            "registry": Push(bench, "object-registry", server.registry(bench), base),
            "floor": Contender(bench, "object-floor", "tar", NOTHING, base),
        }
        for contender in named.values():
            contender.build()
        bench.prepared["objects"] = named, size, linkspan
    return bench.prepared["objects"]


def result(name, size, times, peak, wanted):
    return {"case": name, "size_bytes": size, "runs": max(map(len, times.values())),
            "object_s": {way: round(median(values), 4) for way, values in times.items()},
            "registry_over_linkspan": ratio(times, "registry", "linkspan"), "registry_over_pushed": ratio(times, "registry", "pushed"),
            "spread_s": {way: [round(min(v), 4), round(max(v), 4)] for way, v in times.items()},
            "linkspan_peak_rss_bytes": peak, "object_target": wanted}


def object_warm(bench, name):
    """Nothing changed."""
    named, size, linkspan = contenders(bench)
    for contender in named.values():
        contender.build()
    times = take_turns(bench.options.runs, named, lambda contender, _: contender.build())
    return result(name, size, times, linkspan.peak_bytes(), "registry >= 2")


def object_edit(bench, name):
    """The last line changed."""
    named, size, linkspan = contenders(bench)

    def build(contender, turn):
        contender.edit(f"edit {turn}")
        return contender.build()

    times = take_turns(bench.options.runs, named, build)
    return result(name, size, times, linkspan.peak_bytes(), "registry >= 1.3")


def object_stream(bench, name):
    """3 GB in 8 layers, from a layout to an empty bucket, against the server's own PUTs of the same files and SHA-256."""
    size = LAYERS * LAYER_MIB * MIB
    bench.need_space(size * 3.5, "another TMPDIR")
    layout, blobs = random_layout(bench.folder("object-layout"))

    def send(way, turn):
        server = Server(bench, f"minio-{way}-{turn}")
        run("sync")
        started = time.monotonic()
        if way == "linkspan":
            run(bench.binary, "copy", "-q", f"oci:{layout}:bench", f"s3://{BUCKET}/stream:bench", env=server.env)
        else:
            with ThreadPoolExecutor(AT_ONCE) as workers:
                list(workers.map(lambda blob: put(server, blob), blobs))
        seconds = time.monotonic() - started
        bench.stop(server.program)
        shutil.rmtree(server.folder)
        return seconds

    times = take_turns(min(bench.options.runs, 3), {way: way for way in ("linkspan", "server")}, send)
    rates = {way: round(size / MIB / median(seconds), 1) for way, seconds in times.items()}
    rates["sha256"] = round(sha256() / MIB, 1)
    measured = round(rates["linkspan"] / min(rates["server"], rates["sha256"]), 3)
    shutil.rmtree(layout)
    yield target(name, measured, len(times["linkspan"]), 1, mib_per_second=rates)


def object_memory(bench, name):
    """--memory-size GB in 8 layers to the bucket, by the same command."""
    size = int(bench.options.memory_size * 1e9)
    bench.need_space(size * 2.2, "--memory-size")
    layout, _ = random_layout(bench.folder("object-layout"), size // LAYERS // MIB)
    server = Server(bench, "minio-memory")
    process = subprocess.Popen([bench.binary, "copy", "-q", f"oci:{layout}:bench", f"s3://{BUCKET}/memory:bench"], env=server.env,
                               stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"bench: error: linkspan copy failed ({status})")
    bench.stop(server.program)
    shutil.rmtree(server.folder)
    shutil.rmtree(layout)
    yield target(name, usage.ru_maxrss * 1024, 1, -1, size_bytes=size)


def put(server, path):
    """By curl, which neither hashes the file nor buffers it."""
    subprocess.run(["curl", "-sSf", "--aws-sigv4", f"aws:amz:{REGION}:s3", "--user", f"{USER}:{PASSWORD}", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD",
                    "-T", path, f"http://{server.address}/{BUCKET}/server/{os.path.basename(path)}"], check=True, stdout=subprocess.DEVNULL)


def random_layout(folder, layer_mib=LAYER_MIB):
    """An OCI layout whose image `bench` has layers that no server has; also the files of its layers."""
    blobs = os.path.join(folder, "blobs", "sha256")
    os.makedirs(blobs)

    def keep(document, media_type):
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        write(os.path.join(blobs, digest), data.decode())
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layers = []
    for _ in range(LAYERS):
        hashed, path = hashlib.sha256(), os.path.join(blobs, "new")
        with open(path, "wb") as out:
            for _ in range(layer_mib):
                piece = os.urandom(MIB)
                hashed.update(piece)
                out.write(piece)
        os.rename(path, os.path.join(blobs, hashed.hexdigest()))
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{hashed.hexdigest()}", "size": layer_mib * MIB})
    files = [os.path.join(blobs, layer["digest"].removeprefix("sha256:")) for layer in layers]
    config = keep({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}},
                  "application/vnd.oci.image.config.v1+json")
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = keep({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}, kind)
    write(os.path.join(folder, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}')
    write(os.path.join(folder, "index.json"), json.dumps({"schemaVersion": 2, "manifests": [{**manifest, "annotations": {"org.opencontainers.image.ref.name": "bench"}}]}))
    return folder, files
