# Images through the exporter API to a directory: a client and a server, and neither an engine nor root.
# shellcheck shell=bash disable=SC2154  # what scripts/demo defines
clean_up() {
    kill "${daemon:-}" 2>/dev/null && wait "$daemon" || true
    rm -rf "$state"
}
trap clean_up EXIT
api=unix://$state/export.sock
serve 'export door' --engine layout --layout "$state/images" --export-listen "$api"

layout=$state/layout
mkdir -p "$layout/blobs/sha256"
echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"

# blob FILE TYPE: puts the file among the blobs, and prints its descriptor.
blob() {
    local hex size
    hex=$(sha256sum "$1" | cut -d ' ' -f 1) size=$(stat -c %s "$1")
    mv "$1" "$layout/blobs/sha256/$hex"
    printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s}' "$2" "$hex" "$size"
}
digest() { sed 's/.*"\(sha256:[0-9a-f]*\)".*/\1/' <<<"$1"; }

# image LINE: the image of the libraries and a file with that line, as an OCI image layout.
image() {
    local top config manifest
    echo "$1" >"$state/version"
    tar -C "$state" -cf "$state/top.tar" version
    top=$(blob "$state/top.tar" layer.v1.tar)
    printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s","%s"]}}' \
        "$(digest "$base")" "$(digest "$top")" >"$state/config"
    config=$(blob "$state/config" config.v1+json)
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s,%s]}' \
        "$config" "$base" "$top" >"$state/manifest"
    manifest=$(blob "$state/manifest" manifest.v1+json)
    printf '{"schemaVersion":2,"manifests":[%s]}' "$manifest" >"$layout/index.json"
}

files "$state/libraries"
tar -C "$state" -cf "$state/base.tar" libraries
rm -rf "$state/libraries"
base=$(blob "$state/base.tar" layer.v1.tar)
say "an image with $(du -sh "$layout" | cut -f1) of files"

# row WORDS: one load of what is in the layout folder, and what the client says of it.
row() {
    local took
    took=$(seconds "$linkspan" load --to "$api" --input "$layout" --tag demo:latest)
    printf '%-28s %8s s   %s\n' "$1" "$took" "$(tail -n 1 "$state/command.log")"
}
image first
printf '\n'
row 'the first time'
row 'nothing changed'
image edited
row 'last line changed'
printf '\nWhat is there now:\n'
"$linkspan" images --to "$api"
