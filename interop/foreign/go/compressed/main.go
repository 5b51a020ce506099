// compressed runs grpc-go's interop cases with every message compressed by
// gzip, which its own programs do not: one case as a client, or as a server
// with default settings and a health service, as an ordinary Go service is.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	"google.golang.org/grpc/interop/grpc_testing"
)

// How long one case may take.
const timeout = 30 * time.Second

var (
	port       = flag.Int("port", 0, "serve on this port")
	serverHost = flag.String("server_host", "127.0.0.1", "call this host")
	serverPort = flag.Int("server_port", 0, "call this port")
	testCase   = flag.String("test_case", "", "the case to make")
)

var cases = map[string]func(context.Context, grpc_testing.TestServiceClient, ...grpc.CallOption){
	"gzip_large_unary":      interop.DoLargeUnaryCall,
	"gzip_client_streaming": interop.DoClientStreaming,
	"gzip_server_streaming": interop.DoServerStreaming,
	"gzip_ping_pong":        interop.DoPingPong,
	"gzip_status":           interop.DoStatusCodeAndMessage,
}

func main() {
	flag.Parse()
	if *port != 0 {
		log.Fatal(serve())
	}
	if err := call(); err != nil {
		log.Fatal(err)
	}
}

func serve() error {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(server, interop.NewTestServer())
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	return server.Serve(listener)
}

func call() error {
	test, found := cases[*testCase]
	if !found {
		return fmt.Errorf("there is no case %q", *testCase)
	}
	at := net.JoinHostPort(*serverHost, fmt.Sprint(*serverPort))
	conn, err := grpc.NewClient("passthrough:///"+at, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	test(ctx, grpc_testing.NewTestServiceClient(conn), grpc.UseCompressor(gzip.Name))
	return nil
}
