package client

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"linkspan.test/client/cachev1"
	"linkspan.test/client/exportv1"
)

// dial connects to the server at $LINKSPAN_EXPORT_ADDRESS, which in Linkspan's own tests is set, and nothing skipped.
func dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	address := os.Getenv("LINKSPAN_EXPORT_ADDRESS")
	if address == "" {
		t.Skip("LINKSPAN_EXPORT_ADDRESS is not set: it names a server, as unix:///run/linkspan/export.sock")
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func open(t *testing.T, request *exportv1.OpenRequest) *Export {
	t.Helper()
	export, err := Open(t.Context(), dial(t), request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { export.Close() })
	return export
}

func get(t *testing.T, export *Export) *exportv1.Export {
	t.Helper()
	response, err := export.exports.Get(t.Context(), &exportv1.GetRequest{ExportId: export.ID()})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetExport()
}

// write puts an artifact of one blob into the export, and returns its root.
func write(t *testing.T, export *Export) ocispec.Descriptor {
	t.Helper()
	put := func(mediaType, text string) ocispec.Descriptor {
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(text), Size: int64(len(text))}
		if err := content.WriteBlob(t.Context(), export, desc.Digest.String(), strings.NewReader(text), desc); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	put(ocispec.MediaTypeEmptyJSON, "{}")
	const empty = `{"mediaType":"` + ocispec.MediaTypeEmptyJSON + `","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}`
	return put(ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageManifest+
		`","artifactType":"text/plain","config":`+empty+`,"layers":[`+empty+`],"annotations":{"test":"`+t.Name()+`"}}`)
}

func TestAnExportIsRenewed(t *testing.T) {
	export := open(t, &exportv1.OpenRequest{Ttl: durationpb.New(time.Minute)})
	first := get(t, export).GetExpireTime().AsTime()
	for end := time.Now().Add(2 * time.Minute); !get(t, export).GetExpireTime().AsTime().After(first); {
		if time.Now().After(end) {
			t.Fatalf("it still ends at %v", first)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestCloseAborts(t *testing.T) {
	export := open(t, &exportv1.OpenRequest{})
	ctx, cancel := context.WithCancel(t.Context())
	writer, err := export.Writer(ctx, content.WithRef("half"), content.WithDescriptor(ocispec.Descriptor{Size: 10}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Write([]byte("half ")); err != nil {
		t.Fatal(err)
	}
	cancel()
	writer.Close()
	for range 2 {
		if err := export.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if state := get(t, export).GetState(); state != exportv1.ExportState_EXPORT_STATE_ABORTED {
		t.Fatal(state)
	}
}

func TestCloseLeavesWhatIsCommitted(t *testing.T) {
	for _, name := range []string{"client-test:1", ""} {
		export := open(t, &exportv1.OpenRequest{})
		root := write(t, export)
		// It is in the scope by now, and is not sent again.
		if _, err := export.Writer(t.Context(), content.WithRef("again"), content.WithDescriptor(root)); !errdefs.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		var names []string
		if name != "" {
			names = append(names, name)
		}
		results, err := export.Commit(t.Context(), root, names...)
		if err != nil || len(results[0].GetNames()) != len(names) || results[0].GetRoot().GetDigest() != root.Digest.String() {
			t.Fatal(results, err)
		}
		if err := export.Close(); err != nil {
			t.Fatal(err)
		}
		if state := get(t, export).GetState(); state != exportv1.ExportState_EXPORT_STATE_COMMITTED {
			t.Fatal(state)
		}
	}
}

func TestWhyACommitFailed(t *testing.T) {
	export := open(t, &exportv1.OpenRequest{})
	missing := digest.FromString("nobody has sent this")
	_, err := export.Commit(t.Context(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: missing, Size: 20})
	if err == nil || !strings.HasPrefix(err.Error(), "image: REASON_BLOBS_MISSING: ") {
		t.Fatal(err)
	}
	for response, expected := range map[string]string{
		"": "the build's response has no containerimage.descriptor; hint: export with the type oci or docker, and tar=false",
		// What follows is Go's own text.
		"!":       "containerimage.descriptor of the build's response is not base64: ",
		"bm90aQ=": "containerimage.descriptor of the build's response is not base64: ",
		"W10=":    "containerimage.descriptor of the build's response is no descriptor: ",
	} {
		built := map[string]string{}
		if response != "" {
			built[builtDescriptor] = response
		}
		if _, err := export.CommitBuild(t.Context(), built); err == nil || !strings.HasPrefix(err.Error(), expected) {
			t.Errorf("%q: %v", response, err)
		}
	}
}

func TestAHoldOfNothing(t *testing.T) {
	hold, err := Resolve(t.Context(), dial(t), &cachev1.ResolveRequest{Refs: []string{"nobody/stored/this"}})
	if err != nil || len(hold.Parts) != 0 {
		t.Fatal(hold, err)
	}
	if err := hold.Close(); err != nil {
		t.Fatal(err)
	}
}
