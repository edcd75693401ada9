// Package codec turns payloads into values and back: limpet.Decode reads a stream of
// messages as values of one type, limpet.Encode publishes them. It has JSON; the modules
// codec/proto and codec/msgpack have Protocol Buffers and MessagePack. One of your own
// has three short methods, or embeds one of these and replaces a method.
package codec

import "encoding/json"

// Codec turns values of type T into payloads and back. It may be used by several
// goroutines at the same time. A method that panics costs one message: limpet reports
// it as an error that wraps limpet.ErrPanic.
type Codec[T any] interface {
	// ContentTypes returns the names of the format, media types such as
	// "application/json". A message that is published gets the first of them. A message
	// that is received may have any of them, also with parameters such as a charset, or
	// none. If there are none, messages get no content type and theirs is not checked.
	// The list must stay as it is.
	ContentTypes() []string

	// Encode returns the payload for value. It does not keep it.
	Encode(value T) ([]byte, error)

	// Decode returns the value of payload. It must not change payload, which may be
	// kept: the value may refer to it.
	Decode(payload []byte) (T, error)
}

// JSON returns a codec that uses package encoding/json as it is: unknown members are
// ignored, missing ones are left zero, and a number for an any becomes a float64. Its
// content type is application/json. It reads text/json, text/plain and
// application/octet-stream too, since servers that name no format send JSON as a text
// or as bytes.
//
// For other rules write a codec that embeds this one and has its own Decode.
func JSON[T any]() Codec[T] { return ofJSON[T]{} }

type ofJSON[T any] struct{}

var jsonTypes = []string{"application/json", "text/json", "text/plain", "application/octet-stream"}

func (ofJSON[T]) ContentTypes() []string { return jsonTypes }

func (ofJSON[T]) Encode(value T) ([]byte, error) { return json.Marshal(value) }

func (ofJSON[T]) Decode(payload []byte) (T, error) {
	var value T
	err := json.Unmarshal(payload, &value)
	return value, err
}
