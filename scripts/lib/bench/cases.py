"""All cases by name, in the order in which they run."""

from bounds import bounds
from builds import big_edit, classic, cold, container, docker_api, edit, layers100, memory, remote, warm
from caching import export_first, export_warm, import_fresh, import_noop
from clusters import kind_edit
from exporting import api_memory, api_small, api_stream, api_warm
from far import over_ssh
from loads import load_cold, load_memory, load_warm
from observing import warm_observed
from proxying import proxy
from registering import blob, push_cold, push_edit, push_memory, push_warm
from storing import object_edit, object_memory, object_stream, object_warm

CASES = {
    "bounds": bounds,
    "warm": warm(remote),
    "warm-observed": warm_observed,
    "edit": edit(remote),
    "layers100": layers100,
    "container-warm": warm(container),
    "container-edit": edit(container),
    "classic-edit": edit(classic),
    "docker-api-warm": warm(docker_api),
    "docker-api-edit": edit(docker_api),
    "ssh-warm": warm(over_ssh),
    "ssh-edit": edit(over_ssh),
    "load-warm": load_warm,
    "proxy": proxy,
    "big-edit": big_edit,
    "cold": cold,
    "load-cold": load_cold,
    "memory": memory,
    "load-memory": load_memory,
    "cache-export-warm": export_warm,
    "cache-export-first": export_first,
    "cache-import-noop": import_noop,
    "cache-import-fresh": import_fresh,
    "api-warm": api_warm,
    "api-stream": api_stream,
    "api-small": api_small,
    "api-memory": api_memory,
    "registry-warm": push_warm,
    "registry-edit": push_edit,
    "registry-cold": push_cold,
    "registry-blob": blob,
    "registry-memory": push_memory,
    "object-warm": object_warm,
    "object-edit": object_edit,
    "object-stream": object_stream,
    "object-memory": object_memory,
    "kind-edit": kind_edit,
}
