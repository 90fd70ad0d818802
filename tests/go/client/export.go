package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	// The details of the server's errors; BuildKit passes on only those that it knows.
	_ "google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"linkspan.test/client/exportv1"
)

// The keys of a BuildKit exporter's response that name what was made (exporter/containerimage/exptypes).
const (
	builtDescriptor = "containerimage.descriptor"
	builtNames      = "image.name"
)

// Export is an export that is open: a content.Store where a write of what the engine has already returns ErrAlreadyExists.
type Export struct {
	*kept
	exports   exportv1.ExportsClient
	exporters []*exportv1.Exporter
	// nameless are the types of exporters that take no names.
	nameless map[string]bool
}

// Open opens an export, with one exporter of the type `image` if the request names none.
func Open(ctx context.Context, conn grpc.ClientConnInterface, request *exportv1.OpenRequest) (*Export, error) {
	request = proto.CloneOf(request)
	if len(request.Exporters) == 0 {
		request.Exporters = []*exportv1.Exporter{{Id: "image", Type: "image"}}
	}
	if request.Ttl == nil {
		request.Ttl = durationpb.New(defaultTTL)
	}
	exports := exportv1.NewExportsClient(conn)
	capabilities, err := exports.Capabilities(ctx, &exportv1.CapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	opened, err := exports.Open(ctx, request)
	if err != nil {
		return nil, err
	}
	id := opened.GetExport().GetId()
	renew := func(ctx context.Context) error {
		_, err := exports.Renew(ctx, &exportv1.RenewRequest{ExportId: id, Ttl: request.Ttl})
		return err
	}
	abort := func(ctx context.Context) error {
		_, aborting := exports.Abort(ctx, &exportv1.AbortRequest{ExportId: id})
		if aborting == nil {
			return nil
		}
		// It cannot be aborted where it has ended already.
		ended, err := exports.Get(ctx, &exportv1.GetRequest{ExportId: id})
		switch ended.GetExport().GetState() {
		case exportv1.ExportState_EXPORT_STATE_COMMITTED, exportv1.ExportState_EXPORT_STATE_EXPIRED:
			return nil
		}
		return errors.Join(aborting, err)
	}
	kept := keep(ctx, conn, "linkspan-export", id, capabilities.GetLimits().GetWrites(), request.Ttl, renew, abort)
	export := &Export{kept: kept, exports: exports, exporters: request.Exporters, nameless: map[string]bool{}}
	for _, kind := range capabilities.GetExporterTypes() {
		export.nameless[kind.GetName()] = kind.GetNames() == exportv1.NameUse_NAME_USE_UNUSED
	}
	return export, nil
}

// Negotiate says in one round trip what the engine lacks of blobs, in their order. Who writes into the store need not ask.
func (e *Export) Negotiate(ctx context.Context, blobs ...ocispec.Descriptor) ([]*exportv1.Negotiated, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := e.exports.Negotiate(ctx)
	if err != nil {
		return nil, err
	}
	request := &exportv1.NegotiateRequest{ExportId: e.id}
	for _, blob := range blobs {
		request.Descriptors = append(request.Descriptors, Descriptor(blob))
	}
	// Why it failed is what Recv returns.
	if err := errors.Join(stream.Send(request), stream.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	response, err := stream.Recv()
	return response.GetBlobs(), err
}

// Commit makes root what each exporter of the export stores, under these names. An error is that of the exporters that have failed; the
// results of the others are returned with it.
func (e *Export) Commit(ctx context.Context, root ocispec.Descriptor, names ...string) ([]*exportv1.ExporterResult, error) {
	request := &exportv1.CommitRequest{ExportId: e.id}
	for _, exporter := range e.exporters {
		target := &exportv1.Target{ExporterId: exporter.GetId(), Root: Descriptor(root)}
		if !e.nameless[exporter.GetType()] {
			target.Names = names
		}
		request.Targets = append(request.Targets, target)
	}
	// The stream is not read to its end.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := e.exports.Commit(ctx, request)
	for err == nil {
		var message *exportv1.CommitResponse
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

// CommitBuild commits what BuildKit's exporter has written into the store, by the response of the build.
func (e *Export) CommitBuild(ctx context.Context, response map[string]string) ([]*exportv1.ExporterResult, error) {
	encoded, found := response[builtDescriptor]
	if !found {
		return nil, fmt.Errorf("the build's response has no %s; hint: export with the type oci or docker, and tar=false", builtDescriptor)
	}
	document, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("%s of the build's response is not base64: %w", builtDescriptor, err)
	}
	var root ocispec.Descriptor
	if err := json.Unmarshal(document, &root); err != nil {
		return nil, fmt.Errorf("%s of the build's response is no descriptor: %w", builtDescriptor, err)
	}
	var names []string
	if joined := response[builtNames]; joined != "" {
		names = strings.Split(joined, ",")
	}
	return e.Commit(ctx, root, names...)
}

// Descriptor is the API's form of a descriptor.
func Descriptor(desc ocispec.Descriptor) *exportv1.Descriptor {
	descriptor := &exportv1.Descriptor{
		MediaType:    desc.MediaType,
		Digest:       desc.Digest.String(),
		Size:         desc.Size,
		Annotations:  desc.Annotations,
		ArtifactType: desc.ArtifactType,
	}
	if platform := desc.Platform; platform != nil {
		descriptor.Platform = &exportv1.Platform{
			Architecture: platform.Architecture,
			Os:           platform.OS,
			OsVersion:    platform.OSVersion,
			OsFeatures:   platform.OSFeatures,
			Variant:      platform.Variant,
		}
	}
	return descriptor
}

// Error is why an exporter or a target of a commit has failed.
type Error struct {
	// ID is that of the exporter or the target.
	ID string
	// Reported is the error as the server has sent it.
	Reported *exportv1.Error
}

func (e *Error) Error() string {
	message := fmt.Sprintf("%s: %s: %s", e.ID, e.Reported.GetReason(), e.Reported.GetMessage())
	if hint := e.Reported.GetMetadata()["hint"]; hint != "" {
		message += "; hint: " + hint
	}
	return message
}

// failure is nil where there is none, so that it can be joined.
func failure(id string, found *exportv1.Error) error {
	if found == nil {
		return nil
	}
	return &Error{id, found}
}

// lost is the error of a stream that has ended without a result.
func lost(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
