package native

import (
	"fmt"

	"github.com/limpet-go/limpet/wire"
)

// Options chooses what a client of limpet.v1 offers. The zero value suits most
// clients.
type Options struct {
	// Encoding is the only encoding to offer. Defaults to both, binary first.
	Encoding Encoding
}

// New returns the dialect limpet.v1. A nil o is the zero Options.
func New(o *Options) wire.Dialect {
	if o == nil {
		o = new(Options)
	}
	return dialect{o.Encoding}
}

// dialect is limpet.v1; only is Options.Encoding.
type dialect struct{ only Encoding }

func (dialect) Name() string { return "limpet" }

func (dialect) Traits() wire.Traits {
	return wire.Traits{
		Publish:     true,
		Acks:        true,
		Calls:       true,
		Sessions:    true,
		Dedup:       true,
		Resume:      true,
		Credit:      true,
		Unsubscribe: true,
		Greeting:    true,
		Confirms:    true,
		Fin:         true,
		Refresh:     true,
		ByKey:       true,
		Fallback:    true,
		EarlyStart:  true,
		Holes:       wire.HolesFault,
		Ping:        wire.PingOp,
		StartSubs:   MaxHelloSubs,
		StartBytes:  maxHelloBytes,
		MaxPayload:  MaxPayload,

		MinReadLimit: MaxBatch,
	}
}

func (dialect) CheckTopic(use wire.Use, topic string) error { return CheckTopic(use, topic) }

// Attempt offers the subprotocols, and has HELLO in a header where the client knows it
// already. The credential travels in HELLO, never in the URL.
func (d dialect) Attempt(a *wire.Attempt) error {
	switch d.only {
	case 0:
		a.Subprotocols = []string{subprotocolBinary, subprotocolJSON}
	case JSON, Binary:
		a.Subprotocols = []string{Subprotocol(d.only)}
	default:
		return fmt.Errorf("native: Options.Encoding is %d; use JSON, Binary or zero", d.only)
	}
	a.Dial = true
	if enc, ok := EncodingOf(a.Subprotocols[0]); ok && a.Resume != nil {
		r := *a.Resume
		r.Token = a.Token
		a.Early = helloHeader(enc, r)
	}
	return nil
}

// Open fails with code 1002 if the server did not choose an encoding that was
// offered (docs/protocol.md, section 1).
func (d dialect) Open(r wire.Resume) (wire.Codec, error) {
	enc, ok := EncodingOf(r.Subprotocol)
	switch {
	case r.Subprotocol == "":
		return nil, &wire.CodeError{Code: 1002, Reason: "the server chose no subprotocol"}
	case !ok || d.only != 0 && d.only != enc:
		return nil, &wire.CodeError{Code: 1002, Reason: "the server chose subprotocol " + quoteShort(r.Subprotocol) + ", which was not offered"}
	}
	return &codec{enc: enc, frameType: enc.FrameType(), resume: r}, nil
}
