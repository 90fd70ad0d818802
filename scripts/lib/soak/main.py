"""Long runs on real engines: crowds, races, kills, faults and fuzzing, and whether all of it is as before at the end."""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

import resources
from bucket import Object
from connections import connections
from engines import Containerd, Docker, DockerApi, DockerClassic, Layout
from faults import faults
from fuzzing import fuzz
from kills import kills
from machine import Failed, Machine, say
from parallel import collector, parallel

ENGINES = {engine.name: engine for engine in (Layout, Containerd, Docker, DockerClassic, DockerApi, Object)}
# Each case, and the engines that it is run on when none is named; None: it has no engine.
CASES = {
    "parallel": (parallel, ["docker", "containerd", "layout"]),
    "collector": (collector, ["containerd", "docker"]),
    "kills": (kills, list(ENGINES)),
    "faults": (faults, ["docker"]),
    "connections": (connections, ["docker"]),
    "fuzz": (fuzz, None),
}
EPILOG = """\
cases:
  parallel     64 loads at once by all ways (--rounds 10): `linkspan load`, the exporter API, a builder's door, `docker load`
  collector    1,000 loads and removals beside containerd's garbage collector, which runs without a pause
  kills        200 times SIGKILL at a random instant of a load, for each engine: then every name is at a whole image, what the
               dead process had is released, and the same load succeeds
  faults       daemons that are killed and stopped and connections that are cut at random, for --minutes, with loads beside
               them: each is right or fails with the reason in due time, and afterwards all ways work
  connections  10,000 connections (--rounds) to each door: idle ones are held back at the limit, all others are served
  fuzz         10,000,000 inputs (--rounds) for each fuzz target; compiles them

A case also fails unless memory, descriptors and threads of the daemon and its leases, ingests, unfinished snapshots, staging
and temporary files are back at the end; memory may be a quarter and 24 MiB above the beginning, for allocators keep pages.
A case that has used its --minutes begins no further round. The daemons are a stack of their own, taken down at the end.
Exit code: 0 when every invariant held, 1 when one did not, 2 for a wrong command line.

examples:
  scripts/soak --case kills --engine layout --rounds 1000
  scripts/soak --case collector --case parallel --minutes 60 --json soak.json
  scripts/soak --case kills --rounds 3 --binary target/debug/linkspan
"""


def options():
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, metavar="NAME", help="only this case; may be repeated")
    parser.add_argument("--engine", action="append", choices=ENGINES, metavar="NAME", help=f"only this engine ({', '.join(ENGINES)}); may be repeated")
    parser.add_argument("--rounds", type=int, metavar="N", help="so many rounds instead of those below")
    parser.add_argument("--minutes", type=float, default=20, metavar="M", help="begin no round after so long, for each case and engine (default: 20)")
    parser.add_argument("--seed", type=int, metavar="N", help="repeats the choices of another run, which says its seed (default: a new one)")
    parser.add_argument("--json", metavar="FILE", help="write the results as a JSON array")
    parser.add_argument("--binary", metavar="FILE", help="the linkspan to test (default: a release build of this tree)")
    parser.add_argument("--settle", type=float, default=60, metavar="S", help="how long what is to go may take to go, in seconds (default: 60)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs when a case fails")
    found = parser.parse_args()
    if (found.rounds is not None and found.rounds < 1) or found.minutes <= 0:
        parser.error("--rounds and --minutes must be positive")
    if found.binary and not os.access(found.binary, os.X_OK):
        parser.error(f"--binary {found.binary} is not a program")
    if os.geteuid() != 0:
        sys.exit("soak: error: this needs root: run it again with sudo")
    found.seed = random.randrange(10 ** 6) if found.seed is None else found.seed
    found.rounds_or = lambda usual: found.rounds or usual
    return found


def attempt(machine, case, name, engine):
    """Runs a case on an engine; its result, which says whether all held."""
    found = {"case": name, "engine": engine or "-", "seed": machine.options.seed}
    begun, made = time.monotonic(), None
    machine.begin()
    choices = random.Random(f"{machine.options.seed} {name} {engine}")
    try:
        made = ENGINES[engine](machine) if engine else None
        found.update(case(machine, made, choices), held=True)
        if not found["rounds"]:
            found.update(held=False, result=f"no round in {machine.options.minutes:g} minutes")
    except Failed as failed:
        found.update(held=False, result=str(failed))
    except Exception:  # a defect of this program must not hide what other cases find
        found.update(held=False, result=traceback.format_exc())
    finally:
        machine.end(made)
    found["seconds"] = round(time.monotonic() - begun, 1)
    say(f"{name} {found['engine']}: {'held' if found['held'] else 'FAILED'}: {found['result']}")
    return found


def change(found, what, scale=1):
    return "-" if "before" not in found else f"{found['before'][what] // scale} -> {found['after'][what] // scale}"


def print_table(results):
    print("| case | engine | rounds | held | what | memory (MiB) | descriptors | threads | minutes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for found in results:
        short = found["result"].splitlines()[0][:160].replace("|", "\\|") if found["result"] else ""
        print(f"| {found['case']} | {found['engine']} | {found.get('rounds', '-')} | {'yes' if found['held'] else 'NO'} | {short} | "
              f"{change(found, 'memory', 1 << 20)} | {change(found, 'descriptors')} | {change(found, 'threads')} | {found['seconds'] / 60:.1f} |")


def main():
    asked, results = options(), []
    resources.SETTLE_SECONDS = asked.settle
    for number in (signal.SIGTERM, signal.SIGHUP):  # the stack is taken down then, too
        signal.signal(number, lambda *_: sys.exit(1))
    work = tempfile.mkdtemp(prefix="ls-soak-")
    machine = Machine(work, asked)
    say(f"seed {asked.seed}, in {work}")
    try:
        for name in asked.case or CASES:
            case, engines = CASES[name]
            for engine in [None] if engines is None else asked.engine or engines:
                results.append(attempt(machine, case, name, engine))
                if asked.json:  # after each: a run that is cut short keeps what it has
                    with open(asked.json, "w", encoding="utf-8") as out:
                        json.dump(results, out, indent=1)
    finally:
        machine.close()
        if not asked.keep or all(found["held"] for found in results):
            shutil.rmtree(work, ignore_errors=True)
    print_table(results)
    sys.exit(0 if results and all(found["held"] for found in results) else 1)


if __name__ == "__main__":
    main()
