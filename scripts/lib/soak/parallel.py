"""Crowds of exports at once, and exports beside the engine's garbage collector."""

import threading
from concurrent.futures import ThreadPoolExecutor

from images import full, noise
from machine import Failed, say
from resources import at_rest, back
from serving import Server, Work

AT_ONCE = 64


def parallel(machine, engine, random):
    """64 loads at once, by all ways, again and again; their first layers are the same."""
    server, rounds = Server(machine, engine), 0
    shared = [noise(f"{machine.options.seed} shared {number}", 1 << 20) for number in range(2)]

    def crowd(number):
        works = [Work(machine, engine, random.choice(engine.ways), [f"soak-{number}-{one}:1"], f"{machine.options.seed} {number} {one}", 400_000, shared)
                 for one in range(AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for work, ended in zip(works, threads.map(lambda work: work.start(server).wait(600), works)):
                if ended.code != 0:
                    raise Failed(f"a load by {work.way} fails beside {AT_ONCE - 1} others: {ended}; see {server.log}")
        names = engine.names()
        for work in works:
            is_right(engine, work, names)
        for work in random.sample(works, 4):
            engine.runs(work.names[0], work)
        for work in works:
            engine.remove(work.names[0])
            work.clean()

    crowd("warm")
    before = at_rest(server.process.pid)
    while rounds < machine.options.rounds_or(10) and machine.has_time():
        crowd(rounds)
        rounds += 1
        say(f"parallel: {engine.name}: {rounds} rounds of {AT_ONCE}")
    server.check_log()
    after = back(server.process.pid, before, engine)
    server.stop()
    return {"rounds": rounds, "result": f"{rounds * AT_ONCE} exports, {AT_ONCE} at once", "before": before, "after": after}


def is_right(engine, work, names):
    """The name is there, at the image that was loaded, which is whole."""
    found = names.get(full(work.names[0]))
    if not found:
        raise Failed(f"{work.names[0]} is not there after its load by {work.way} succeeded")
    if engine.name != "docker-classic" and found != work.digest:
        raise Failed(f"{work.names[0]} is {found} after a load of {work.digest} by {work.way}")
    engine.check(work.names[0], found)


class Collector:
    """containerd's garbage collector, run without a pause: the deletion of a lease waits for a collection, if it is told to."""

    def __init__(self, engine):
        self.engine, self.runs, self.failed = engine, 0, None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while not self.over.is_set():
            try:
                lease = f"soak-collect-{self.runs}"
                self.engine.ctr("leases", "create", "--id", lease)
                self.engine.ctr("leases", "delete", "--sync", lease)
                self.runs += 1
            except Failed as failed:
                self.failed = failed
                return

    def end(self):
        self.over.set()
        self.thread.join(120)
        if self.failed:
            raise Failed(f"the collector could not be run: {self.failed}")
        return self.runs


def collector(machine, engine, random):
    """Exports of few images again and again, removed again and again, beside collections of whatever nobody refers to."""
    if not hasattr(engine, "ctr"):
        raise Failed(f"{engine.name} has no collector of containerd's; hint: --engine containerd or docker")
    server, seed = Server(machine, engine), machine.options.seed
    shared = [noise(f"{seed} race {number}", 300_000) for number in range(3)]
    writers = 4

    # Each writer has images of its own, whose layers are those of the others', too: what one removes another one needs.
    def make(writer, number):
        way = engine.ways[(writer + number) % len(engine.ways)]
        layers = [shared[(writer + number) % 3], shared[(writer + number + 1) % 3]]
        return Work(machine, engine, way, [f"soak-race-{writer}:1"], f"{seed} race {number}", 200_000, layers)

    works = [[make(writer, number) for number in range(3)] for writer in range(writers)]
    for work in [work for row in works for work in row]:
        one_race(engine, server, work, True)
    before = at_rest(server.process.pid)
    collecting, done, lock = Collector(engine), [0], threading.Lock()
    asked = machine.options.rounds_or(1000)

    def write(writer):
        turn = 0
        while machine.has_time() and not collecting.failed:
            with lock:
                if done[0] >= asked:
                    return
                done[0] += 1
                number = done[0]
            one_race(engine, server, works[writer][turn % 3], number % 20 == 0)
            turn += 1
            if number % 100 == 0:
                say(f"collector: {engine.name}: {number} exports beside {collecting.runs} collections")

    try:
        with ThreadPoolExecutor(writers) as threads:
            for ended in [threads.submit(write, writer) for writer in range(writers)]:
                ended.result()
    finally:
        runs = collecting.end()
    if runs < done[0] // 20:
        raise Failed(f"only {runs} collections ran beside {done[0]} exports")
    server.check_log()
    after = back(server.process.pid, before, engine)
    server.stop()
    return {"rounds": done[0], "result": f"beside {runs} collections", "before": before, "after": after}


def one_race(engine, server, work, is_run):
    """Loads it, looks at all of it, and takes its name away, so that the collector has something to do."""
    ended = work.start(server).wait()
    if ended.code != 0:
        raise Failed(f"a load by {work.way} fails beside the collector: {ended}; see {server.log}")
    is_right(engine, work, engine.names())
    if is_run:
        engine.runs(work.names[0], work)
    engine.remove(work.names[0])
