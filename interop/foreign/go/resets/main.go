// resets is an HTTP/2 server, frame by frame, that resets each stream with the
// error code that the caller's metadata names; without one it answers.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The metadata that names the end, such as `reset-8`.
const metadata = "x-interop-end"

// An empty message with its prefix.
var empty = make([]byte, 5)

func main() {
	port := flag.Int("port", 0, "the port to listen on")
	flag.Parse()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			if err := serve(conn); err != nil && err != io.EOF {
				log.Print(err)
			}
		}()
	}
}

// A peer is one connection.
type peer struct {
	framer *http2.Framer
	// The end that each open stream asks for.
	open map[uint32]string
}

func serve(conn net.Conn) error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return err
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	peer := peer{framer: framer, open: map[uint32]string{}}
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		if err := peer.handle(frame); err != nil {
			return err
		}
	}
}

func (p *peer) handle(frame http2.Frame) error {
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			return p.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			return p.framer.WritePing(true, frame.Data)
		}
	case *http2.MetaHeadersFrame:
		p.open[frame.StreamID] = wanted(frame)
		if frame.StreamEnded() {
			return p.end(frame.StreamID)
		}
	case *http2.DataFrame:
		if frame.StreamEnded() {
			return p.end(frame.StreamID)
		}
	case *http2.RSTStreamFrame:
		delete(p.open, frame.StreamID)
	}
	return nil
}

// wanted is the end that a request asks for; the health watch, which would be
// there for ever, is reset without one.
func wanted(request *http2.MetaHeadersFrame) string {
	if strings.HasPrefix(request.PseudoValue("path"), "/grpc.health.") {
		return "unimplemented"
	}
	for _, field := range request.RegularFields() {
		if field.Name == metadata {
			return field.Value
		}
	}
	return ""
}

func (p *peer) end(stream uint32) error {
	end, known := p.open[stream]
	if !known {
		return nil
	}
	delete(p.open, stream)
	if code, found := strings.CutPrefix(end, "reset-"); found {
		number, err := strconv.ParseUint(code, 10, 32)
		if err != nil {
			return err
		}
		return p.framer.WriteRSTStream(stream, http2.ErrCode(number))
	}
	status := "0"
	if end == "unimplemented" {
		status = "12"
	}
	if err := p.headers(stream, false, ":status", "200", "content-type", "application/grpc"); err != nil {
		return err
	}
	if status == "0" {
		if err := p.framer.WriteData(stream, false, empty); err != nil {
			return err
		}
	}
	return p.headers(stream, true, "grpc-status", status)
}

func (p *peer) headers(stream uint32, last bool, pairs ...string) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	// Nothing is kept between blocks, for the encoder is not either.
	encoder.SetMaxDynamicTableSize(0)
	for at := 0; at < len(pairs); at += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: pairs[at], Value: pairs[at+1]}); err != nil {
			return err
		}
	}
	return p.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: last,
	})
}
