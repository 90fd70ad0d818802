# Shared by the scripts beside it: words, places, and how they fail.
# shellcheck shell=bash disable=SC2034  # used by the scripts that source this
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${LINKSPAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/linkspan}
system_path=$PATH
if [ "$cache" != none ]; then
    export PATH="$cache/bin:$PATH"
    mkdir -p "$cache"
fi

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die WHAT [REMEDY]: one line what is wrong, one line what to do.
die() {
    say "error: $1"
    [ -n "${2:-}" ] && say "hint: $2"
    exit 1
}

need_root() { [ "$(id -u)" = 0 ] || die "this needs root" "run it again with sudo"; }
