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
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"linkspan.test/client"
	"linkspan.test/client/exportv1"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: export ADDRESS NAME")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, address, name string) (err error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	export, err := client.Open(ctx, conn, &exportv1.OpenRequest{Labels: map[string]string{"builder": "export in Go"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, export.Close()) }()

	root, blobs, err := image()
	if err != nil {
		return err
	}
	if err := send(ctx, export, blobs); err != nil {
		return err
	}
	results, err := export.Commit(ctx, root, name)
	if err != nil {
		return err
	}
	fmt.Printf("%s %s, %d blobs sent\n", results[0].GetNames()[0], results[0].GetRoot().GetDigest(), export.Sent())
	return nil
}

// send writes what the engine lacks.
func send(ctx context.Context, export *client.Export, blobs []blob) error {
	var descriptors []ocispec.Descriptor
	for _, blob := range blobs {
		descriptors = append(descriptors, blob.desc)
	}
	negotiated, err := export.Negotiate(ctx, descriptors...)
	if err != nil {
		return err
	}
	for at, found := range negotiated {
		if found.GetStanding() == exportv1.Standing_STANDING_PRESENT {
			continue
		}
		if err := content.WriteBlob(ctx, export, found.GetRef(), bytes.NewReader(blobs[at].bytes), blobs[at].desc); err != nil {
			return err
		}
	}
	return nil
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
