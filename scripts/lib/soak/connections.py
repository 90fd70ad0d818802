"""Very many connections: idle ones, and requests on connections of their own."""

import errno
import os
import resource
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from bucket import free_address
from machine import Failed, run, say
from resources import at_rest, back, sample
from serving import Server

# What `src/daemon` sets: connections of all doors, and the part of them that TCP may take.
MOST, PART = 4096, 4
# Connections whose client waits for a reply at once.
ASKING = 64
WARM_UP = 3
PING = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Door:
    """Where one door listens."""

    def __init__(self, name, address, path=None):
        self.name, self.address, self.path = name, address, path

    @property
    def is_tcp(self):
        return isinstance(self.address, tuple)

    def socket(self):
        return socket.socket(socket.AF_INET if self.is_tcp else socket.AF_UNIX)

    def idle(self, count):
        """As many connections as the kernel lets us open without waiting; those beyond its queue it refuses or leaves open."""
        opened, refused = [], 0
        for _ in range(count):
            client = self.socket()
            client.setblocking(False)
            code = client.connect_ex(self.address)
            if code in (0, errno.EINPROGRESS):
                opened.append(client)
            elif code == errno.EAGAIN:  # the queue of a unix socket is full
                client.close()
                refused += 1
            else:
                raise Failed(f"connection {len(opened)} to the door {self.name}: {os.strerror(code)}")
        return opened, refused

    def ask(self, _):
        """One request on a connection of its own: the first bytes of the reply."""
        with self.socket() as client:
            client.settimeout(120)
            client.connect(self.address)
            client.sendall(PING % self.path.encode())
            return client.recv(64)


def others(machine, engine, server):
    """What clients of the other doors get while one is crowded."""
    run(machine.binary, "images", "-q", "--to", f"unix://{server.sockets['export']}", env=engine.env, limit=60)
    run("docker", "version", env={**engine.env, "DOCKER_HOST": f"unix://{server.sockets['docker-load']}"}, limit=60)
    run("buildctl", "--addr", f"unix://{server.sockets['build']}", "debug", "workers", env=engine.env, limit=60)


def connections(machine, engine, _):
    """10,000 to each door."""
    if "docker-load" not in engine.ways:
        raise Failed(f"{engine.name} has not all doors; hint: --engine docker")
    wanted = machine.options.rounds_or(10_000)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most < wanted + 500:
        raise Failed(f"this machine allows {most} open files, and {wanted} connections need {wanted + 500}; hint: ulimit -Hn, or --rounds")
    host, port = free_address().rsplit(":", 1)
    server = Server(machine, engine, registry=f"{host}:{port}")
    doors = [Door("registry", (host, int(port)), "/v2/"), Door("docker", server.sockets["docker-load"], "/_ping"),
             Door("export", server.sockets["export"]), Door("buildkit", server.sockets["build"])]
    pid, seen = server.process.pid, []
    alone = at_rest(pid)["memory"] >> 20
    for door in WARM_UP * doors:  # An allocator keeps what so many need, and is at its most after some times.
        crowd(machine, engine, server, door, wanted)
    before = at_rest(pid)
    for door in doors:
        seen.append(crowd(machine, engine, server, door, wanted))
        say(f"connections: {seen[-1]}")
    server.check_log()
    after = back(pid, before, engine)
    server.stop()
    return {"rounds": wanted, "result": "; ".join([*seen, f"memory before any of them {alone} MiB"]), "before": before, "after": after}


def crowd(machine, engine, server, door, count):
    """Idle connections first, then requests; what was held at the peak."""
    pid = server.process.pid
    start = sample(pid)["descriptors"]
    opened, refused = door.idle(count)
    try:
        held = settled(pid) - start
        # A connection takes a descriptor, and one more towards what is behind the door.
        most = MOST // PART if door.is_tcp else MOST
        if held > 2 * most + 16:
            raise Failed(f"{held} descriptors for idle connections to {door.name}, which may have {most}")
        if door.is_tcp or count < MOST // 2:
            others(machine, engine, server)
        alive = sum(1 for client in opened if not has_ended(client))
    finally:
        for client in opened:
            client.close()
    others(machine, engine, server)
    said = f"{door.name}: of {count} idle ones {alive} stayed open ({held} descriptors), {refused} found the queue full"
    if door.path:
        with ThreadPoolExecutor(ASKING) as threads:
            replies = list(threads.map(door.ask, range(count)))
        bad = [reply for reply in replies if not reply.startswith(b"HTTP/1.1 200")]
        if bad:
            raise Failed(f"{len(bad)} of {count} requests to {door.name} were not answered with 200, as {bad[0]!r}")
        said += f", {count} requests answered"
    return said


def has_ended(client):
    """Whether the server has closed it."""
    poll = select.poll()
    poll.register(client, select.POLLIN)
    return bool(poll.poll(0)) and client.recv(1, socket.MSG_PEEK) == b""


def settled(pid):
    """How many descriptors there are once no more come, or after 20 s."""
    end, last = time.monotonic() + 20, -1
    while time.monotonic() < end:
        now = sample(pid)["descriptors"]
        if now == last:
            break
        last = now
        time.sleep(0.5)
    return last
