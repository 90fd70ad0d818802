package main

import (
	"context"
	"encoding/json"

	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	cachev1 "linkspan.test/go/cachev1"
	exportv1 "linkspan.test/go/exportv1"
)

// exportCache stores what add gives to BuildKit's exporter as a version of the cache of target.
func exportCache(ctx context.Context, conn *grpc.ClientConn, target *cachev1.Target, builder string, add func(remotecache.Exporter) error) (*cachev1.TargetResult, error) {
	caches := cachev1.NewCachesClient(conn)
	opened, err := caches.Open(ctx, &cachev1.OpenRequest{Targets: []*cachev1.Target{target}, Builder: builder})
	if err != nil {
		return nil, err
	}
	id := opened.GetExport().GetId()
	exporter := remotecache.NewExporter(proxy.NewContentStore(conn), "", true, true, compression.New(compression.Default))
	if err := add(exporter); err != nil {
		return nil, err
	}
	response, err := exporter.Finalize(metadata.AppendToOutgoingContext(ctx, "linkspan-cache", id))
	if err != nil {
		return nil, err
	}
	var root ocispec.Descriptor
	if err := json.Unmarshal([]byte(response[remotecache.ExporterResponseManifestDesc]), &root); err != nil {
		return nil, err
	}
	descriptor := &exportv1.Descriptor{MediaType: root.MediaType, Digest: root.Digest.String(), Size: root.Size}
	targets := []*cachev1.CommitTarget{{TargetId: target.GetId(), Root: descriptor}}
	commit, err := caches.Commit(ctx, &cachev1.CommitRequest{ExportId: id, Targets: targets})
	for err == nil {
		var message *cachev1.CommitResponse
		if message, err = commit.Recv(); message.GetResults() != nil {
			return message.GetResults().GetResults()[0], nil
		}
	}
	return nil, err
}

// importCache gives use the managers that BuildKit's importer makes of what is stored under ref.
func importCache(ctx context.Context, conn *grpc.ClientConn, ref string, w worker.Worker, use func(context.Context, solver.CacheManager) error) error {
	caches, importer := cachev1.NewCachesClient(conn), remotecache.NewImporter(proxy.NewContentStore(conn))
	resolved, err := caches.Resolve(ctx, &cachev1.ResolveRequest{Refs: []string{ref}})
	if err != nil {
		return err
	}
	defer caches.Release(ctx, &cachev1.ReleaseRequest{HoldId: resolved.GetHoldId()})
	ctx = metadata.AppendToOutgoingContext(ctx, "linkspan-cache", resolved.GetHoldId())
	for _, part := range resolved.GetParts() {
		root := ocispec.Descriptor{Digest: digest.Digest(part.GetRoot().GetDigest()), Size: part.GetRoot().GetSize()}
		manager, err := importer.Resolve(ctx, root, ref, w)
		if err != nil {
			return err
		}
		if err := use(ctx, manager); err != nil {
			return err
		}
	}
	return nil
}
