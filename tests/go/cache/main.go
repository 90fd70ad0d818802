// Command cache exports a build cache with BuildKit's own exporter and imports it again with BuildKit's own importer, both
// unchanged. What a cache backend of type `linkspan` needs inside BuildKit is in backend.go; here is what a builder has.
//
//	cache unix:///run/linkspan/export.sock REF
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/contentutil"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"linkspan.test/client/cachev1"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: cache ADDRESS REF")
	}
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	ctx, ref := context.Background(), os.Args[2]
	target := &cachev1.Target{Id: "cache", Ref: ref, Mode: "max"}
	result, err := exportCache(ctx, conn, target, "cache in Go", func(exporter remotecache.Exporter) error {
		return add(ctx, exporter)
	})
	if err != nil {
		log.Fatal("export: ", err)
	}
	fmt.Printf("exported %s, unchanged %t\n", result.GetVersion().GetRoot().GetDigest(), result.GetUnchanged())
	if err := importCache(ctx, conn, ref, reader{}, load); err != nil {
		log.Fatal("import: ", err)
	}
}

// step is what a builder would find out of a build step.
var step = digest.FromString("RUN make")

// load looks the step up and loads its results, as BuildKit's solver does.
func load(ctx context.Context, manager solver.CacheManager) error {
	keys, err := manager.Query(nil, 0, step, 0)
	if err != nil {
		return err
	}
	for _, key := range keys {
		records, err := manager.Records(ctx, key)
		if err != nil {
			return err
		}
		for _, record := range records {
			if _, err := manager.Load(ctx, record); err != nil {
				return err
			}
		}
	}
	return nil
}

// add gives the exporter what a builder would: one step with a layer.
func add(ctx context.Context, exporter remotecache.Exporter) error {
	layers, bytesOf := contentutil.NewBuffer(), []byte("the layer of a build step")
	layer := ocispec.Descriptor{
		MediaType:   ocispec.MediaTypeImageLayer,
		Digest:      digest.FromBytes(bytesOf),
		Size:        int64(len(bytesOf)),
		Annotations: map[string]string{"containerd.io/uncompressed": digest.FromBytes(bytesOf).String()},
	}
	err := content.WriteBlob(ctx, layers, "layer", bytes.NewReader(bytesOf), layer)
	result := &solver.Remote{Descriptors: []ocispec.Descriptor{layer}, Provider: layers}
	// As BuildKit's solver names the first output of a step.
	key := digest.FromString(step.String() + "@0")
	_, _, added := exporter.Add(key, nil, []solver.CacheExportResult{{CreatedAt: time.Unix(1, 0), Result: result}})
	return errors.Join(err, added)
}

// reader stands where BuildKit's worker would take the layers into its snapshots, and reads them.
type reader struct{ worker.Worker }

func (reader) ID() string { return "reader" }

func (reader) FromRemote(ctx context.Context, remote *solver.Remote) (cache.ImmutableRef, error) {
	for _, layer := range remote.Descriptors {
		at, err := remote.Provider.ReaderAt(ctx, layer)
		if err != nil {
			return nil, err
		}
		bytes, err := io.ReadAll(content.NewReader(at))
		if err = errors.Join(err, at.Close()); err != nil {
			return nil, err
		}
		fmt.Printf("imported %q\n", bytes)
	}
	return nil, nil
}
