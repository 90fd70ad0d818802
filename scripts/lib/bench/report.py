"""The table that the README shows."""


def seconds(value):
    return "-" if value is None else f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def print_table(results):
    print("| case | image | Linkspan | tar path | built-in builder | floor | tar / Linkspan | Linkspan / built-in | Linkspan / floor | peak memory |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in (result for result in results if "linkspan_s" in result):
        cells = [r["case"], f"{r['size_bytes'] / 1e9:.1f} GB"]
        cells += [seconds(r[f"{name}_s"]) for name in ("linkspan", "tar", "builtin", "floor")]
        cells += ["-" if r[key] is None else f"{r[key]:.2f}" for key in ("tar_over_linkspan", "linkspan_over_builtin", "linkspan_over_floor")]
        cells.append("-" if r["linkspan_peak_rss_bytes"] is None else f"{r['linkspan_peak_rss_bytes'] / (1 << 20):.0f} MiB")
        print("| " + " | ".join(cells) + " |")
    for r in (result for result in results if "linkspan_s" not in result):
        print(f"\n{r['case']}:")
        for what in ("version", "cp_out", "cp_in"):
            print(f"  {what}: direct {seconds(r[f'{what}_direct_s'])}, through the door {seconds(r[f'{what}_linkspan_s'])}")
