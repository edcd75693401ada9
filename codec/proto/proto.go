// Package proto is the codec for Protocol Buffers: see limpet.Decode and limpet.Encode.
package proto

import (
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/limpet-go/limpet/codec"
)

// New returns a codec for the generated message M in the binary format. Its values are
// pointers: proto.New[pb.Price]() is a codec.Codec[*pb.Price]. Its content type is
// application/protobuf. It reads application/x-protobuf and application/octet-stream too.
//
// Unknown fields are kept, and a message without a required field is an error, as in
// google.golang.org/protobuf. Encode refuses nil, which would be sent as an empty message.
func New[M any, P interface {
	*M
	proto.Message
}]() codec.Codec[P] {
	return binary[M, P]{}
}

type binary[M any, P interface {
	*M
	proto.Message
}] struct{}

var types = []string{"application/protobuf", "application/x-protobuf", "application/octet-stream"}

var errNil = errors.New("the message must not be nil; pass a pointer to a message, which may be empty")

func (binary[M, P]) ContentTypes() []string { return types }

func (binary[M, P]) Encode(value P) ([]byte, error) {
	if value == nil {
		return nil, errNil
	}
	return proto.Marshal(value)
}

func (binary[M, P]) Decode(payload []byte) (P, error) {
	value := P(new(M))
	if err := proto.Unmarshal(payload, value); err != nil {
		return nil, err
	}
	return value, nil
}
