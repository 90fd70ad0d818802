"""What a daemon holds, at the beginning and at the end.

A beginning is taken after the case's own work was done once, when the numbers have stood still for a while: caches, pools and
the allocator have their working size then. At the end descriptors and threads have to be back within a limit of time, and
nothing of Linkspan's may be left in the engine. Memory is back if it is at most a quarter and 24 MiB above the beginning: an
allocator keeps pages, and what leaks by the export exceeds that in a long run.
"""

import os
import time

from machine import Failed, until

STILL_SECONDS = 6
SETTLE_SECONDS = 60
MEMORY = (1.25, 24 << 20)


def sample(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {"memory": int(fields["VmRSS"].split()[0]) * 1024, "descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": int(fields["Threads"])}


def counts(pid):
    found = sample(pid)
    return found["descriptors"], found["threads"]


def at_rest(pid):
    """A sample once descriptors and threads have stood still for some seconds."""
    end, last, since = time.monotonic() + SETTLE_SECONDS, counts(pid), time.monotonic()
    while time.monotonic() < end and time.monotonic() - since < STILL_SECONDS:
        time.sleep(0.5)
        now = counts(pid)
        if now != last:
            last, since = now, time.monotonic()
    return sample(pid)


def nothing_left(engine):
    """Fails if something of Linkspan's stays in the engine."""
    found, limit = [], SETTLE_SECONDS

    def look():
        found[:] = engine.left()
        return not found

    try:
        until("what is left to go", look, limit, every=0.5)
    except Failed:
        raise Failed(f"left in {engine.name} after {limit:g} s: {', '.join(found[:10])} ({len(found)} in all)") from None


def back(pid, before, engine=None):
    """The sample at the end; fails unless it is the beginning again."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        now = sample(pid)
        more = [what for what in ("descriptors", "threads") if now[what] > before[what]]
        most = before["memory"] * MEMORY[0] + MEMORY[1]
        if now["memory"] > most:
            more.append("memory")
        if not more:
            break
        if time.monotonic() > end:
            shown = ", ".join(f"{what} {before[what]} -> {now[what]}" for what in more)
            raise Failed(f"not back after {SETTLE_SECONDS} s: {shown}; open: {opened(pid)}")
        time.sleep(0.5)
    if engine:
        nothing_left(engine)
    return now


def opened(pid):
    """What its descriptors are, the most frequent kinds first."""
    kinds = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            kind = os.readlink(f"/proc/{pid}/fd/{name}").split(":[")[0]
        except FileNotFoundError:
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda pair: -pair[1])[:8])
