package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The path of every method of the target.
const methods = "/chaos.v1.TargetService/"

// An act is how calls are answered for now.
type act struct {
	// How much later than usual.
	slow time.Duration
	// The share of calls that fail, 0 to 1, and how.
	share float64
	end   string
	// Never, until the caller gives up.
	hang bool
}

// The ends of a call that carry a status.
var statuses = map[string]codes.Code{
	"UNAVAILABLE": codes.Unavailable,
	"INTERNAL":    codes.Internal,
}

// The ends of a call that carry none.
var ends = map[string]func(http.ResponseWriter){
	// RST_STREAM with INTERNAL_ERROR, and nothing before it.
	"reset": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	// The same by a handler that panics, which is logged.
	"panic": func(http.ResponseWriter) { panic("told to panic") },
	// A response that ends without trailers.
	"no-trailers": func(w http.ResponseWriter) {
		w.Header().Set("content-type", "application/grpc")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
	},
	// A login page, as a proxy in between sends one.
	"page": page(http.StatusOK),
	// The page of a proxy that has an error of its own.
	"error-page": page(http.StatusInternalServerError),
}

func page(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("content-type", "text/html; charset=utf-8")
		w.WriteHeader(code)
		fmt.Fprintln(w, "<html><body><h1>Please log in</h1></body></html>")
	}
}

// parse reads an order such as `slow 500ms`, `fail INTERNAL` or `half reset`.
func parse(line string) (act, error) {
	words := strings.Fields(line)
	switch {
	case line == "well":
		return act{}, nil
	case line == "hang":
		return act{hang: true}, nil
	case len(words) == 2 && words[0] == "slow":
		slow, err := time.ParseDuration(words[1])
		return act{slow: slow}, err
	case len(words) == 2 && (words[0] == "fail" || words[0] == "half"):
		_, coded := statuses[words[1]]
		if _, bare := ends[words[1]]; !coded && !(bare && *overHTTP) {
			return act{}, fmt.Errorf("`%s` is no end of a call here", words[1])
		}
		share := map[string]float64{"fail": 1, "half": 0.5}[words[0]]
		return act{share: share, end: words[1]}, nil
	}
	return act{}, fmt.Errorf("`%s` is no order", line)
}

// A target answers every method of every service alike.
type target struct {
	work   time.Duration
	act    atomic.Pointer[act]
	ledger *ledger
	next   *next
}

func (t *target) now() act {
	if act := t.act.Load(); act != nil {
		return *act
	}
	return act{}
}

// endsWithoutStatus ends a call below gRPC, if it was told to.
func (t *target) endsWithoutStatus(w http.ResponseWriter, r *http.Request) bool {
	act := t.now()
	end, bare := ends[act.end]
	if !bare || !strings.HasPrefix(r.URL.Path, methods) || rand.Float64() >= act.share {
		return false
	}
	end(w)
	return true
}

// handle answers one call, whose message is empty in both directions.
func (t *target) handle(_ any, stream grpc.ServerStream) error {
	ctx := stream.Context()
	defer t.ledger.enter(ctx)()
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	if err := t.behave(ctx); err != nil {
		return err
	}
	if t.next != nil {
		if err := t.next.call(ctx); err != nil {
			return err
		}
	}
	response := []byte{}
	return stream.SendMsg(&response)
}

func (t *target) behave(ctx context.Context) error {
	act := t.now()
	if act.hang {
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	if code, coded := statuses[act.end]; coded && rand.Float64() < act.share {
		return status.Error(code, "told to fail")
	}
	if err := wait(ctx, t.work+act.slow); err != nil {
		return status.FromContextError(err).Err()
	}
	return nil
}
