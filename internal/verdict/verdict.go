// Package verdict says what a failure means: when the client tries again, and which failures
// end it. It has no clock and makes no calls.
package verdict

import (
	"cmp"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/wire"
)

// Decision is what the client does about a failure: a Verdict, and what only
// the client knows.
type Decision struct {
	wire.Verdict
	Err         error // the sentinel for what is wrong; nil if there is none
	AtCap       bool  // v is at least Backoff.Max (docs/reconnect.md, section 2)
	MinFailures int   // count at least this many failures in a row
	Failed      error // of the dialect's Verdict, or of the caller's
	ByTable     bool  // neither the dialect nor the caller decided
	NamesTime   bool  // the server said when to come back, perhaps at once
	Fixed       bool  // an error made with Permanent: nothing overrules it

	SlotWindow time.Duration // spread the attempt over this time after the slot (docs/protocol.md, section 8)

	isViolation bool // the peer broke the protocol: final when it repeats
	lasting     bool // no proxy, deploy or busy server can cause it
}

// The classes that the tables name: they are classes of limpet.ErrorClass.
const (
	classInput        = "input"
	classUnsupported  = "unsupported"
	classDNS          = "dns"
	classDial         = "dial"
	classTLS          = "tls"
	classLocal        = "local"
	classTimeout      = "timeout"
	classHTTP         = "http"
	classProxy        = "proxy"
	classNotWebSocket = "not_websocket"
	classAuth         = "auth"
	classProtocol     = "protocol"
	classOverload     = "overload"
	classNetwork      = "network"
	classUser         = "user"
)

// Decide returns what a failure means. An error made with limpet.Permanent comes first, then
// the dialect, which may fail. Where the dialect has no opinion the tables of HTTP statuses
// and close codes decide (docs/reconnect.md, sections 2 and 3). Finality says which failures
// end the client.
func Decide(f *wire.Failure, dialect func(wire.Failure) (wire.Verdict, error)) Decision {
	if fault.IsPermanent(f.Err) {
		d := newDecision(wire.ActionStop, classAuth)
		d.Fixed = true
		return d
	}
	opinion, failed := dialect(*f)
	d := ByTable(f)
	d.Failed = failed
	slot, tooBig, class := d.After, d.TooBig, d.Class
	if opinion.Action != wire.ActionDefault {
		d.Verdict = opinion
		d.AtCap, d.isViolation, d.ByTable, d.MinFailures = false, false, false, 0
		d.TooBig = opinion.TooBig || tooBig // 1009 means the same in every wire protocol: RFC 6455
	}
	d.Class = cmp.Or(opinion.Class, class)
	d.After = min(max(opinion.After, slot, f.Retry), headers.MaxRetryAfter) // no verdict makes a slot shorter
	d.NamesTime = d.NamesTime || d.After > 0
	return d
}

// Overruled returns the decision v of the caller. would is what the client would do: where
// v has no opinion or the same, d stands, and the tables go on counting.
func (d Decision) Overruled(v wire.Verdict, would Decision) Decision {
	if v.Action == wire.ActionDefault {
		v.Action = would.Action
	}
	if v.Class == "" {
		v.Class = would.Class
	}
	if v.Spread == 0 {
		v.Spread = would.Spread
	}
	v.After = max(v.After, would.After) // never before the server's slot
	v.TooBig = v.TooBig || would.TooBig
	if v == would.Verdict {
		return d
	}
	if v.Action != would.Action {
		would.AtCap, would.MinFailures = false, 0
	}
	would.Verdict, would.ByTable = v, false
	return would
}
