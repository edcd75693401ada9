package native

import (
	"encoding/base64"
	"net/http"

	"github.com/limpet-go/limpet/wire"
)

// HelloHeader is the header of an upgrade request that holds HELLO in advance, and
// MaxHelloHeader the length of its longest value, in bytes (docs/protocol.md, section 1). Its
// value is a credential: it must not be logged.
const (
	HelloHeader    = "Limpet-Hello"
	MaxHelloHeader = 4 << 10
)

// helloEncoding has no second form of a value: see HelloOf.
var helloEncoding = base64.RawURLEncoding.Strict()

// helloHeader returns the header with the HELLO of a connection; nil if it is too long, or if
// there is no such HELLO, which Start reports.
func helloHeader(enc Encoding, r wire.Resume) http.Header {
	var out wire.Frames
	if err := (&codec{enc: enc, resume: r}).Start(&out); err != nil {
		return nil
	}
	data := out.List[0].Data
	if helloEncoding.EncodedLen(len(data)) > MaxHelloHeader {
		return nil
	}
	return http.Header{HelloHeader: {helloEncoding.EncodeToString(data)}}
}

// HelloOf returns the HELLO in the headers of an upgrade request on which the server selects
// enc; nil if there is none. A header in another encoding, or one that is too long, counts for
// nothing: the HELLO that follows on the connection decides.
func HelloOf(h http.Header, enc Encoding) *Hello {
	values := h[HelloHeader]
	if len(values) != 1 || len(values[0]) > MaxHelloHeader {
		return nil
	}
	data, err := helloEncoding.DecodeString(values[0])
	if err != nil {
		return nil
	}
	frames, err := Decode(nil, enc, FromClient, data, DefaultLimits)
	if err != nil || len(frames) != 1 || frames[0].Type != TypeHello {
		return nil
	}
	return frames[0].Hello
}
