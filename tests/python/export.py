"""Exports an image through linkspan.export.v1, knowing nothing but the socket: messages come by reflection.

usage: export.py ADDRESS NAME [AUTHORITY]
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

API = "linkspan.export.v1"
CONTENT = "containerd.services.content.v1"


class Client:
    """Calls methods by their names, with messages by theirs."""

    def __init__(self, channel):
        self.channel = channel
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    def message(self, name):
        return GetMessageClass(self.pool.FindMessageTypeByName(name))

    def call(self, service, method, request, metadata=()):
        of = self.pool.FindServiceByName(service).FindMethodByName(method)
        kind = ("stream" if of.client_streaming else "unary") + "_" + ("stream" if of.server_streaming else "unary")
        stub = getattr(self.channel, kind)(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(of.output_type).FromString,
        )
        message = GetMessageClass(of.input_type)(**request)
        return stub(iter([message]) if of.client_streaming else message, timeout=60, metadata=metadata)


def blobs():
    """An image of one layer: media type and bytes of each blob, the manifest last."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        member = tarfile.TarInfo("from-python")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    plain = layer.getvalue()
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(plain)]}}
    found = [
        ("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(plain, mtime=0)),
        ("application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
    ]
    layer, config = (describe(*blob) for blob in found)
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": camel(config), "layers": [camel(layer)]}
    return [*found, (kind, json.dumps(manifest).encode())]


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def describe(kind, data):
    return {"media_type": kind, "digest": digest(data), "size": len(data)}


def camel(descriptor):
    return {"mediaType" if key == "media_type" else key: value for key, value in descriptor.items()}


def main(address, name, authority=None):
    options = [] if authority is None else [("grpc.default_authority", authority)]
    with grpc.insecure_channel(address, options=options) as channel:
        client = Client(channel)
        image = blobs()
        exporters = [{"id": "image", "type": "image"}]
        opened = client.call(f"{API}.Exports", "Open", {"exporters": exporters})
        export = opened.export.id
        wanted = {"export_id": export, "descriptors": [describe(*blob) for blob in image]}
        sent = 0
        for answer in client.call(f"{API}.Exports", "Negotiate", wanted):
            missing = {blob.digest for blob in answer.blobs if blob.standing != 1}
            for _, data in image:
                if digest(data) in missing:
                    write = {"action": 2, "ref": digest(data), "total": len(data), "expected": digest(data), "data": data}
                    metadata = [("linkspan-export", export)]
                    list(client.call(f"{CONTENT}.Content", "Write", write, metadata))
                    sent += 1
        root = describe(*image[-1])
        targets = [{"exporter_id": "image", "root": root, "names": [name]}]
        for answer in client.call(f"{API}.Exports", "Commit", {"export_id": export, "targets": targets}):
            for result in answer.results.results:
                if result.HasField("error"):
                    sys.exit(result.error.message)
                print(f"{result.names[0]} {result.root.digest}, {sent} blobs sent")


if __name__ == "__main__":
    main(*sys.argv[1:])
