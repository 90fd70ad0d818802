# Installs the real programs that the stack runs. Sourced by scripts/stack.
#
# A program already on PATH is used when it is recent enough; everything else is
# built from its own released Go module, inside the module cache, with exactly
# the dependency versions that upstream released with. The results are kept in
# $LINKSPAN_CACHE/bin (default: ~/.cache/linkspan/bin), outside any clone.
# shellcheck shell=bash disable=SC2154  # cache and system_path are set by common.sh, old and peers by scripts/stack

# name | module@version | packages | cgo | tags | extra ldflags | oldest accepted on PATH
programs() {
    cat <<'TABLE'
crane|github.com/google/go-containerregistry@v0.22.1|./cmd/crane|0||| 
runc|github.com/opencontainers/runc@v1.4.3|.|1|seccomp netgo osusergo|-extldflags -static|1.2
buildkitd buildctl|github.com/moby/buildkit@v0.32.2|./cmd/buildkitd ./cmd/buildctl|0||-X github.com/moby/buildkit/version.Version=v0.32.2|0.13
containerd ctr containerd-shim-runc-v2|github.com/containerd/containerd/v2@v2.3.4|./cmd/containerd ./cmd/ctr ./cmd/containerd-shim-runc-v2|0|no_btrfs||2.1
minio|github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c|.|0||| 
docker-buildx|github.com/docker/buildx@v0.36.1|./cmd/buildx|0||-X github.com/docker/buildx/version.Version=v0.36.1|
docker-compose|github.com/docker/compose/v5@v5.6.0|./cmd|0||-X github.com/docker/compose/v5/internal.Version=v5.6.0|
docker|github.com/docker/cli@v29.7.2+incompatible|./cmd/docker|0||-X github.com/docker/cli/cli/version.Version=29.7.2|25
dockerd|github.com/moby/moby/v2@v2.0.0-beta.21|./cmd/dockerd|0||-X github.com/moby/moby/v2/dockerversion.Version=29.7.2|29
registry|github.com/distribution/distribution/v3@v3.1.1|./cmd/registry|0|||3
rootlesskit|github.com/rootless-containers/rootlesskit/v3@v3.0.1|./cmd/rootlesskit|0|||
helm|helm.sh/helm/v4@v4.3.2|./cmd/helm|0|||
oci-conformance|github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111|.|0|||
buildkitd-0.11.6|github.com/moby/buildkit@v0.11.6|./cmd/buildkitd|0||-X github.com/moby/buildkit/version.Version=v0.11.6|
TABLE
    # Builders between the oldest one that Linkspan supports and the one above, and clients of registries: only where somebody
    # asks for them.
    [ "$old" = 0 ] || cat <<'TABLE'
buildkitd-0.21.1|github.com/moby/buildkit@v0.21.1|./cmd/buildkitd|0||-X github.com/moby/buildkit/version.Version=v0.21.1|
buildkitd-0.26.3|github.com/moby/buildkit@v0.26.3|./cmd/buildkitd|0||-X github.com/moby/buildkit/version.Version=v0.26.3|
oras|oras.land/oras@v1.3.6|./cmd/oras|0|||
regctl|github.com/regclient/regclient@v0.11.7|./cmd/regctl|0|||
ko|github.com/google/ko@v0.19.1|.|0|||
cosign|github.com/sigstore/cosign/v3@v3.1.3|./cmd/cosign|0|||
TABLE
    # What only benchmarks compare with.
    [ "$peers" = 0 ] || cat <<'TABLE'
unregistry|github.com/psviderski/unregistry@v0.4.1|./cmd/unregistry|0|||
TABLE
}

# Azure's storage emulator, which is a program for Node: only where somebody asks for it, and Node is there.
azurite="azurite@3.37.0"

# What compares public surfaces: only where scripts/semver is run.
semver_checks="0.51.0"

# Debian packages: what the programs above link with or call, and the clients.
packages="gcc libc6-dev tini libseccomp-dev pkg-config busybox-static skopeo iptables jq e2fsprogs rsync openssh-client openssh-server openssl python3-venv xz-utils zstd bzip2 uidmap libcap2-bin man-db"

# What the tests' programs in Python need: gRPC's C core, which other languages than Go and Java stand on, and the schemas of Kubernetes.
python_packages="grpcio==1.85.3 grpcio-reflection==1.85.1 protobuf==7.36.2 kubernetes-validate==1.37.0"

install_packages() {
    command -v apt-get >/dev/null || return 0
    local missing=()
    for package in $packages; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    say "installing packages: ${missing[*]}"
    need_root
    # Of sshd the tests need the program, not the service.
    if [[ " ${missing[*]} " == *" openssh-server "* ]]; then
        mkdir -p /etc/systemd/system && ln -sf /dev/null /etc/systemd/system/ssh.service
    fi
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } >"$cache/apt.log" 2>&1 ||
        die "apt-get could not install: ${missing[*]} (see $cache/apt.log)" "install them by hand, then run this again"
}

# version_of PROGRAM PATH prints its version as N.N.N, or nothing.
version_of() {
    "$2" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -1
}

# suitable PROGRAM OLDEST: is there one on PATH that is recent enough?
suitable() {
    local found version
    [ -n "$2" ] || return 1
    found=$(PATH="$system_path" command -v "$1") || return 1
    version=$(version_of "$1" "$found")
    [ -n "$version" ] && [ "$(printf '%s\n' "$2" "$version" | sort -V | head -1)" = "$2" ]
}

build_program() {
    local names=$1 module=$2 targets=$3 cgo=$4 tags=$5 ldflags=$6 mod=${7:-readonly} dir
    command -v go >/dev/null || die "Go is missing, and ${names} must be built from source" "install Go 1.26 or later, or put ${names} on PATH"
    say "building ${names} (${module})"
    dir=$(go mod download -json "$module" | jq -r .Dir) || dir=
    [ -d "$dir" ] || die "the module $module could not be downloaded" "check the network and GOPROXY"
    if [ ! -e "$dir/go.mod" ]; then dir=$(make_module "$dir"); fi
    # shellcheck disable=SC2086  # a list of packages
    (cd "$dir" && CGO_ENABLED=$cgo go build -mod="$mod" -trimpath -tags "$tags" -ldflags "-s -w $ldflags" -o "$cache/bin.new/" $targets) >"$cache/build.log" 2>&1 ||
        die "building $module failed (see $cache/build.log)" "the last lines: $(tail -3 "$cache/build.log")"
}

# make_module DIR: the docker client keeps its module files under other names; a copy with the usual ones.
make_module() {
    rm -rf "$cache/module"
    cp -r --no-preserve=mode "$1" "$cache/module"
    rm -rf "$cache/module/vendor"
    mv "$cache/module/vendor.mod" "$cache/module/go.mod"
    mv "$cache/module/vendor.sum" "$cache/module/go.sum"
    echo "$cache/module"
}

install_programs() {
    local names module targets cgo tags ldflags oldest name stamp recipe
    mkdir -p "$cache/bin"
    exec 8>"$cache/.lock"
    flock 8 # two clones may install at once
    while IFS='|' read -r names module targets cgo tags ldflags oldest; do
        oldest=${oldest// /}
        local all=1
        for name in $names; do suitable "$name" "$oldest" || all=0; done
        [ $all = 1 ] && continue
        stamp="$cache/bin/.${names%% *}" recipe="$module $targets $cgo $tags $ldflags"
        [ "$(cat "$stamp" 2>/dev/null)" = "$recipe" ] && continue
        rm -rf "$cache/bin.new" && mkdir -p "$cache/bin.new"
        build_program "$names" "$module" "$targets" "$cgo" "$tags" "$ldflags"
        # Go names a program after its folder, which is not always the name that it has here.
        [[ $names == *" "* ]] || [ -e "$cache/bin.new/$names" ] || mv "$cache"/bin.new/* "$cache/bin.new/$names"
        mv -f "$cache"/bin.new/* "$cache/bin/" && rmdir "$cache/bin.new" && echo "$recipe" >"$stamp"
    done < <(programs)
    rm -rf "$cache/module"
    ln -sf "$(command -v tini-static || command -v tini)" "$cache/bin/docker-init"
}

# install_python: an environment of its own below the cache, and a program that runs in it.
install_python() {
    local folder=$cache/python
    exec 8>"$cache/.lock"
    flock 8 # two clones may install at once
    [ "$(cat "$folder/.packages" 2>/dev/null)" = "$python_packages" ] &&
        "$folder/bin/python" -c 'import grpc, grpc_reflection, kubernetes_validate' 2>/dev/null && return 0
    command -v python3 >/dev/null || die "Python is missing, in which some programs of the tests are written" "install Python 3.11 or later"
    say "installing for Python: $python_packages"
    rm -rf "$folder"
    # shellcheck disable=SC2086  # a list of packages
    { python3 -m venv "$folder" && "$folder/bin/python" -m pip install --quiet --disable-pip-version-check $python_packages; } >"$cache/pip.log" 2>&1 ||
        die "these packages for Python could not be installed: $python_packages (see $cache/pip.log)" "check the network and PIP_INDEX_URL"
    printf '#!/bin/sh\nexec "%s/bin/python" "$@"\n' "$folder" >"$cache/bin/linkspan-python"
    chmod +x "$cache/bin/linkspan-python"
    echo "$python_packages" >"$folder/.packages"
}

# install_azurite: below the cache, and a program that runs it.
install_azurite() {
    local folder=$cache/azurite
    exec 8>"$cache/.lock"
    flock 8 # two clones may install at once
    [ "$(cat "$folder/.package" 2>/dev/null)" = "$azurite" ] && return 0
    if ! command -v npm >/dev/null; then
        say "npm is missing: $azurite is not installed, and az:// not tested"
        return 0
    fi
    say "installing $azurite"
    rm -rf "$folder" && mkdir -p "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts "$azurite" >"$cache/npm.log" 2>&1 ||
        die "npm could not install $azurite (see $cache/npm.log)" "check the network and npm's registry"
    ln -sf "$folder/node_modules/.bin/azurite-blob" "$cache/bin/azurite-blob"
    echo "$azurite" >"$folder/.package"
}

# install_semver_checks: below the cache. Without optimizations it is built in half the time, and compares in seconds all the same.
install_semver_checks() {
    local folder=$cache/semver-checks
    exec 8>"$cache/.lock"
    flock 8 # two clones may install at once
    [ "$(cat "$folder/.version" 2>/dev/null)" = "$semver_checks" ] && [ -x "$folder/bin/cargo-semver-checks" ] && return 0
    say "building cargo-semver-checks ($semver_checks)"
    rm -rf "$folder"
    CARGO_TARGET_DIR="$folder/target" CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=false \
        cargo install --quiet --locked --root "$folder" --version "=$semver_checks" cargo-semver-checks >"$cache/semver-checks.log" 2>&1 ||
        die "cargo-semver-checks could not be built (see $cache/semver-checks.log)" "check the network; the last lines: $(tail -3 "$cache/semver-checks.log")"
    rm -rf "$folder/target"
    echo "$semver_checks" >"$folder/.version"
}
