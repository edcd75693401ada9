package wire

import (
	"errors"
	"net/http"
	"testing"
)

func TestBase(t *testing.T) {
	for _, c := range []struct{ token, header, want string }{
		{"", "", ""},
		{"t0k3n", "", "Bearer t0k3n"},
		{"t0k3n", "Basic abc", "Basic abc"},
	} {
		a := Attempt{Token: c.token, Header: http.Header{}}
		if c.header != "" {
			a.Header.Set("Authorization", c.header)
		}
		if err := (Base{}).Attempt(&a); err != nil || !a.Dial || a.Header.Get("Authorization") != c.want {
			t.Errorf("%+v: dial %v, %q, %v", c, a.Dial, a.Header.Get("Authorization"), err)
		}
	}
	if v := (Base{}).Verdict(Failure{Code: 4000}); v != (Verdict{}) {
		t.Errorf("%+v", v)
	}
}

// Encode stops at the op that cannot be encoded and names it. A text is UTF-8.
func TestEncodeEach(t *testing.T) {
	ops := []Op{{Topic: "a"}, {Topic: "\xff"}, {Topic: "c"}}
	var out Frames
	err := EncodeEach(ops, &out, func(op *Op, out *Frames) error { return out.AppendText([]byte(op.Topic)) })
	var bad *OpError
	if !errors.As(err, &bad) || bad.Index != 1 || len(out.List) != 1 || out.List[0].Type != Text || string(out.List[0].Data) != "a" {
		t.Errorf("%v, %+v", err, out.List)
	}
	if err := EncodeEach(ops[:1], &out, func(*Op, *Frames) error { return nil }); err != nil {
		t.Error(err)
	}
}

// A refusal is of the message that was sent under the command id, or of none.
func TestReject(t *testing.T) {
	for _, c := range []struct{ cmd, seq uint64 }{{7*4 + 3, 7}, {7*4 + 1, 0}, {7 * 4, 0}, {0, 0}} {
		var out Events
		out.Reject(c.cmd).Reason = "no"
		if e := out.List[0]; e.Kind != EventAck || len(e.Ack.Rejects) != 1 || e.Ack.Cmd != 0 || e.Ack.Rejects[0] != (Reject{Seq: c.seq, Reason: "no"}) {
			t.Errorf("%d: %+v", c.cmd, e.Ack)
		}
	}
}
