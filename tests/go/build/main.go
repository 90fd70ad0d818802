// Command build builds a Dockerfile with BuildKit's own client and exports it into an engine by linkspan.export.v1: the output store
// of the build is the store of an export, so that BuildKit writes only what the engine lacks, and nothing stands between it and the client.
//
//	cd tests/go && go build -o build.bin ./build
//	./build.bin [flags] CONTEXT
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"os/signal"
	"strings"
	"syscall"

	buildkit "github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"linkspan.test/client"
	"linkspan.test/client/exportv1"
)

func main() {
	builder := flag.String("builder", "unix:///run/buildkit/buildkitd.sock", "where buildkitd listens")
	to := flag.String("to", "unix:///run/linkspan/export.sock", "where linkspan.export.v1 is served")
	frontend, output := attributes{}, attributes{"tar": "false"}
	flag.Var(frontend, "opt", "KEY=VALUE for the Dockerfile frontend, such as platform=linux/amd64")
	flag.Var(output, "output", "KEY=VALUE for BuildKit's exporter, such as name=demo:1")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: build [flags] CONTEXT\n\nCONTEXT is the folder with the Dockerfile. Flags:")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := build(ctx, *builder, *to, flag.Arg(0), frontend, output); err != nil {
		log.Fatal(err)
	}
}

func build(ctx context.Context, builder, to, folder string, frontend, output attributes) (err error) {
	conn, err := grpc.NewClient(to, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	export, err := client.Open(ctx, conn, &exportv1.OpenRequest{Labels: map[string]string{"builder": builder}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, export.Close()) }()
	solver, err := buildkit.New(ctx, builder)
	if err != nil {
		return err
	}
	defer solver.Close()
	files, err := fsutil.NewFS(folder)
	if err != nil {
		return err
	}
	built, err := solver.Solve(ctx, nil, buildkit.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: frontend,
		LocalMounts:   map[string]fsutil.FS{"context": files, "dockerfile": files},
		Exports:       []buildkit.ExportEntry{{Type: buildkit.ExporterOCI, Attrs: output, OutputStore: export}},
	}, nil)
	if err != nil {
		return err
	}
	results, err := export.CommitBuild(ctx, built.ExporterResponse)
	for _, result := range results {
		fmt.Printf("%s [%s], %d blobs sent\n", result.GetRoot().GetDigest(), strings.Join(result.GetNames(), " "), export.Sent())
	}
	return err
}

// attributes are the values of a flag that can be repeated.
type attributes map[string]string

func (a attributes) String() string {
	return fmt.Sprint(maps.Collect(maps.All(a)))
}

func (a attributes) Set(text string) error {
	key, value, found := strings.Cut(text, "=")
	if !found {
		return fmt.Errorf("expected KEY=VALUE, not %q", text)
	}
	a[key] = value
	return nil
}
