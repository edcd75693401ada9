package native

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// codec is the client's end of one connection.
type codec struct {
	// Set by Open, then only read.
	enc       Encoding
	frameType wire.FrameType // of enc
	resume    wire.Resume

	// Owned by Decode.
	welcomed bool            // WELCOME was received
	tags     strings.Builder // block from which tagOf cuts
	topic    string          // that of the last fast message with one: known to be valid
}

// Start appends HELLO. It fails if a token is too long.
func (c *codec) Start(out *wire.Frames) error {
	r := &c.resume
	h := &Hello{
		CN:  r.Conn,
		SID: r.Session.ID,
		Key: r.Session.Key,
		SE:  r.Session.Epoch,
		Tok: r.Token,
		TTL: ticks(r.TTL, time.Second),
		HB:  ticks(r.Heartbeat, time.Millisecond),
		RL:  uint64(max(r.ReadLimit, 0)),
	}
	if r.Uplink != (wire.Uplink{}) {
		h.Up = &Uplink{Lo: r.Uplink.Lo, Hi: r.Uplink.Hi, Tag: r.Uplink.Tag, HasTag: r.Uplink.Tag != wire.ID{}}
	}
	if err := checkToken(r.Token); err != nil {
		return err
	}
	for i := range r.Subs {
		if err := checkToken(r.Subs[i].Token); err != nil {
			return err
		}
		h.Subs = append(h.Subs, subOf(&r.Subs[i]))
	}
	data, err := Append(nil, c.enc, []Frame{{Type: TypeHello, Hello: h}})
	if err == nil {
		out.Append(c.frameType, data)
	}
	return err
}

// checkToken returns a *wire.TooBigError for a token beyond MaxToken.
func checkToken(token string) error {
	if len(token) > MaxToken {
		return &wire.TooBigError{What: "token bytes", Size: len(token), Limit: MaxToken}
	}
	return nil
}

// subOf translates a subscription.
func subOf(s *wire.Subscribe) Sub {
	b := Sub{Ch: s.Key, Topic: s.Topic, Cr: Credit{s.Credit.N, s.Credit.Bytes}, Tok: s.Token}
	switch s.From {
	case wire.FromNew:
		b.From = FromNew
	case wire.FromFirst:
		b.From = FromFirst
	case wire.FromLast:
		b.From = FromLast
	case wire.FromResume:
		b.From, b.O = FromResume, s.Position.Offset
		// A position that limpet.v1 cannot have produced is sent without the parts
		// that prove it, so that the server answers RESET.
		if utf8.ValidString(s.Position.Epoch) && len(s.Position.Epoch) <= MaxName {
			b.Epoch = s.Position.Epoch
		}
		if len(s.Position.Tag) <= MaxTag {
			b.Tag = []byte(s.Position.Tag)
		}
	}
	return b
}

// ticks returns d in units, rounded up so that no positive duration becomes zero.
func ticks(d, unit time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d-1)/unit) + 1
}
