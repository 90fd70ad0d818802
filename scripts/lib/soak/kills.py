"""Linkspan is killed with SIGKILL at random instants of loads, on every engine and by every way into it."""

import time

from images import full
from machine import Failed, run, say, until
from resources import nothing_left
from serving import Server, Work

MOVING = "soak-moving:1"
SIZE = 3 << 20


def kills(machine, engine, random):
    """Rounds of a kill, a restart, a look, and the same load again."""
    server = Server(machine, engine)
    typical = {way: min(undisturbed(machine, engine, server, way, number) for number in range(3)) for way in engine.ways}
    tally = {"named before the end": 0}
    moving, rounds, tries = None, 0, 0
    while rounds < machine.options.rounds_or(200) and machine.has_time():
        way = random.choice(engine.ways)
        tries += 1
        name = f"soak-kill-{tries}:1"
        work = Work(machine, engine, way, [name, MOVING], f"{machine.options.seed} {engine.name} {tries}", SIZE)
        try:
            is_hit = one(machine, engine, server, work, random.uniform(0, typical[way] * 1.15), tally, moving)
        except Failed as failed:
            raise Failed(f"try {tries}, by {way}: {failed}; see {server.log}") from None
        moving = engine.names()[full(MOVING)]
        if tries % 10 == 1:
            engine.runs(MOVING, work)
        engine.remove(name)
        work.clean()
        rounds += is_hit  # a load that had ended is none that was killed
        if tries % 25 == 0:
            say(f"kills: {engine.name}: {rounds} rounds, {tally}")
    server.check_log()
    server.stop()
    nothing_left(engine)
    counted = ", ".join(f"{count} {what}" for what, count in tally.items() if count)
    return {"rounds": rounds, "result": f"{rounds} loads killed" + (f", {counted}" if counted else "")}


def undisturbed(machine, engine, server, way, number):
    """How long a load takes."""
    work = Work(machine, engine, way, [MOVING], f"{machine.options.seed} undisturbed {way} {number}", SIZE)
    begun = time.monotonic()
    ended = work.start(server).wait()
    taken = time.monotonic() - begun
    if ended.code != 0:
        raise Failed(f"a load that nothing disturbs fails: {ended}\n{server.last_words()}")
    engine.check(MOVING, work.digest)
    engine.runs(MOVING, work)
    work.clean()
    return taken


def one(machine, engine, server, work, delay, tally, moving):
    """One kill, and what has to be true after it; whether the load was still under way."""
    loading = work.start(server)
    time.sleep(delay)
    is_hit = loading.process.poll() is None
    if work.way == "command":
        loading.kill()
    else:
        server.kill()
    ended = loading.wait()
    if work.way == "command":
        run(machine.binary, *engine.next_command, *engine.flags, env=engine.env)
    else:
        server.start()
    names = engine.names()
    own, moved = names.get(full(work.names[0])), names.get(full(MOVING))
    tally["named before the end"] += own is not None and ended.code != 0
    if moving and not moved:
        raise Failed(f"the name {MOVING} is lost; it was {moving}")
    if ended.code == 0 and not own:
        raise Failed(f"the load succeeded, and its name is not there: {ended}")
    for name, digest in ((work.names[0], own), (MOVING, moved)):
        if digest:
            engine.check(name, digest)
    # What was sent through the exporter API waits for its client, which comes back now.
    if work.way != "export":
        dead_are_gone(engine)
    again = work.start(server).wait()
    if again.code != 0:
        raise Failed(f"the same load again fails: {again}")
    names = engine.names()
    for name in work.names:
        engine.check(name, names[full(name)])
    if engine.name != "docker-classic" and names[full(MOVING)] != work.digest:
        raise Failed(f"{MOVING} is {names[full(MOVING)]} after a load of {work.digest}")
    nothing_left(engine)
    return is_hit


def dead_are_gone(engine):
    """The leases of the process that was killed are released by its successor; a layout keeps the parts of blobs for an hour."""
    until(f"the dead process's leases in {engine.name} to go", lambda: not [one for one in engine.left() if one.startswith(("lease", "_linkspan/leases"))], 60, 0.2)
