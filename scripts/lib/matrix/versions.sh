# Older versions of the programs of a stack, each in a folder of its own: $cache/matrix/PROGRAM-VERSION. Sourced by scripts/matrix.
# shellcheck shell=bash disable=SC2154  # cache is set by common.sh

# program-version | module@version or deb:PACKAGE | names | packages | tags | variable of the version | -mod
versions() {
    cat <<'TABLE'
containerd-1.6|deb:containerd|containerd ctr containerd-shim-runc-v2|||| 
docker-20.10|deb:docker.io|dockerd|||| 
containerd-1.7|github.com/containerd/containerd@v1.7.27|containerd ctr containerd-shim-runc-v2|./cmd/containerd ./cmd/ctr ./cmd/containerd-shim-runc-v2|no_btrfs|github.com/containerd/containerd/version.Version|
buildkit-0.11|github.com/moby/buildkit@v0.11.6|buildkitd|./cmd/buildkitd||github.com/moby/buildkit/version.Version|
buildx-0.13|github.com/docker/buildx@v0.13.1|docker-buildx|./cmd/buildx||github.com/docker/buildx/version.Version|
docker-28|github.com/docker/docker@v28.5.2+incompatible|dockerd|./cmd/dockerd||github.com/docker/docker/dockerversion.Version|
buildkit-0.13|github.com/moby/buildkit@v0.13.2|buildkitd|./cmd/buildkitd||github.com/moby/buildkit/version.Version|
buildx-0.24|github.com/docker/buildx@v0.24.0|docker-buildx|./cmd/buildx||github.com/docker/buildx/version.Version|
docker-26|github.com/docker/docker@v26.1.5+incompatible|dockerd|./cmd/dockerd||github.com/docker/docker/dockerversion.Version|mod
buildkit-0.18|github.com/moby/buildkit@v0.18.2|buildkitd|./cmd/buildkitd||github.com/moby/buildkit/version.Version|
docker-24|github.com/docker/docker@v24.0.9+incompatible|dockerd|./cmd/dockerd||github.com/docker/docker/dockerversion.Version|mod
docker-23|github.com/docker/docker@v23.0.15+incompatible|dockerd|./cmd/dockerd||github.com/docker/docker/dockerversion.Version|mod
buildx-0.17|github.com/docker/buildx@v0.17.1|docker-buildx|./cmd/buildx||github.com/docker/buildx/version.Version|
buildkit-0.21|github.com/moby/buildkit@v0.21.1|buildkitd|./cmd/buildkitd||github.com/moby/buildkit/version.Version|
buildkit-0.26|github.com/moby/buildkit@v0.26.3|buildkitd|./cmd/buildkitd||github.com/moby/buildkit/version.Version|
TABLE
}

# install_version ENTRY: builds or unpacks one; where that fails, its folder has the reason and nothing else. It is tried once.
install_version() {
    local id module names targets tags variable mod folder version
    IFS='|' read -r id module names targets tags variable mod <<<"$1"
    folder=$cache/matrix/$id mod=${mod// /}
    [ -e "$folder/done" ] || [ -e "$folder/reason" ] && return 0
    rm -rf "$folder" && mkdir -p "$folder/bin"
    say "$id ($module)"
    if [[ $id == buildkit-* && -x $cache/bin/buildkitd-${module##*@v} ]]; then
        # `scripts/stack install` built it.
        ln -s "$cache/bin/buildkitd-${module##*@v}" "$folder/bin/buildkitd" 2>"$folder/log"
    elif [[ $module == deb:* ]]; then
        unpack_package "${module#deb:}" "$folder" "$names" >"$folder/log" 2>&1
    else
        version=${module##*@} version=${version%+incompatible}
        # Docker says its version without the letter.
        [[ $id == docker-* ]] && version=${version#v}
        (
            cache=$cache/matrix # not where the stack's own programs are built
            build_program "$names" "$module" "$targets" 0 "$tags" "-X $variable=$version" "${mod:-readonly}"
            [ "$names" != docker-buildx ] || mv "$cache/bin.new/buildx" "$cache/bin.new/docker-buildx"
            mv "$cache"/bin.new/* "$folder/bin/"
        ) >"$folder/log" 2>&1
    fi && { echo "$module" >"$folder/done"; rm -f "$folder/log"; return 0; }
    rm -rf "$folder/bin"
    # What a release depends on may be gone, as pseudo-versions are; else the last line of a build says what is wrong.
    local missing
    missing=$(grep -oE '[a-z0-9./-]+@v[^ :]+: reading' "$folder/log" | tail -1 | cut -d: -f1)
    if [ -n "$missing" ]; then
        echo "the module proxy does not serve $missing, which it needs" >"$folder/reason"
    else
        grep -vE '^(go|matrix): (downloading|building)' "$folder/log" | tail -1 | cut -c1-300 >"$folder/reason"
    fi
    say "$id is not installed: $(cat "$folder/reason")"
}

# unpack_package PACKAGE FOLDER NAMES: a Debian package's programs, without installing it.
unpack_package() {
    mkdir -p "$2/package"
    (cd "$2/package" && apt-get download -q "$1" && dpkg -x ./*.deb .) || return 1
    local name
    for name in $3; do
        mv "$(find "$2/package" -type f -name "$name" -path '*bin*' | head -1)" "$2/bin/$name" || return 1
    done
    rm -rf "$2/package"
}

# install_versions [WORDS]: all of them, or those whose name has one of the words, which commas separate.
install_versions() {
    local entry id word
    local -a words
    IFS=, read -ra words <<<"${1:-}"
    mkdir -p "$cache/matrix"
    exec 8>"$cache/matrix/.lock"
    flock 8 # two clones may install at once
    while read -r entry; do
        id=${entry%%|*}
        [ ${#words[@]} -gt 0 ] || install_version "$entry"
        for word in "${words[@]}"; do
            [[ $id != *"$word"* ]] || { install_version "$entry"; break; }
        done
    done < <(versions)
    rm -rf "$cache/matrix/module" "$cache/matrix/bin.new"
}
