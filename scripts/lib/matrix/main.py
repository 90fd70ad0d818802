"""Runs the theme of each pair of versions, and writes the table."""

import argparse
import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(os.path.dirname(HERE), "soak"))

from machine import Failed, Machine, say  # noqa: E402  # of the folder beside this one
from theme import THEMES  # noqa: E402

CACHE = os.environ.get("LINKSPAN_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "linkspan")
NEWEST = {"containerd": "2.3", "docker": "29", "buildkit": "0.32", "buildx": "0.36"}
STEPS = ("cold", "warm", "edit", "docker load", "exporter API")


def pairs():
    """Each pair that matters: what is not named is the newest. Docker's older versions come with the containerd of their time."""
    found = [{"docker": "20.10", "containerd": "1.6", "store": "docker-classic"}]
    for docker, containerd in (("23", "1.7"), ("24", "1.7"), ("26", "1.7"), ("28", "1.7"), ("29", "2.3")):
        found += [{"docker": docker, "containerd": containerd, "store": store} for store in ("docker-classic", "docker")]
    found += [{"containerd": version, "store": "containerd"} for version in ("1.6", "1.7", "2.3")]
    found += [{"buildkit": version, "store": "docker"} for version in ("0.11", "0.13", "0.18", "0.21", "0.26")]
    found += [{"buildx": version, "store": "docker"} for version in ("0.13", "0.17", "0.24")]
    return [{**NEWEST, **pair} for pair in found]


def title(pair):
    """What the pair is called: its engine, and what is not the newest beside it."""
    engine = f"containerd-{pair['containerd']}" if pair["store"] == "containerd" else f"docker-{pair['docker']}"
    store = {"docker": ", containerd store", "docker-classic": ", classic store"}.get(pair["store"], "")
    builders = [f"{name}-{pair[name]}" for name in ("buildkit", "buildx") if pair[name] != NEWEST[name]]
    return f"{engine}{store}" + "".join(f", {builder}" for builder in builders)


def reason(pair):
    """Why a pair cannot be had here, or None."""
    for name, version in pair.items():
        folder = os.path.join(CACHE, "matrix", f"{name}-{version}")
        if name == "store" or version == NEWEST[name] or os.path.exists(os.path.join(folder, "done")):
            continue
        path = os.path.join(folder, "reason")
        if not os.path.exists(path):
            return f"{name} {version} was not installed"
        with open(path, encoding="utf-8") as file:
            return f"{name} {version} cannot be built here: {file.read().strip()}"
    return None


def programs(pair, folder):
    """A cache with the programs of a pair: those of the stack, and the older ones in their places."""
    target = os.path.join(folder, "cache", "bin")
    os.makedirs(target)
    sources = [os.path.join(CACHE, "bin")] + [os.path.join(CACHE, "matrix", f"{name}-{version}", "bin") for name, version in pair.items()]
    for source in filter(os.path.isdir, sources):
        for name in os.listdir(source):
            link = os.path.join(target, name)
            if os.path.lexists(link):
                os.unlink(link)
            os.symlink(os.path.realpath(os.path.join(source, name)), link)
    return os.path.dirname(target)


def attempt(pair, asked):
    """The theme of one pair, on a stack of its own: a word for each step."""
    why = reason(pair)
    if why:
        return {"all": why}
    work = tempfile.mkdtemp(prefix="ls-mx-")
    machine = Machine(work, asked, programs(pair, work))
    said = {}
    try:
        for step, outcome in THEMES[pair["store"]](machine, pair):
            said[step] = outcome
            say(f"{title(pair)}: {step}: {outcome}")
    except Failed as failed:
        said["all" if not said else "then"] = str(failed)[:1500]
        say(f"{title(pair)}: {failed}")
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return said


def rows_of(path):
    """The rows that a file has between its marks, by what they are called."""
    with open(path, encoding="utf-8") as file:
        _, _, rest = file.read().partition("<!-- matrix -->\n")
    rows = [line for line in rest.partition("<!-- /matrix -->")[0].splitlines() if line.startswith("| ")]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def table(results, earlier):
    """The table of what was run now and, by their rows, of what was run `earlier`."""
    lines = ["| with | " + " | ".join(STEPS) + " |", "|---|" + "---|" * len(STEPS)]
    for pair in pairs():
        said = results.get(title(pair))
        if said is None:
            lines += [earlier[title(pair)]] if title(pair) in earlier else []
            continue
        if "all" in said:
            lines.append(f"| {title(pair)} | " + said["all"].splitlines()[0].replace("|", "\\|")[:200] + " |" + " |" * (len(STEPS) - 1))
        else:
            cells = [said.get(step, said.get("then", "-")).splitlines()[0].replace("|", "\\|")[:160] for step in STEPS]
            lines.append(f"| {title(pair)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(path, text):
    """Puts the table between its marks."""
    with open(path, encoding="utf-8") as file:
        before, _, rest = file.read().partition("<!-- matrix -->\n")
    _, _, after = rest.partition("<!-- /matrix -->")
    if not after:
        sys.exit(f"matrix: error: {path} has no lines `<!-- matrix -->` and `<!-- /matrix -->`")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}<!-- matrix -->\n{text}<!-- /matrix -->{after}")


def main():
    parser = argparse.ArgumentParser(prog="scripts/matrix", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORDS")
    parser.add_argument("--write", metavar="FILE")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--binary", metavar="FILE")
    asked = parser.parse_args()
    asked.minutes, results = 60, {}
    if asked.json and os.path.exists(asked.json):
        with open(asked.json, encoding="utf-8") as file:
            results = json.load(file)
    words = [word for word in asked.only.split(",") if word]
    chosen = [pair for pair in pairs() if not words or any(word in title(pair) for word in words)]
    for pair in chosen:
        results[title(pair)] = attempt(pair, asked)
        if asked.json:  # after each: a run that is cut short keeps what it has
            with open(asked.json, "w", encoding="utf-8") as out:
                json.dump(results, out, indent=1)
    if asked.write:
        write(asked.write, table(results, rows_of(asked.write)))
    else:
        print(table(results, {}), end="")


if __name__ == "__main__":
    main()
