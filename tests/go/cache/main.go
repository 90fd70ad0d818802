// Command cache exports a build cache with BuildKit's own exporter and imports it again with BuildKit's own importer, both
// unchanged: what a cache backend of type `linkspan` needs inside BuildKit, and no more.
//
//	cache unix:///run/linkspan/export.sock REF
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/contentutil"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	cachev1 "linkspan.test/go/cachev1"
	exportv1 "linkspan.test/go/exportv1"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: cache ADDRESS REF")
	}
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	caches, store, ctx := cachev1.NewCachesClient(conn), proxy.NewContentStore(conn), context.Background()
	if err := export(ctx, caches, store, os.Args[2]); err != nil {
		log.Fatal("export: ", err)
	}
	if err := load(ctx, caches, store, os.Args[2]); err != nil {
		log.Fatal("import: ", err)
	}
}

// step is what a builder would find out of a build step.
var step = digest.FromString("RUN make")

func export(ctx context.Context, caches cachev1.CachesClient, store content.Store, ref string) error {
	opened, err := caches.Open(ctx, &cachev1.OpenRequest{
		Targets: []*cachev1.Target{{Id: "cache", Ref: ref, Mode: "max"}},
		Builder: "cache in Go",
	})
	if err != nil {
		return err
	}
	id := opened.GetExport().GetId()
	exporter := remotecache.NewExporter(store, "", true, true, compression.New(compression.Default))
	if err := add(ctx, exporter); err != nil {
		return err
	}
	response, err := exporter.Finalize(metadata.AppendToOutgoingContext(ctx, "linkspan-cache", id))
	if err != nil {
		return err
	}
	var root ocispec.Descriptor
	if err := json.Unmarshal([]byte(response[remotecache.ExporterResponseManifestDesc]), &root); err != nil {
		return err
	}
	target := &cachev1.CommitTarget{TargetId: "cache", Root: &exportv1.Descriptor{
		MediaType: root.MediaType, Digest: root.Digest.String(), Size: root.Size,
	}}
	commit, err := caches.Commit(ctx, &cachev1.CommitRequest{ExportId: id, Targets: []*cachev1.CommitTarget{target}})
	for err == nil {
		var message *cachev1.CommitResponse
		if message, err = commit.Recv(); message.GetResults() == nil {
			continue
		}
		result := message.GetResults().GetResults()[0]
		if failure := result.GetError(); failure != nil {
			return fmt.Errorf("%s: %s", failure.GetReason(), failure.GetMessage())
		}
		fmt.Printf("exported %s, unchanged %t\n", root.Digest, result.GetUnchanged())
		return nil
	}
	return err
}

func load(ctx context.Context, caches cachev1.CachesClient, store content.Store, ref string) error {
	resolved, err := caches.Resolve(ctx, &cachev1.ResolveRequest{Refs: []string{ref}})
	if err != nil {
		return err
	}
	defer caches.Release(ctx, &cachev1.ReleaseRequest{HoldId: resolved.GetHoldId()})
	ctx = metadata.AppendToOutgoingContext(ctx, "linkspan-cache", resolved.GetHoldId())
	for _, part := range resolved.GetParts() {
		root := ocispec.Descriptor{Digest: digest.Digest(part.GetRoot().GetDigest()), Size: part.GetRoot().GetSize()}
		manager, err := remotecache.NewImporter(store).Resolve(ctx, root, ref, reader{})
		if err != nil {
			return err
		}
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
