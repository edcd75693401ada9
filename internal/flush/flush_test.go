package flush

import "testing"

func isDone(p *Point) bool {
	select {
	case <-p.Completed():
		return true
	default:
		return false
	}
}

// Calls without a message between them share a point, which stays until the last of them leaves.
func TestPoints(t *testing.T) {
	var ps Points
	a, b, c := ps.Add(3), ps.Add(3), ps.Add(5)
	if a != b || a == c || ps.Len() != 2 {
		t.Fatalf("%d points", ps.Len())
	}
	ps.Complete(3)
	if isDone(a) {
		t.Error("complete before message 3 has its outcome")
	}
	ps.Leave(a)
	ps.Complete(4)
	if !isDone(a) || isDone(c) {
		t.Error("message 3 has its outcome and message 5 has none")
	}
	ps.Leave(b) // late: it is complete
	ps.Leave(c)
	if ps.Len() != 0 {
		t.Errorf("%d points are left that nothing waits for", ps.Len())
	}
}

// A point that is complete is reached, also by messages before its number: those behind it have moved up.
func TestCompleteIsReached(t *testing.T) {
	var ps Points
	a, b := ps.Add(7), ps.Add(9)
	ps.Complete(8)
	if !a.Reached(3) || b.Reached(8) || !b.Reached(9) {
		t.Errorf("%v %v %v, want true, false, true", a.Reached(3), b.Reached(8), b.Reached(9))
	}
}

// A point moves with its message.
func TestRenumber(t *testing.T) {
	var ps Points
	a, b := ps.Add(7), ps.Add(9)
	next := ps.Renumber(0, 7, 1)
	next = ps.Renumber(next, 8, 1)
	if next = ps.Renumber(next, 9, 2); next != 2 {
		t.Errorf("%d points have moved", next)
	}
	ps.Complete(2)
	if !isDone(a) || isDone(b) {
		t.Error("message 1 has its outcome and message 2 has none")
	}
}
