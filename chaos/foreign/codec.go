package main

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// A bytesCodec passes messages on as they are, so that no code needs to be
// generated for the target; the health service's it encodes.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(message any) ([]byte, error) {
	switch message := message.(type) {
	case *[]byte:
		return *message, nil
	case proto.Message:
		return proto.Marshal(message)
	}
	return nil, fmt.Errorf("a %T is no message", message)
}

func (bytesCodec) Unmarshal(data []byte, message any) error {
	switch message := message.(type) {
	case *[]byte:
		*message = append((*message)[:0], data...)
		return nil
	case proto.Message:
		return proto.Unmarshal(data, message)
	}
	return fmt.Errorf("a %T is no message", message)
}
