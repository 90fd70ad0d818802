"""From times to figures."""

from statistics import median


def take_turns(runs, named, measure):
    """Seconds of each contender; in each round they come in another order."""
    times = {name: [] for name in named}
    names = list(named)
    for turn in range(runs):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            times[name].append(measure(named[name], turn))
    return times


def ratio(times, one, other):
    """Of medians; none where a contender did not run."""
    if not times.get(one) or not times.get(other):
        return None
    return round(median(times[one]) / median(times[other]), 3)


def figures(case, size, times, peak=None):
    result = {"case": case, "size_bytes": size, "runs": max((len(v) for v in times.values()), default=0)}
    for name in ("linkspan", "tar", "builtin", "floor"):
        result[f"{name}_s"] = round(median(times[name]), 4) if times.get(name) else None
    result["tar_over_linkspan"] = ratio(times, "tar", "linkspan")
    result["linkspan_over_builtin"] = ratio(times, "linkspan", "builtin")
    result["linkspan_over_floor"] = ratio(times, "linkspan", "floor")
    result["linkspan_peak_rss_bytes"] = peak
    result["spread_s"] = {name: [round(min(v), 4), round(max(v), 4)] for name, v in times.items() if v}
    return result
