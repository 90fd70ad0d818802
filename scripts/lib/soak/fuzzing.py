"""Each fuzz target until it has had its inputs."""

import os
import re

from machine import ROOT, Failed, run, say


def fuzz(machine, _engine, _random):
    """10^7 inputs for each target, one after the other; a target that does not get there in its time has too few."""
    asked = machine.options.rounds_or(10_000_000)
    targets = sorted(name.removesuffix(".rs") for name in os.listdir(os.path.join(ROOT, "tests", "fuzz", "targets")))
    seconds, counts, crashed = int(machine.options.minutes * 60), {}, []
    for target in targets:
        ended = run(os.path.join(ROOT, "scripts", "fuzz"), "--runs", str(asked), "--seconds", str(seconds), target, check=False, limit=seconds + 3600)
        found = re.search(r"stat::number_of_executed_units:\s*(\d+)", ended.output)
        counts[target] = int(found.group(1)) if found else 0
        if ended.code != 0:
            crashed.append(f"{target}: {ended.output[-1500:]}")
        say(f"fuzz: {target}: {counts[target]} inputs, exit code {ended.code}")
    few = [target for target, count in counts.items() if count < asked]
    if crashed:
        raise Failed("\n".join(crashed))
    result = f"{len(targets)} targets, {min(counts.values())} inputs or more each, no crash"
    return {"rounds": min(counts.values()), "result": result + (f"; too slow for all in {seconds} s: {', '.join(few)}" if few else ""), "inputs": counts}
