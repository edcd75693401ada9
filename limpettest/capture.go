package limpettest

import (
	"cmp"
	"slices"
	"time"
)

// Message is a WebSocket data message that crossed the network, unmasked and joined
// from its fragments. It is recorded when its last byte is sent, whether it arrives
// or not. A message that was cut short does not appear.
type Message struct {
	Conn      int       // number of the dial, from 1
	Direction Direction // Up or Down
	Seq       uint64    // order within the network
	At        time.Time // when its last byte was sent
	Text      bool      // a text message; otherwise binary
	Skipped   bool      // compressed, or longer than 4 MiB: Data is missing
	Data      []byte
}

// Captured returns the messages so far, in order, if NetworkOptions.Capture is set. The
// network keeps all of them.
func (n *Network) Captured() []Message {
	var all []Message
	for _, l := range n.all() {
		l.mu.Lock()
		all = append(all, l.captured...)
		l.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Message) int { return cmp.Compare(a.Seq, b.Seq) })
	return all
}
