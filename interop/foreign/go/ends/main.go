// ends is an HTTP/2 server on Go's net/http that ends each call of
// grpc.testing.TestService/EmptyCall as the caller's metadata asks: by a page,
// by a reset, without trailers, by metadata that is no text.
// A call of StreamingInputCall is answered before it is read.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
)

// The metadata that names the end.
const metadata = "x-interop-end"

// An empty message with its prefix.
const empty = "\x00\x00\x00\x00\x00"

func main() {
	port := flag.Int("port", 0, "the port to listen on")
	flag.Parse()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := http.Server{
		Addr:      fmt.Sprintf("127.0.0.1:%d", *port),
		Handler:   http.HandlerFunc(serve),
		Protocols: protocols,
	}
	log.Fatal(server.ListenAndServe())
}

func serve(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/StreamingInputCall") {
		// Answered before it is read: RST_STREAM with NO_ERROR follows.
		grpc(w, empty, "0", "")
		return
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	if !strings.HasSuffix(r.URL.Path, "/EmptyCall") {
		grpc(w, "", "12", "only EmptyCall is served")
		return
	}
	end := r.Header.Get(metadata)
	if code, found := strings.CutPrefix(end, "page-"); found {
		page(w, code)
		return
	}
	switch end {
	case "":
		grpc(w, empty, "0", "")
	case "reset":
		panic(http.ErrAbortHandler)
	case "reset-after-headers":
		grpcHeaders(w)
		panic(http.ErrAbortHandler)
	case "panic":
		panic("asked to panic")
	case "no-trailers":
		grpcHeaders(w)
	case "message-without-trailers":
		grpcHeaders(w)
		io.WriteString(w, empty)
	case "raw-status-message":
		grpc(w, "", "5", "caf\xe9 is not here")
	case "encoded-status-message":
		grpc(w, "", "5", "caf%E9 %FF is not here")
	case "unknown-code":
		grpc(w, "", "99", "from the future")
	case "no-number":
		grpc(w, "", "none", "not a number")
	case "no-message":
		grpc(w, "", "0", "")
	case "two-messages":
		grpc(w, empty+empty, "0", "")
	case "malformed-message":
		grpc(w, "\x00\x00\x00\x00\x02\xff\xff", "0", "")
	case "flag-without-encoding":
		grpc(w, "\x01\x00\x00\x00\x00", "0", "")
	case "unknown-encoding":
		w.Header().Set("grpc-encoding", "snappy")
		grpc(w, "\x01\x00\x00\x00\x01a", "0", "")
	case "identity-encoding":
		w.Header().Set("grpc-encoding", "identity")
		grpc(w, empty, "0", "")
	case "content-type-with-codec":
		w.Header().Set("content-type", "application/grpc+proto")
		grpc(w, empty, "0", "")
	case "content-type-with-parameter":
		w.Header().Set("content-type", "application/grpc; charset=utf-8")
		grpc(w, empty, "0", "")
	case "hints-first":
		w.Header().Set("link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		grpc(w, empty, "0", "")
	case "status-beside-503":
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("grpc-status", "5")
		w.Header().Set("grpc-message", "not here")
		w.WriteHeader(http.StatusServiceUnavailable)
	case "long-status-message":
		grpc(w, "", "5", strings.Repeat("a", 10_000))
	case "endless-status-message":
		grpc(w, "", "5", strings.Repeat("a", 100_000))
	case "half-a-message":
		grpc(w, "\x00\x00\x00\x00\x08abc", "0", "")
	default:
		http.Error(w, "no such end", http.StatusTeapot)
	}
}

// page answers as a proxy or a web server does.
func page(w http.ResponseWriter, code string) {
	number, err := strconv.Atoi(code)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	w.Header().Set("content-type", "text/html; charset=utf-8")
	w.WriteHeader(number)
	fmt.Fprintln(w, "<html><body><h1>This is no gRPC</h1></body></html>")
}

func grpcHeaders(w http.ResponseWriter) {
	if w.Header().Get("content-type") == "" {
		w.Header().Set("content-type", "application/grpc")
	}
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
}

// grpc answers with a body and trailers.
func grpc(w http.ResponseWriter, body, status, message string) {
	grpcHeaders(w)
	io.WriteString(w, body)
	w.Header().Set(http.TrailerPrefix+"grpc-status", status)
	w.Header().Set(http.TrailerPrefix+"grpc-message", message)
}
