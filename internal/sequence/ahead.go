package sequence

import "github.com/limpet-go/limpet/wire"

// Ahead holds the events of the next connection while the one before may still deliver what
// they would leave out. The zero value holds nothing.
type Ahead struct {
	Events []wire.Event
	Keys   []string // theirs, if they have keys
	bytes  int
}

// The bounds of an Ahead.
const (
	maxAhead      = 4096
	maxAheadBytes = 1 << 20
)

// Add adds copies of events: their reader uses the memory again.
func (a *Ahead) Add(events []wire.Event, keys []string) {
	for i := range events {
		events[i].OwnPayload()
	}
	waiting := len(a.Events)
	a.Events, a.Keys = append(a.Events, events...), append(a.Keys, keys...)
	for i := range a.Events[waiting:] {
		a.bytes += len(a.Events[waiting+i].Message.Payload)
	}
}

// Full reports whether the connection before is to be left: what it has not delivered is then
// a loss.
func (a *Ahead) Full() bool { return len(a.Events) > maxAhead || a.bytes > maxAheadBytes }

// LeavesOut reports whether events of the next connection are ahead of what this one may still
// deliver. A confirmation alone always is.
func (r *Receiver) LeavesOut(events []wire.Event) bool {
	for i := range events {
		switch events[i].Kind {
		case wire.EventSubscribed:
		case wire.EventData:
			return r.Numbered() && r.leaves(&events[i])
		default:
			return false
		}
	}
	return true
}

// leaves reports whether ev, of another connection, would leave out messages that this one may
// still deliver.
func (r *Receiver) leaves(ev *wire.Event) bool {
	return ev.Numbered && !r.otherEpoch(ev.Position.Epoch) && r.previous(ev) > r.last.Offset
}
