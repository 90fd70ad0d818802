// Package gotest holds containerd's own tests of a content store, run against the store of an export.
package gotest

import (
	"context"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/content/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"linkspan.test/client/exportv1"
)

// TestContent expects a linkspan at $LINKSPAN_EXPORT_ADDRESS, such as unix:///run/linkspan/export.sock.
func TestContent(t *testing.T) {
	address := os.Getenv("LINKSPAN_EXPORT_ADDRESS")
	if address == "" {
		t.Skip("LINKSPAN_EXPORT_ADDRESS is not set: it names a server, as unix:///run/linkspan/export.sock")
	}
	testsuite.ContentSuite(t, "linkspan", func(ctx context.Context, _ string) (context.Context, content.Store, func() error, error) {
		conn, err := grpc.NewClient(address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20), grpc.MaxCallSendMsgSize(16<<20)))
		if err != nil {
			return nil, nil, nil, err
		}
		exports := exportv1.NewExportsClient(conn)
		// Each test gets an export of its own, as containerd's client tests get a namespace.
		wrap := func(ctx context.Context, _ bool) (context.Context, func(context.Context) error, error) {
			opened, err := exports.Open(ctx, &exportv1.OpenRequest{
				Exporters: []*exportv1.Exporter{{Id: "image", Type: "image"}},
				Labels:    map[string]string{"build": t.Name()},
			})
			if err != nil {
				return nil, nil, err
			}
			id := opened.GetExport().GetId()
			abort := func(ctx context.Context) error {
				_, err := exports.Abort(ctx, &exportv1.AbortRequest{ExportId: id})
				return err
			}
			return metadata.AppendToOutgoingContext(ctx, "linkspan-export", id), abort, nil
		}
		return testsuite.SetContextWrapper(ctx, wrap), proxy.NewContentStore(conn), conn.Close, nil
	})
}
