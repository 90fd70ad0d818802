"""Asks a builder who it is.

usage: version.py ADDRESS [AUTHORITY]                over a socket
       version.py --exec DOCKER_HOST CONTAINER       over an exec of its `buildctl dial-stdio`
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading

import grpc


def ask(address, options=()):
    """The answer to BuildKit's Control.Info, whose request is empty."""
    with grpc.insecure_channel(address, options=options) as channel:
        print(channel.unary_unary("/moby.buildkit.v1.Control/Info")(b"", timeout=60))


def ask_in(host, container):
    """The same through a socket, each connection to which becomes an exec."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = os.path.join(folder, "exec.sock")
        listener.bind(path)
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            command = ["docker", "-H", host, "exec", "-i", container, "buildctl", "dial-stdio"]
            with connection, subprocess.Popen(command, stdin=connection, stdout=connection) as process:
                process.wait()

        threading.Thread(target=serve, daemon=True).start()
        ask(f"unix:{path}")


def main(first, *rest):
    if first == "--exec":
        ask_in(*rest)
    elif rest:
        ask(first, [("grpc.default_authority", rest[0])])
    else:
        ask(first)


if __name__ == "__main__":
    main(*sys.argv[1:])
