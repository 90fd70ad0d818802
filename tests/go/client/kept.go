// Package client is a client of linkspan.export.v1 and linkspan.cache.v1 that presents what a server keeps for it as
// containerd's content.Store.
package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// messageBytes is the largest message of either API.
	messageBytes = 16 << 20
	// defaultTTL is how long a server keeps what a client has left without a word.
	defaultTTL = 10 * time.Minute
	// endTimeout bounds the last call for what is kept.
	endTimeout = 10 * time.Second
)

// kept is what a server keeps for this client: a store, and a lease that is renewed until it is ended.
type kept struct {
	content.Store
	id      string
	writes  chan struct{}
	sent    atomic.Int64
	end     func(context.Context) error
	stop    context.CancelFunc
	renewed chan struct{}
	once    sync.Once
	ended   error
}

// keep renews what has this id until Close. ctx does not end it, so that a client whose context was cancelled can still give up what it has.
func keep(ctx context.Context, conn grpc.ClientConnInterface, key, id string, writes int64, ttl *durationpb.Duration, renew, end func(context.Context) error) *kept {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	k := &kept{
		Store: proxy.NewContentStore(scoped{conn, key, id}),
		id:    id,
		// A server ends a write a moment after its client knows of it, so that only half of them are used.
		writes:  make(chan struct{}, max(writes/2, 1)),
		end:     end,
		stop:    stop,
		renewed: make(chan struct{}),
	}
	go func() {
		defer close(k.renewed)
		ticker := time.NewTicker(max(ttl.AsDuration()/3, time.Second))
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				// One that fails is followed by others before the time is over; then the next call of the store says so.
				_ = renew(ctx)
			}
		}
	}()
	return k
}

// ID is what the server calls it: an export id or the id of a hold.
func (k *kept) ID() string {
	return k.id
}

// Close ends it: an export that is not committed is aborted, a hold is released. It is to be called in any case.
func (k *kept) Close() error {
	k.once.Do(func() {
		k.stop()
		<-k.renewed
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		k.ended = k.end(ctx)
	})
	return k.ended
}

// Writer waits while as many writes are under way as the server allows; BuildKit opens those of all layers at once.
func (k *kept) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	select {
	case k.writes <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	done := sync.OnceFunc(func() { <-k.writes })
	writer, err := k.Store.Writer(ctx, opts...)
	if err != nil {
		done()
		return nil, err
	}
	return &counted{Writer: writer, done: done, sent: &k.sent}, nil
}

// Sent is how many blobs were written with their bytes; the others were there already.
func (k *kept) Sent() int64 {
	return k.sent.Load()
}

// counted is a writer that others may wait for.
type counted struct {
	content.Writer
	done     func()
	sent     *atomic.Int64
	hasBytes bool
}

func (c *counted) Write(bytes []byte) (int, error) {
	c.hasBytes = c.hasBytes || len(bytes) > 0
	return c.Writer.Write(bytes)
}

func (c *counted) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	defer c.done()
	err := c.Writer.Commit(ctx, size, expected, opts...)
	if err == nil && c.hasBytes {
		c.sent.Add(1)
	}
	return err
}

func (c *counted) Close() error {
	defer c.done()
	return c.Writer.Close()
}

// scoped is a connection whose calls say what their blobs belong to.
type scoped struct {
	grpc.ClientConnInterface
	key, id string
}

func (s scoped) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return s.ClientConnInterface.Invoke(s.outgoing(ctx), method, args, reply, larger(opts)...)
}

func (s scoped) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return s.ClientConnInterface.NewStream(s.outgoing(ctx), desc, method, larger(opts)...)
}

func (s scoped) outgoing(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, s.key, s.id)
}

func larger(opts []grpc.CallOption) []grpc.CallOption {
	return append([]grpc.CallOption{grpc.MaxCallRecvMsgSize(messageBytes)}, opts...)
}
