# A builder, a Docker engine, and both of Linkspan's doors between them.
# shellcheck shell=bash disable=SC2154  # what scripts/demo defines
"$here/stack" install
clean_up() {
    kill "${daemon:-}" 2>/dev/null && wait "$daemon" || true
    "$here/stack" down --state "$state" --purge >/dev/null 2>&1 || true
    rm -rf "$state"
}
trap clean_up EXIT
"$here/stack" up --state "$state" >/dev/null
eval "$("$here/stack" env --state "$state")"

serve 'docker door' --builder "$BUILDKIT_HOST" --buildkit-listen "unix://$state/linkspan.sock" --docker-listen "unix://$state/docker.sock"
docker buildx create --name plain --driver remote "$BUILDKIT_HOST" >/dev/null
docker buildx create --name direct --driver remote "unix://$state/linkspan.sock" >/dev/null

# A shell, the libraries, and a line that changes.
context=$state/context
files "$context/libraries"
cp "$(command -v busybox)" "$context/busybox"
say "an image with $(du -sh "$context" | cut -f1) of files, built once for each way"
edit() {
    cat >"$context/Dockerfile" <<DOCKERFILE
FROM scratch
COPY busybox /bin/sh
COPY libraries /libraries
RUN echo "$1" >/version
DOCKERFILE
}
build() { seconds docker buildx build --builder "$1" --load --quiet --tag "demo:$1" "$context"; }
load() { seconds env DOCKER_HOST="$1" docker load --quiet --input "$state/image.tar"; }
row() { printf '%-36s %10s s %10s s %9sx\n' "$1" "$2" "$3" "$(awk -v a="$2" -v b="$3" 'BEGIN { printf "%.1f", a / b }')"; }

edit first
say "building and loading it once each way; what follows is measured"
build plain >/dev/null
build direct >/dev/null
same_plain=$(build plain) same_linkspan=$(build direct)
edit "edited for the tar path"
edit_plain=$(build plain)
edit "edited for linkspan"
edit_linkspan=$(build direct)
docker save --output "$state/image.tar" demo:direct
load_plain=$(load "$DOCKER_HOST") load_linkspan=$(load "unix://$state/docker.sock")

printf '\n%-36s %12s %12s\n' '' 'as it is' 'linkspan'
row 'docker buildx build --load, as before' "$same_plain" "$same_linkspan"
row 'the same, last line changed' "$edit_plain" "$edit_linkspan"
row 'docker load of what is there' "$load_plain" "$load_linkspan"
printf '\nThe image runs: '
docker run --rm --network host demo:direct /bin/sh -c 'read -r line </version; echo "$line"'
