# What each daemon of the stack is told, how it is started, and how to see that
# it answers. Everything of a daemon lies below $state. Sourced by scripts/stack.
# shellcheck shell=bash disable=SC2034,SC2154  # state is set by the caller, parts used by it
parts="containerd dockerd buildkitd registry"

write_configuration() {
    cat >"$state/containerd.toml" <<TOML
version = 3
root = "$state/containerd/root"
state = "$state/containerd/state"
imports = []
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
[grpc]
  address = "$state/run/containerd.sock"
[ttrpc]
  address = "$state/run/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "$state/containerd/opt"
TOML
    # No bridge and no firewall rules: nothing outside the state folder changes,
    # and two stacks do not meet. Containers run with --network host.
    cat >"$state/daemon.json" <<JSON
{"bridge": "none", "iptables": false, "ip6tables": false, "userland-proxy": false, "shutdown-timeout": 3,
 "containerd": "$state/run/containerd.sock", "features": {"containerd-snapshotter": true},
 "data-root": "$state/docker", "exec-root": "$state/run/docker",
 "hosts": ["unix://$state/run/docker.sock"], "pidfile": "$state/run/docker-own.pid"}
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

start_part() {
    case $1 in
    containerd) launch containerd containerd --config "$state/containerd.toml" ;;
    dockerd)
        rm -f "$state/run/docker-own.pid" # ours is not running: another process may have its number
        launch dockerd dockerd --config-file "$state/daemon.json" ;;
    buildkitd) launch buildkitd buildkitd --config "$state/buildkitd.toml" ;;
    registry) launch registry registry serve "$state/registry.yml" ;;
    esac
}

check_part() {
    case $1 in
    containerd) timeout 5 ctr --address "$state/run/containerd.sock" version ;;
    dockerd) DOCKER_HOST=unix://$state/run/docker.sock timeout 5 docker version ;;
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
    buildkitd) echo "unix://$state/run/buildkitd.sock" ;;
    registry) registry_address || echo "no address yet" ;;
    esac
}

# print_environment: what a shell needs to use the stack.
print_environment() {
    cat <<ENV
export PATH="$cache/bin:\$PATH"
export DOCKER_HOST="unix://$state/run/docker.sock"
export DOCKER_CONFIG="$state/docker-config"
export BUILDX_CONFIG="$state/buildx"
export CONTAINERD_ADDRESS="$state/run/containerd.sock"
export BUILDKIT_HOST="unix://$state/run/buildkitd.sock"
export LINKSPAN_STATE="$state"
export LINKSPAN_REGISTRY="$(registry_address)"
ENV
}
