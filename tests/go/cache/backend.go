package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"linkspan.test/client"
	"linkspan.test/client/cachev1"
)

// exportCache stores what add gives to BuildKit's exporter as a version of the cache of target.
func exportCache(ctx context.Context, conn grpc.ClientConnInterface, target *cachev1.Target, builder string, add func(remotecache.Exporter) error) (_ *cachev1.TargetResult, err error) {
	export, err := client.OpenCache(ctx, conn, &cachev1.OpenRequest{Targets: []*cachev1.Target{target}, Builder: builder})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, export.Close()) }()
	exporter := remotecache.NewExporter(export, "", true, true, compression.New(compression.Default))
	if err := add(exporter); err != nil {
		return nil, err
	}
	response, err := exporter.Finalize(ctx)
	if err != nil {
		return nil, err
	}
	var root ocispec.Descriptor
	if err := json.Unmarshal([]byte(response[remotecache.ExporterResponseManifestDesc]), &root); err != nil {
		return nil, err
	}
	results, err := export.Commit(ctx, &cachev1.CommitTarget{TargetId: target.GetId(), Root: client.Descriptor(root)})
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

// importCache gives use the managers that BuildKit's importer makes of what is stored under ref.
func importCache(ctx context.Context, conn grpc.ClientConnInterface, ref string, w worker.Worker, use func(context.Context, solver.CacheManager) error) (err error) {
	hold, err := client.Resolve(ctx, conn, &cachev1.ResolveRequest{Refs: []string{ref}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hold.Close()) }()
	importer := remotecache.NewImporter(hold)
	for _, part := range hold.Parts {
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
