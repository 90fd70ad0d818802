package client

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"linkspan.test/client/cachev1"
)

// cacheKey is the metadata by which calls of the Content service say what they are for.
const cacheKey = "linkspan-cache"

// CacheExport is the export of a build cache: a content.Store for BuildKit's remotecache.NewExporter.
type CacheExport struct {
	*kept
	caches cachev1.CachesClient
}

// OpenCache opens the export of a cache.
func OpenCache(ctx context.Context, conn grpc.ClientConnInterface, request *cachev1.OpenRequest) (*CacheExport, error) {
	request = proto.CloneOf(request)
	if request.Ttl == nil {
		request.Ttl = durationpb.New(defaultTTL)
	}
	caches := cachev1.NewCachesClient(conn)
	capabilities, err := caches.Capabilities(ctx, &cachev1.CapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	opened, err := caches.Open(ctx, request)
	if err != nil {
		return nil, err
	}
	id := opened.GetExport().GetId()
	abort := func(ctx context.Context) error {
		_, err := caches.Abort(ctx, &cachev1.AbortRequest{ExportId: id})
		return err
	}
	kept := keep(ctx, conn, cacheKey, id, capabilities.GetLimits().GetWrites(), request.Ttl, renewal(caches, id, request.Ttl), abort)
	return &CacheExport{kept, caches}, nil
}

// Commit stores versions. An error is that of the targets that have failed; the results of the others are returned with it.
func (c *CacheExport) Commit(ctx context.Context, targets ...*cachev1.CommitTarget) ([]*cachev1.TargetResult, error) {
	// The stream is not read to its end.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.caches.Commit(ctx, &cachev1.CommitRequest{ExportId: c.id, Targets: targets})
	for err == nil {
		var message *cachev1.CommitResponse
		message, err = stream.Recv()
		if results := message.GetResults(); results != nil {
			var failures []error
			for _, result := range results.GetResults() {
				failures = append(failures, failure(result.GetId(), result.GetError()))
			}
			return results.GetResults(), errors.Join(failures...)
		}
	}
	return nil, lost(err)
}

// Hold is versions of caches that stay until it is closed: a content.Store for BuildKit's remotecache.NewImporter.
type Hold struct {
	*kept
	// Parts are what is stored under the refs, the newest version of each first.
	Parts []*cachev1.ResolvedPart
}

// Resolve takes hold of what is stored under the refs. One without a cache is no error.
func Resolve(ctx context.Context, conn grpc.ClientConnInterface, request *cachev1.ResolveRequest) (*Hold, error) {
	request = proto.CloneOf(request)
	if request.Ttl == nil {
		request.Ttl = durationpb.New(defaultTTL)
	}
	caches := cachev1.NewCachesClient(conn)
	resolved, err := caches.Resolve(ctx, request)
	if err != nil {
		return nil, err
	}
	id := resolved.GetHoldId()
	renew := renewal(caches, id, request.Ttl)
	release := func(ctx context.Context) error {
		_, err := caches.Release(ctx, &cachev1.ReleaseRequest{HoldId: id})
		return err
	}
	if id == "" {
		// Nothing was found, so that nothing is kept.
		none := func(context.Context) error { return nil }
		renew, release = none, none
	}
	// Nothing is written into a hold.
	kept := keep(ctx, conn, cacheKey, id, 0, request.Ttl, renew, release)
	return &Hold{kept, resolved.GetParts()}, nil
}

func renewal(caches cachev1.CachesClient, id string, ttl *durationpb.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := caches.Renew(ctx, &cachev1.RenewRequest{Id: id, Ttl: ttl})
		return err
	}
}
