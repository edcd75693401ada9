package limpettest

// Effects are how many faults have taken effect, which a fault that was injected need not
// do: its moment may never come.
type Effects struct {
	// ByKind has a dial or an upgrade that was refused, an open connection that was cut,
	// reset or closed, bytes that vanished or were held back, a dial that took longer. A
	// fault counts once on each connection.
	ByKind map[Kind]int

	// MidFrame is how many of the cuts and resets came between the first and the last
	// byte of a WebSocket frame, in one direction at least.
	MidFrame int
}

// Effects returns how many faults have taken effect so far. What Host.Stop does to a
// connection counts as KindReset.
func (n *Network) Effects() Effects {
	e := Effects{ByKind: map[Kind]int{}, MidFrame: int(n.midFrame.Load())}
	for k := range n.effects {
		if c := n.effects[k].Load(); c > 0 {
			e.ByKind[Kind(k)] = int(c)
		}
	}
	return e
}

// count counts a fault that takes effect.
func (n *Network) count(k Kind) { n.effects[k].Add(1) }
