"""Measures whole `docker buildx build` commands: the tar path, Linkspan, the engine's own builder, and the floor."""

import argparse
import json
import os
import sys
import tempfile

from cases import CASES
from machine import Bench, CACHE
from report import print_table

EPILOG = """\
cases:
  bounds          what this machine itself allows: inflate, SHA-256, new files, writes to the disk
  warm            nothing changed since the last build
  warm-observed   the same through two Linkspans, one of which has metrics, scraped every second, and sends traces
  edit            the last line of the Dockerfile changed
  layers100       100 small layers, nothing changed
  container-warm  the same as warm, with builders of the docker-container driver
  container-edit  the same as edit, with builders of the docker-container driver
  classic-edit    the same as edit, with `type=linkspan` to an engine with the classic image store
  docker-api-warm the same as warm, to an engine of which only the API is used, without containerd's socket
  docker-api-edit the same as edit, to that engine
  ssh-warm        the same as warm, to such an engine at `ssh://…`; `tar` goes there over the same ssh, to an sshd of this host
  ssh-edit        the same as edit, to that engine
  load-warm       `docker load` of an archive whose blobs are present; `tar` is the engine's own load
  proxy           `docker version` and `docker cp` of 1 GB, with and without the docker door
  big-edit        a RUN made a layer of real files, 666 MB at the default --size; also with each --load-compression
  cold            an image that the engine has never seen, until it runs: each run on a new engine and a new file system;
                  also with containerd's diff service, which `--layer-applier containerd` unpacks by
  load-cold       `docker load` of an archive that the engine has never seen, each on a new engine and file system
  memory          an image of --memory-size GB streamed; Linkspan's peak resident memory
  load-memory     an archive of --memory-size GB loaded; Linkspan's peak resident memory
  cache-export-warm   `--cache-to` of types linkspan, local and registry, mode=max, nothing changed
  cache-export-first  the same to a cache that is new, layers that the engine does not have
  cache-import-noop   `--cache-from` into a builder that has everything
  cache-import-fresh  the same into a builder that has nothing, then `--load`; all steps cached
  api-warm        the exporter API, from Open to the end of Commit: 100 layers that are present, on layout and on docker
  api-stream      the exporter API: 3 GB in 8 layers to layout until they are on the disk, as a part of what SHA-256 on
                  one core and the disk allow, whichever is less
  api-small       the exporter API: 10,000 blobs of 1 KiB to layout until they are on the disk; 2,000 to containerd, as a
                  multiple of `ctr content ingest`, of which as many processes run at a time
  api-memory      the exporter API: --memory-size GB in 8 layers to layout; Linkspan's peak resident memory
  registry-warm   `--push` to the registry door, to unregistry on the same engine, and to the distribution registry with
                  `docker pull` after it; nothing changed
  registry-edit   the same, the last line of the Dockerfile changed
  registry-cold   the same to engines and registries that have seen nothing, until it runs; without unregistry
  registry-blob   a blob of 2 GB to containerd in one PUT, and in PATCHes of 1 MiB, as a part of the speed of
                  `ctr content ingest`; how much longer 2 GB of PATCHes take than 1 GB
  registry-memory --memory-size GB in 8 blobs pushed to layout; Linkspan's peak resident memory
  object-warm     `type=linkspan` to a bucket, `--push` to the registry door over that bucket, and to the distribution
                  registry over the same server; nothing changed
  object-edit     the same, the last line of the Dockerfile changed
  object-stream   `linkspan copy` of 3 GB in 8 layers to a bucket, as a part of the speed of SHA-256 on one core or of
                  the server's own PUTs, whichever is less
  object-memory   `linkspan copy` of --memory-size GB in 8 layers to a bucket; its peak resident memory
  kind-edit       `linkspan load` of an image of docker to a cluster of two nodes that have all but its last layer, against
                  `docker save` and `ctr images import` in each node, as `kind load docker-image` does it

Contenders take turns, each with a build of its own, so that none profits from another's cache; figures are medians.
The base image is made of real files of this machine. Everything runs on a stack of its own, taken down at the end.

The client of the api cases shares the cores with what it measures, so it only sends: its bytes are made and hashed before.

examples:
  scripts/bench --case warm --case edit --runs 10
  scripts/bench --size 3 --out bench.json
"""


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=3.0, metavar="GB", help="size of the base image's files (default: 3)")
    parser.add_argument("--memory-size", type=float, default=10.0, metavar="GB", help="size for the memory cases (default: 10)")
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="runs of each contender (default: 7; cold: at most 3)")
    parser.add_argument("--case", action="append", choices=CASES, metavar="NAME", help="only this case; may be repeated")
    parser.add_argument("--out", metavar="FILE", help="write the figures as a JSON array")
    options = parser.parse_args()
    if options.runs < 1 or options.size <= 0:
        parser.error("--runs and --size must be positive")
    if os.geteuid() != 0:
        sys.exit("bench: error: this needs root: run it again with sudo")

    results = []
    os.makedirs(CACHE, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ls-bench-") as work, Bench(work, options) as bench:
        for name in options.case or CASES:
            print(f"bench: {name}", file=sys.stderr, flush=True)
            found = CASES[name](bench, name)
            for result in [found] if isinstance(found, dict) else found:
                results.append(result)
                print(json.dumps(result), file=sys.stderr, flush=True)
                if options.out:  # after each result: a run that is cut short keeps what it has
                    with open(options.out, "w", encoding="utf-8") as out:
                        json.dump(results, out, indent=1)
    print_table(results)


if __name__ == "__main__":
    main()
