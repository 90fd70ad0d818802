# What each daemon of the stack is told, how it is started, and how to see that
# it responds. Everything of a daemon lies below $state. Sourced by scripts/stack.
# shellcheck shell=bash disable=SC2034,SC2154  # state is set by the caller, parts used by it
parts="containerd dockerd dockerd-classic buildkitd registry"
# What `up` starts by itself: the second dockerd is for those who ask for it.
usual_parts="containerd dockerd buildkitd registry"

write_configuration() {
    # containerd 1.x has an older format, and other names for what is of no use here.
    local format=3 unused='"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"'
    case $(containerd --version) in
    *" v1."* | *" 1."*) format=2 unused='"io.containerd.grpc.v1.cri"' ;;
    esac
    cat >"$state/containerd.toml" <<TOML
version = $format
root = "$state/containerd/root"
state = "$state/containerd/state"
imports = []
disabled_plugins = [$unused]
[grpc]
  address = "$state/run/containerd.sock"
[ttrpc]
  address = "$state/run/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "$state/containerd/opt"
TOML
    # No bridge and no firewall rules: nothing outside the state folder changes,
    # and two stacks do not meet. Containers run with --network host.
    local usual='"bridge": "none", "iptables": false, "ip6tables": false, "userland-proxy": false, "shutdown-timeout": 3'
    cat >"$state/daemon.json" <<JSON
{$usual,
 "containerd": "$state/run/containerd.sock", "features": {"containerd-snapshotter": true},
 "data-root": "$state/docker", "exec-root": "$state/run/docker",
 "hosts": ["unix://$state/run/docker.sock"], "pidfile": "$state/run/docker-own.pid"}
JSON
    # The same containerd runs its containers; its images are in its data-root, behind a graph driver.
    cat >"$state/daemon-classic.json" <<JSON
{$usual,
 "containerd": "$state/run/containerd.sock", "features": {"containerd-snapshotter": false},
 "containerd-namespace": "moby-classic", "containerd-plugins-namespace": "plugins-classic",
 "storage-driver": "$(graph_driver)", "data-root": "$state/classic", "exec-root": "$state/run/classic",
 "hosts": ["unix://$state/run/classic.sock"], "pidfile": "$state/run/classic-own.pid"}
JSON
    cat >"$state/buildkitd.toml" <<TOML
root = "$state/buildkit"
insecure-entitlements = ["network.host"]
provenanceEnvDir = "$state/buildkit/provenance.d"
[grpc]
  address = ["unix://$state/run/buildkitd.sock"]
[otel]
  socketPath = "$state/run/otel.sock"
[worker.oci]
  enabled = true
  snapshotter = "overlayfs"
  networkMode = "host"
[worker.containerd]
  enabled = false
TOML
    # The port is chosen by the kernel once and then kept: image names contain it.
    cat >"$state/registry.yml" <<YAML
version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: "$state/registry"}, delete: {enabled: true}}
http: {addr: "$(registry_address || echo 127.0.0.1:0)"}
YAML
}

# registry_address: HOST:PORT of the local registry, once it has been started.
registry_address() { cat "$state/registry.address" 2>/dev/null; }

# graph_driver: overlay2, unless deleted files show through on this file system, as they do where it lacks d_type.
graph_driver() {
    local driver=overlay2 probe="$state/probe"
    [[ " $wanted " == *" dockerd-classic "* ]] || { echo $driver; return; }
    mkdir -p "$probe"/{lower,upper,work,merged}
    touch "$probe/lower/deleted"
    if mount -t overlay overlay -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged"; then
        rm "$probe/merged/deleted"
        [ -z "$(ls "$probe/merged")" ] || driver=vfs
        umount "$probe/merged"
    else
        driver=vfs
    fi
    rm -rf "$probe"
    [ $driver = overlay2 ] || say "WARNING: $(stat -f -c %T "$state") at $state cannot carry overlay2: dockerd-classic copies every layer (vfs), which is slow and large"
    echo $driver
}

start_part() {
    case $1 in
    containerd) launch containerd containerd --config "$state/containerd.toml" ;;
    dockerd)
        rm -f "$state/run/docker-own.pid" # ours is not running: another process may have its number
        launch dockerd dockerd --config-file "$state/daemon.json" ;;
    dockerd-classic)
        rm -f "$state/run/classic-own.pid"
        launch dockerd-classic dockerd --config-file "$state/daemon-classic.json" ;;
    buildkitd) launch buildkitd buildkitd --config "$state/buildkitd.toml" ;;
    registry) launch registry registry serve "$state/registry.yml" ;;
    esac
}

check_part() {
    case $1 in
    containerd) timeout 5 ctr --address "$state/run/containerd.sock" version ;;
    dockerd) DOCKER_HOST=unix://$state/run/docker.sock timeout 5 docker version ;;
    dockerd-classic) DOCKER_HOST=unix://$state/run/classic.sock timeout 5 docker version ;;
    buildkitd) timeout 5 buildctl --addr "unix://$state/run/buildkitd.sock" debug workers ;;
    registry) registry_answers ;;
    esac
}

registry_answers() {
    local address
    address=$(grep -oE 'listening on 127\.0\.0\.1:[0-9]+' "$state/log/registry.log" | head -1) || return 1
    address=${address##* }
    (exec 3<>"/dev/tcp/${address%:*}/${address#*:}") && echo "$address" >"$state/registry.address"
}

# Each part's address, for `status`.
address_of() {
    case $1 in
    containerd) echo "$state/run/containerd.sock" ;;
    dockerd) echo "unix://$state/run/docker.sock" ;;
    dockerd-classic) echo "unix://$state/run/classic.sock" ;;
    buildkitd) echo "unix://$state/run/buildkitd.sock" ;;
    registry) registry_address || echo "no address yet" ;;
    esac
}

# print_environment: what a shell needs to use the stack.
print_environment() {
    cat <<ENV
export PATH="$cache/bin:\$PATH"
export DOCKER_HOST="unix://$state/run/docker.sock"
export LINKSPAN_DOCKER_CLASSIC_HOST="unix://$state/run/classic.sock"
export DOCKER_CONFIG="$state/docker-config"
export BUILDX_CONFIG="$state/buildx"
export CONTAINERD_ADDRESS="$state/run/containerd.sock"
export BUILDKIT_HOST="unix://$state/run/buildkitd.sock"
export LINKSPAN_STATE="$state"
export LINKSPAN_REGISTRY="$(registry_address)"
ENV
}
