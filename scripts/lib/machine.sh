# Checks what the daemons need of the machine, so that they do not fail half-way
# with words of their own. Sourced by scripts/stack.
# shellcheck shell=bash disable=SC2154  # state is set by the caller
check_state() {
    # A dockerd makes the longest socket below it: run/classic/libnetwork/<12 digits>.sock.
    local longest="$state/run/classic/libnetwork/0123456789ab.sock"
    [[ $state =~ ^/[A-Za-z0-9._/-]+$ ]] || die "the state folder '$state' is not an absolute path of plain characters" "choose another with --state"
    [ ${#longest} -le 107 ] || die "the state folder $state is too long by $((${#longest} - 107)): socket paths end at 107 bytes" "choose a shorter one with --state"
}

check_machine() {
    local program missing=()
    need_root
    for program in containerd ctr containerd-shim-runc-v2 runc dockerd docker docker-init buildkitd buildctl docker-buildx docker-compose registry; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [ ${#missing[@]} -eq 0 ] || die "not found on PATH: ${missing[*]}" "scripts/stack install"
    [ -e /sys/fs/cgroup/cgroup.controllers ] || [ -d /sys/fs/cgroup/memory ] ||
        die "no cgroups at /sys/fs/cgroup, which containers need" "mount -t cgroup2 none /sys/fs/cgroup"
    local probe="$state/probe"
    mkdir -p "$probe"/{lower,upper,work,merged}
    mount -t overlay overlay -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged" 2>/dev/null ||
        die "overlayfs does not work on $(stat -f -c %T "$state") at $state" "'modprobe overlay', or choose a folder on ext4 or xfs with --state"
    umount "$probe/merged"
    rm -rf "$probe"
}
