// Command export makes an image and exports it: what a builder written in Go needs of the API, and no more.
//
//	export unix:///run/linkspan/export.sock NAME
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	exportv1 "linkspan.test/go/exportv1"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: export ADDRESS NAME")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, address, name string) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	exports := exportv1.NewExportsClient(conn)
	opened, err := exports.Open(ctx, &exportv1.OpenRequest{
		Exporters: []*exportv1.Exporter{{Id: "image", Type: "image"}},
		Labels:    map[string]string{"builder": "export in Go"},
	})
	if err != nil {
		return err
	}
	id := opened.GetExport().GetId()
	ctx = metadata.AppendToOutgoingContext(ctx, "linkspan-export", id)

	root, blobs, err := image()
	if err != nil {
		return err
	}
	sent, err := send(ctx, exports, proxy.NewContentStore(conn), id, blobs)
	if err != nil {
		return err
	}
	result, err := commit(ctx, exports, &exportv1.CommitRequest{
		ExportId: id,
		Targets:  []*exportv1.Target{{ExporterId: "image", Root: descriptor(root), Names: []string{name}}},
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s %s, %d blobs sent\n", result.GetNames()[0], result.GetRoot().GetDigest(), sent)
	return nil
}

// send writes what the engine lacks; how many blobs that were.
func send(ctx context.Context, exports exportv1.ExportsClient, store content.Store, id string, blobs []blob) (int, error) {
	stream, err := exports.Negotiate(ctx)
	if err != nil {
		return 0, err
	}
	request := &exportv1.NegotiateRequest{ExportId: id}
	for _, blob := range blobs {
		request.Descriptors = append(request.Descriptors, descriptor(blob.desc))
	}
	if err := stream.Send(request); err != nil {
		return 0, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	sent := 0
	for at, negotiated := range answer.GetBlobs() {
		if negotiated.GetStanding() == exportv1.Standing_STANDING_PRESENT {
			continue
		}
		if err := content.WriteBlob(ctx, store, negotiated.GetRef(), bytes.NewReader(blobs[at].bytes), blobs[at].desc); err != nil {
			return sent, err
		}
		sent++
	}
	return sent, nil
}

// commit waits for the only result.
func commit(ctx context.Context, exports exportv1.ExportsClient, request *exportv1.CommitRequest) (*exportv1.ExporterResult, error) {
	stream, err := exports.Commit(ctx, request)
	if err != nil {
		return nil, err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if results := message.GetResults(); results != nil {
			result := results.GetResults()[0]
			if failure := result.GetError(); failure != nil {
				return nil, fmt.Errorf("%s: %s", failure.GetReason(), failure.GetMessage())
			}
			return result, nil
		}
	}
}

type blob struct {
	desc  ocispec.Descriptor
	bytes []byte
}

// image makes an image of one file; its root is first.
func image() (ocispec.Descriptor, []blob, error) {
	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	greeting := []byte("hello from Go\n")
	header := &tar.Header{Name: "greeting", Mode: 0o644, Size: int64(len(greeting))}
	if err := errors.Join(files.WriteHeader(header), write(files, greeting), files.Close()); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	layers := of(ocispec.MediaTypeImageLayer, layer.Bytes())
	config, err := document(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layers.desc.Digest}},
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	manifest, err := document(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config.desc,
		Layers:    []ocispec.Descriptor{layers.desc},
	})
	return manifest.desc, []blob{manifest, config, layers}, err
}

func write(to io.Writer, bytes []byte) error {
	_, err := to.Write(bytes)
	return err
}

func document(mediaType string, value any) (blob, error) {
	bytes, err := json.Marshal(value)
	return of(mediaType, bytes), err
}

func of(mediaType string, bytes []byte) blob {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(bytes), Size: int64(len(bytes))}
	return blob{desc, bytes}
}

func descriptor(desc ocispec.Descriptor) *exportv1.Descriptor {
	return &exportv1.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size}
}
