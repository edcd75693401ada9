package test

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/http"

	"github.com/limpet-go/limpet/wire"
)

// rawServer serves WebSocket connections without a WebSocket library: it answers
// the upgrade and hands the connection to talk.
func rawServer(talk func(nc net.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer nc.Close()
		io.WriteString(nc, upgradeResponse(r.Header.Get("Sec-WebSocket-Key")))
		talk(nc)
	})
}

func drain(nc net.Conn) { io.Copy(io.Discard, nc) }

// rawDialect is a language in which every WebSocket message is one message of
// subscription 1, marked with its type.
type rawDialect struct{}

func (rawDialect) Name() string { return "rawframes" }

func (rawDialect) Traits() wire.Traits {
	return wire.Traits{ByKey: true, Holes: wire.HolesFault, StartSubs: 1, Confirms: true, Ping: wire.PingNone}
}

func (rawDialect) CheckTopic(wire.Use, string) error { return nil }

func (rawDialect) Verdict(wire.Failure) wire.Verdict { return wire.Verdict{} }

func (rawDialect) Open(wire.Resume) (wire.Codec, error) { return new(rawCodec), nil }

func (rawDialect) Attempt(a *wire.Attempt) error { a.Dial = true; return nil }

type rawCodec struct{ confirmed bool }

func (*rawCodec) Start(*wire.Frames) error { return nil }

func (*rawCodec) Encode([]wire.Op, *wire.Frames) error { return nil }

func (c *rawCodec) Decode(f wire.Frame, out *wire.Events) error {
	if !c.confirmed {
		c.confirmed = true
		out.Append(wire.EventSubscribed).Key = 1
	}
	mark := "b:"
	if f.Type == wire.Text {
		mark = "t:"
	}
	ev := out.Append(wire.EventData)
	ev.Key = 1
	ev.Message.Payload = append([]byte(mark), f.Data...)
	return nil
}

func upgradeResponse(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
}

// rawFrame is an unmasked frame: first is FIN, RSV and opcode.
func rawFrame(first byte, payload string) []byte {
	switch n := len(payload); {
	case n < 126:
		return append([]byte{first, byte(n)}, payload...)
	case n < 1<<16:
		return append([]byte{first, 126, byte(n >> 8), byte(n)}, payload...)
	default:
		return append(binary.BigEndian.AppendUint64([]byte{first, 127}, uint64(n)), payload...)
	}
}

// closePayload is the payload of a close frame.
func closePayload(code int, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason
}
