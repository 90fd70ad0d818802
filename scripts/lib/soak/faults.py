"""Daemons that are killed and stopped, and connections that are cut, at random, with loads beside them."""

import os
import re
import signal
import threading
import time

from engines import OURS
from images import full
from machine import Failed, run, say
from parallel import is_right
from proxy import Proxy
from resources import at_rest, back
from serving import Server, Work

LOADERS = 3
# Loads and faults alternate with a look at everything.
EPOCH_SECONDS = 20
SIZE = 2 << 20


class Faults:
    """What is done to the daemons of a stack and to the connections of two proxies."""

    def __init__(self, stack, proxies, random):
        self.stack, self.proxies, self.random = stack, proxies, random
        self.parts = [part for part in stack.parts if part != "registry"]
        self.done = {}

    def one(self):
        """A fault of any kind, and its end."""
        kind = self.random.choice(["kill", "restart", "stop", "cut", "cut"])
        if kind == "cut":
            what = self.random.choice(list(self.proxies))
            self.proxies[what].cut()
        else:
            what = self.random.choice(self.parts)
            pid = self.stack.pid(what)
            if kind == "stop":
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self.random.uniform(0.2, 8))
                os.kill(pid, signal.SIGCONT)
            else:
                os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
                time.sleep(self.random.uniform(0, 2))
                ends(pid)
                self.stack.up()
        self.done[f"{kind} {what}"] = self.done.get(f"{kind} {what}", 0) + 1


def ends(pid):
    """Waits until a process that was told to end has ended."""
    end = time.monotonic() + 40
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return
        except OSError:
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


def faults(machine, engine, random):
    """Epochs of loads with faults, each followed by a look at all images and by loads that nothing disturbs."""
    folder = machine.folder("proxies")
    builder = Proxy(f"{folder}/builder.sock", engine.env["BUILDKIT_HOST"].removeprefix("unix://"))
    server = Server(machine, engine, builder.address)
    # Clients come through a proxy, too.
    proxies = {"builder": builder}
    for door in list(server.sockets):
        proxies[f"{door} clients"] = Proxy(f"{folder}/{door}.sock", server.sockets[door])
    direct, crowded = dict(server.sockets), {door: f"{folder}/{door}.sock" for door in server.sockets}
    works = numbered(machine, engine, random)
    tally, errors, epochs = {"right": 0, "refused": 0}, {}, 0
    broken = Faults(engine.stack, proxies, random)
    try:
        all_ways(engine, server, works)
        before = at_rest(server.process.pid)
        while machine.has_time() and epochs < machine.options.rounds_or(10 ** 6):
            server.sockets = crowded
            ended = epoch(server, works, broken)
            server.sockets = direct
            judge(engine, server, ended, tally, errors)
            all_ways(engine, server, works)
            epochs += 1
            say(f"faults: {epochs} epochs, {tally}, {sum(broken.done.values())} faults")
        if server.has_ended():
            raise Failed(f"linkspan ended with {server.process.returncode}:\n{server.last_words()}")
        server.check_log()
        kept = expire(machine, engine, server)
        after = back(server.process.pid, before, engine)
    except Failed as failed:
        raise Failed(f"{failed}\nafter {broken.done}; see {server.log}") from None
    finally:
        for proxy in proxies.values():
            proxy.close()
    server.stop()
    return {"rounds": sum(broken.done.values()), "result": f"{tally['right']} loads right, {tally['refused']} failed with a reason, in {epochs} epochs; {kept} exports waited for their clients",
            "faults": broken.done, "errors": errors, "before": before, "after": after}


def expire(machine, engine, server):
    """Ends the exports of the API that wait for clients which will not come back, as the end of their time does; how many there are.

    A load that failed leaves its export to the next load of the same image, which does not ask for it where the image is there by now.
    """
    listed = run(machine.binary, "ps", "--quiet", "--no-trunc", "--to", f"unix://{server.sockets['export']}", env=engine.env).output.split()
    for export in listed:
        engine.ctr("leases", "rm", f"{OURS}{export}")
    return len(listed)


def numbered(machine, engine, random):
    """Makes the next work, by `way` or by any."""
    numbers, lock = iter(range(10 ** 9)), threading.Lock()

    def make(way=None):
        with lock:
            number, chosen = next(numbers), way or random.choice(engine.ways)
        return Work(machine, engine, chosen, [f"soak-fault-{number}:1"], f"{machine.options.seed} fault {number}", SIZE)

    return make


def epoch(server, works, broken):
    """Loads by several threads, until the faults are over; each work with how it ended."""
    ended, over, failed = [], threading.Event(), []

    def load():
        while not over.is_set() and not failed:
            try:
                work = works()
                ended.append((work, work.start(server).wait()))
            except Exception as defect:  # of a thread nobody else would hear
                failed.append(f"a load: {defect!r}")

    threads = [threading.Thread(target=load) for _ in range(LOADERS)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + EPOCH_SECONDS
    try:
        while time.monotonic() < end:
            time.sleep(broken.random.uniform(0.2, 4))
            broken.one()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if failed or not ended:
        raise Failed(failed[0] if failed else "no load ended in an epoch")
    return ended


def judge(engine, server, ended, tally, errors):
    """Whoever got a success has the image, and a failure has a reason; no name is at half an image, and what failed succeeds now."""
    names = engine.names()
    for work, how in ended:
        name = work.names[0]
        if how.code == 0:
            is_right(engine, work, names)
            tally["right"] += 1
        else:
            reason = the_reason(how)
            errors[reason] = errors.get(reason, 0) + 1
            tally["refused"] += 1
            if full(name) in names:
                engine.check(name, names[full(name)])
            again = work.start(server).wait()
            if again.code != 0:
                raise Failed(f"a load by {work.way} that failed fails again although all daemons run: {again}")
            is_right(engine, work, engine.names())
        engine.remove(name)
        work.clean()


# How a failure reads; dockerd gives what its client of containerd said, which begins with a status of gRPC, as it is.
REASON = re.compile(r"\berror\b|failed|cannot|^(Aborted|Canceled|DeadlineExceeded|Unavailable|Unknown): ", re.IGNORECASE)


def the_reason(how):
    """What a command says of its failure, without the numbers in it."""
    lines = [line for line in how.output.splitlines() if REASON.search(line)]
    if how.code < 0 or "panicked" in how.output or not lines:
        raise Failed(f"a failure without a reason: {how}")
    return re.sub(r"[0-9a-f]{8,}|\d+", "N", lines[-1])[:300]


def all_ways(engine, server, works):
    """Every way works, with nothing mended by hand."""
    for way in engine.ways:
        work = works(way)
        how = work.start(server).wait()
        if how.code != 0:
            raise Failed(f"a load by {way} fails although all daemons run again: {how}")
        is_right(engine, work, engine.names())
        engine.runs(work.names[0], work)
        engine.remove(work.names[0])
        work.clean()
