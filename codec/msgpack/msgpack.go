// Package msgpack is the codec for MessagePack: see limpet.Decode and limpet.Encode.
package msgpack

import (
	"github.com/vmihailenco/msgpack/v5"

	"github.com/limpet-go/limpet/codec"
)

// New returns a codec that uses github.com/vmihailenco/msgpack/v5 with its defaults:
// fields are named by the tag msgpack, else as in Go, and unknown ones are ignored. Its
// content type is application/vnd.msgpack. It reads application/msgpack,
// application/x-msgpack and application/octet-stream too.
//
// A payload must hold exactly one value, nested at most 10,000 levels deep. It is checked
// before it is decoded, since lengths that a payload only claims, and deep nesting,
// would otherwise end the process.
func New[T any]() codec.Codec[T] { return ofMsgpack[T]{} }

type ofMsgpack[T any] struct{}

var types = []string{"application/vnd.msgpack", "application/msgpack", "application/x-msgpack", "application/octet-stream"}

func (ofMsgpack[T]) ContentTypes() []string { return types }

func (ofMsgpack[T]) Encode(value T) ([]byte, error) { return msgpack.Marshal(value) }

func (ofMsgpack[T]) Decode(payload []byte) (T, error) {
	var value T
	if err := check(payload); err != nil {
		return value, err
	}
	err := msgpack.Unmarshal(payload, &value)
	return value, err
}
