// chaos-grpc-go is the target of the chaos scenarios as a stock grpc-go server:
// default settings, no code of this project in it. It takes the arguments of
// `chaos serve` and behaves as its standard input says, line by line.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// How long a stop may take after SIGTERM before calls are cut off.
const stopTimeout = 5 * time.Second

var (
	service     = flag.String("service", "target", "the service to register as")
	listen      = flag.String("listen", "127.0.0.1:0", "the address to listen on")
	id          = flag.String("id", "target", "the id to register under")
	registry    = flag.String("registry", "", "the URL of the Consul agent; empty registers nowhere")
	relay       = flag.String("relay", "", "the service to pass every call on to")
	work        = flag.Duration("work", 20*time.Millisecond, "how long a call takes when all is well")
	overHTTP    = flag.Bool("http", false, "serve through net/http, which can end a call without a gRPC status")
	_           = flag.String("without", "", "accepted and ignored: this server has none of the mechanisms")
	showVersion = flag.Bool("version", false, "print grpc-go's version")
)

func main() {
	flag.Parse()
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	if *showVersion {
		fmt.Println("grpc-go", grpc.Version)
		return
	}
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	target := &target{work: *work, ledger: newLedger()}
	if *relay != "" {
		target.next = &next{registry: *registry, service: *relay}
	}
	server := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.UnknownServiceHandler(target.handle))
	checks := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, checks)
	failed := make(chan error, 1)
	go func() { failed <- serve(server, target, listener) }()

	entry := entry{agent: *registry, id: *id, service: *service, address: listener.Addr().String()}
	if err := entry.register(); err != nil {
		return err
	}
	go obey(target, checks)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	select {
	case err := <-failed:
		return err
	case <-stop:
	}
	checks.Shutdown()
	// Go services deregister when they stop; callers hear of it by GOAWAY.
	err = entry.deregister()
	cut := time.AfterFunc(stopTimeout, server.Stop)
	server.GracefulStop()
	cut.Stop()
	return err
}

func serve(server *grpc.Server, target *target, listener net.Listener) error {
	if !*overHTTP {
		return server.Serve(listener)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !target.endsWithoutStatus(w, r) {
			server.ServeHTTP(w, r)
		}
	})
	return (&http.Server{Handler: handler, Protocols: protocols}).Serve(listener)
}

// obey does what each line of standard input says, until the harness is gone.
func obey(target *target, checks *health.Server) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		line := lines.Text()
		switch line {
		case "report":
			fmt.Println("report", target.ledger.take())
			continue
		case "healthy":
			checks.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
		case "unhealthy":
			checks.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		default:
			act, err := parse(line)
			if err != nil {
				fmt.Println("what?", err)
				continue
			}
			target.act.Store(&act)
		}
		fmt.Println("now", line)
	}
	os.Exit(0)
}

// wait returns after d, or when the call is over.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
