# Starts and ends the daemons of one state folder. Sourced by scripts/stack.
#
# A daemon is ours when its pid file matches the process's start time and this
# boot, or when its environment carries this state folder's mark (containerd's
# shims inherit it, containers do not). Nothing is ever ended by its name.
# shellcheck shell=bash disable=SC2154  # state is set by the caller
mark() { printf 'LINKSPAN_STACK_MEMBER=%s' "$state"; }

# start_time PID: when it started, in clock ticks since boot; fails if it is gone or a zombie.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    read -ra stat <<<"${stat##*) }"
    [ "${stat[0]}" != Z ] && echo "${stat[19]}"
}

# running NAME: prints its pid, fails unless the very process that was started still lives.
running() {
    local pid started boot
    read -r pid started boot 2>/dev/null <"$state/run/$1.pid" || return 1
    [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] && [ "$(start_time "$pid")" = "$started" ] && echo "$pid"
}

# launch NAME COMMAND...: in the background, in its own session, with its log in log/NAME.log.
launch() {
    local name=$1 pid
    shift
    : >"$state/log/$name.log"
    # 9 is the lock on the state folder, which must not outlive this script.
    env "$(mark)" OTEL_TRACES_EXPORTER=none OTEL_METRICS_EXPORTER=none OTEL_LOGS_EXPORTER=none \
        setsid "$@" </dev/null >>"$state/log/$name.log" 2>&1 9>&- &
    pid=$!
    echo "$pid $(start_time "$pid" || echo gone) $(cat /proc/sys/kernel/random/boot_id)" >"$state/run/$name.pid"
}

# until_ready NAME CHECK...: polls CHECK until it succeeds, the daemon dies, or 60 s have passed.
until_ready() {
    local name=$1 deadline=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        running "$name" >/dev/null || fail_with_log "$name" "it ended while starting"
        [ "$SECONDS" -lt "$deadline" ] || fail_with_log "$name" "it did not respond within 60 s"
        sleep 0.05
    done
}

fail_with_log() {
    say "last lines of $state/log/$1.log:"
    tail -n 15 "$state/log/$1.log" | sed 's/^/    /' >&2
    die "$1 did not start: $2" "mend what its log names, then run this again"
}

# gone_within SECONDS PID...: waits until none of them lives.
gone_within() {
    local deadline=$((SECONDS + $1)) pid
    shift
    for pid in "$@"; do
        while start_time "$pid" >/dev/null; do
            [ "$SECONDS" -lt "$deadline" ] || return 1
            sleep 0.05
        done
    done
}

# end NAME: asks, waits 20 s, insists.
end() {
    local pid
    if pid=$(running "$1"); then
        kill -TERM "$pid" 2>/dev/null || true
        if ! gone_within 20 "$pid"; then
            say "$1 ($pid) did not end within 20 s; killing it"
            kill -KILL "$pid" 2>/dev/null || true
            gone_within 10 "$pid" || die "$1 ($pid) survives SIGKILL" "it hangs in the kernel: see /proc/$pid/stack"
        fi
    fi
    rm -f "$state/run/$1.pid"
}

# members: pids that carry the mark, and everything below them.
members() {
    local environ pid
    local -a found=()
    for environ in /proc/[0-9]*/environ; do
        pid=${environ#/proc/}
        grep -qzxF "$(mark)" "$environ" 2>/dev/null && found+=("${pid%/environ}")
    done
    while [ ${#found[@]} -gt 0 ]; do
        echo "${found[0]}"
        # shellcheck disable=SC2207,SC2013  # pids have no spaces
        found+=($(cat "/proc/${found[0]}/task"/*/children 2>/dev/null || true))
        found=("${found[@]:1}")
    done
}

# end_members: what daemons left running: shims, and the containers below them.
end_members() {
    local -a left
    mapfile -t left < <(members | sort -un)
    [ ${#left[@]} -eq 0 ] && return
    say "ending what the daemons left running: ${left[*]}"
    kill -KILL "${left[@]}" 2>/dev/null || true
    gone_within 10 "${left[@]}" || die "some of ${left[*]} survive SIGKILL" "they hang in the kernel: see /proc/PID/stack"
}

# mounts: what is mounted strictly below the state folder, deepest first.
mounts() {
    awk -v below="$state/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r
}
