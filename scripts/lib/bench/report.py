"""The table that the README shows."""


def seconds(value):
    return "-" if value is None else f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def print_table(results):
    print_bounds([result for result in results if "inflate_mb_s" in result])
    print_builds([result for result in results if "linkspan_s" in result])
    print_proxy([result for result in results if "version_direct_s" in result])
    print_caches([result for result in results if "cache_s" in result])
    print_pushes([result for result in results if "push_s" in result])
    print_objects([result for result in results if "object_s" in result])
    print_targets([result for result in results if "target" in result])


def print_bounds(results):
    for r in results:
        print("| this machine, one thread | |")
        print("|---|---|")
        print(f"| inflate | {r['inflate_mb_s']:.0f} MB/s of files |")
        print(f"| SHA-256 | {r['sha256_mb_s']:.0f} MB/s |")
        print(f"| new files of 4 KB | {r['creations_s']:.0f} a second |")
        print(f"| write to the disk | {r['write_mb_s']:.0f} MB/s |\n")


def print_builds(results):
    if not results:
        return
    print("| case | image | Linkspan | tar path | built-in builder | floor | tar / Linkspan | Linkspan / built-in | Linkspan / floor | peak memory |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in results:
        cells = [r["case"], f"{r['size_bytes'] / 1e9:.1f} GB"]
        cells += [seconds(r[f"{name}_s"]) for name in ("linkspan", "tar", "builtin", "floor")]
        cells += ["-" if r[key] is None else f"{r[key]:.2f}" for key in ("tar_over_linkspan", "linkspan_over_builtin", "linkspan_over_floor")]
        cells.append("-" if r["linkspan_peak_rss_bytes"] is None else f"{r['linkspan_peak_rss_bytes'] / (1 << 20):.0f} MiB")
        print("| " + " | ".join(cells) + " |")


def print_proxy(results):
    for r in results:
        print(f"\n{r['case']}:")
        for what in ("version", "cp_out", "cp_in"):
            print(f"  {what}: direct {seconds(r[f'{what}_direct_s'])}, through the door {seconds(r[f'{what}_linkspan_s'])}")


def print_caches(results):
    if not results:
        return
    kinds = ("linkspan", "lazy", "local", "registry")
    print("\n| case | " + " | ".join(f"{kind}, own share" for kind in kinds) + " | floor | peak memory | target |")
    print("|---|---|---|---|---|---|---|---|")
    for r in results:
        cells = [r["case"]]
        cells += [f"{seconds(r['cache_s'][k])}, {seconds(r['share_s'][k])}" if k in r["cache_s"] else "-" for k in kinds]
        cells += [seconds(r["cache_s"]["floor"]), f"{r['peak_rss_bytes'] / (1 << 20):.0f} MiB", r["cache_target"]]
        print("| " + " | ".join(cells) + " |")


def print_pushes(results):
    if not results:
        return
    print("\n| case | Linkspan | unregistry | registry, pulled | floor | unregistry / Linkspan | registry / Linkspan | peak memory | target |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        cells = [r["case"], *(seconds(r["push_s"].get(way)) for way in ("linkspan", "unregistry", "registry", "floor"))]
        cells += ["-" if r[key] is None else f"{r[key]:.2f}" for key in ("unregistry_over_linkspan", "registry_over_linkspan")]
        cells += [f"{r['linkspan_peak_rss_bytes'] / (1 << 20):.0f} MiB", r["push_target"]]
        print("| " + " | ".join(cells) + " |")


def print_objects(results):
    if not results:
        return
    print("\n| case | Linkspan | pushed to Linkspan | pushed to the registry | floor | registry / Linkspan | registry / pushed | peak memory | target |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        cells = [r["case"], *(seconds(r["object_s"][way]) for way in ("linkspan", "pushed", "registry", "floor"))]
        cells += [f"{r[key]:.2f}" for key in ("registry_over_linkspan", "registry_over_pushed")]
        cells += [f"{r['linkspan_peak_rss_bytes'] / (1 << 20):.0f} MiB", r["object_target"]]
        print("| " + " | ".join(cells) + " |")


UNITS = {"api-warm layout": ("ms", 1e3, "<="), "api-warm docker": ("ms", 1e3, "<="), "api-stream": ("of the machine", 1, ">="),
         "api-small layout": ("blobs/s", 1, ">="), "api-small containerd": ("of ctr", 1, ">="), "api-memory": ("MiB", 1 / (1 << 20), "<="),
         "registry-blob PUT": ("of ctr", 1, ">="), "registry-blob PATCH": ("of ctr", 1, ">="), "registry-blob doubled": ("times", 1, "<="),
         "registry-memory": ("MiB", 1 / (1 << 20), "<="), "object-stream": ("of the machine", 1, ">="),
         "object-memory": ("MiB", 1 / (1 << 20), "<="), "kind-edit": ("times", 1, ">="), "warm-observed": ("times", 1, "<=")}


def print_targets(results):
    if not results:
        return
    print("\n| case | measured | target | reached |")
    print("|---|---|---|---|")
    for r in results:
        unit, factor, sign = UNITS[r["case"]]
        measured, target = (f"{r[key] * factor:.4g}" for key in ("measured", "target"))
        print(f"| {r['case']} | {measured} {unit} | {sign} {target} {unit} | {'yes' if r['reached'] else 'no'} |")
