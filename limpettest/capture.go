package limpettest

import (
	"cmp"
	"slices"
	"time"
)

// Message is a WebSocket data message that crossed the network, unmasked and
// joined from its fragments. It is taken when its last byte was sent, whether
// it arrived or not; a message that was cut short does not appear.
type Message struct {
	Conn    int    // number of the dial, from 1
	Dir     Dir    // Up or Down
	Seq     uint64 // order within the network
	At      time.Time
	Text    bool
	Skipped bool // compressed, or above 4 MiB: Data is missing
	Data    []byte
}

// Tapped returns the messages so far, in order, if NetworkOptions.Tap is set.
// Every message is kept until the network is forgotten.
func (n *Network) Tapped() []Message {
	var all []Message
	for _, l := range n.all() {
		l.mu.Lock()
		all = append(all, l.tapped...)
		l.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Message) int { return cmp.Compare(a.Seq, b.Seq) })
	return all
}
