package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/server"
)

// phase is how far a message was when its publisher was killed.
type phase int

const (
	unwritten phase = iota // before it is appended
	unsynced               // appended, but Commit has not returned
	unsent                 // durable, but the server has not seen it
	unacked                // the server has seen it, the publisher has no acknowledgement
	untrimmed              // acknowledged, but the outbox holds it as one without an outcome
	phases
	anywhere // a kill at a random time
)

var phaseNames = [phases]string{"before append", "appended, not synced", "synced, not sent", "sent, not acknowledged", "acknowledged, not trimmed"}

// trace is what is known of the messages of one round. It is safe for concurrent use.
type trace struct {
	mu       sync.Mutex
	newest   int // the highest number that was published
	returned map[int]bool
	began    map[int]bool // Commit was called
	ended    map[int]bool // Commit has returned
	acked    map[int]bool
	seen     map[int]bool // by the server
	log      []int        // what the server has accepted, in order
	logged   map[int]bool
	sessions map[string]bool // that have brought messages
	wrong    error           // the first promise that was broken
}

func newTrace() *trace {
	set := func() map[int]bool { return map[int]bool{} }
	return &trace{returned: set(), began: set(), ended: set(), acked: set(), seen: set(), logged: set(), sessions: map[string]bool{}}
}

// failed notes a broken promise.
func (t *trace) failed(format string, args ...any) {
	if t.wrong == nil {
		t.wrong = fmt.Errorf(format, args...)
	}
}

// line takes a line of a victim.
func (t *trace) line(what string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch what {
	case "publish":
		t.newest = max(t.newest, n)
	case "begin":
		t.began[n] = true
	case "end":
		t.ended[n] = true
	case "returned":
		t.returned[n] = true
	case "acked":
		if t.acked[n] = true; !t.logged[n] {
			t.failed("message %d was reported as acked, but the server does not have it", n)
		}
	case "at":
	default:
		t.failed("message %d has the outcome %s", n, what)
	}
}

// committed takes a change that the server has made.
func (t *trace) committed(c *server.Change, entries []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[c.Session] = true; len(t.sessions) > 1 {
		t.failed("message %d comes in a second session: the first was lost", entries[0])
	}
	for _, n := range entries {
		if t.logged[n] {
			t.failed("message %d is doubled", n)
		}
		if len(t.log) > 0 && n < t.log[len(t.log)-1] {
			t.failed("message %d comes after %d", n, t.log[len(t.log)-1])
		}
		t.log = append(t.log, n)
		t.logged[n] = true
	}
}

// after compares the trace with the outbox that a victim has left, and returns the phases that
// its messages were in.
func (t *trace) after(c *outbox.Content) (in [phases]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	waiting := map[int]bool{}
	for _, m := range c.Messages {
		if !m.Settled && !m.Void {
			waiting[numberOf(m.ID)] = true
		}
	}
	for n := range t.began {
		if t.ended[n] {
			continue
		}
		in[unwritten] = in[unwritten] || !waiting[n]
		in[unsynced] = in[unsynced] || waiting[n]
		delete(t.began, n) // from the next victim on it is like the others
	}
	for n := range waiting {
		switch {
		case !t.ended[n]:
		case !t.seen[n]:
			in[unsent] = true
		case !t.acked[n]:
			in[unacked] = true
		default:
			in[untrimmed] = true
		}
		t.ended[n] = true
	}
	for n := range t.returned {
		if !t.logged[n] && !waiting[n] {
			t.failed("message %d is lost: Publish has returned, and neither the outbox nor the server has it", n)
		}
	}
	return in
}

// drained is called when the last victim says that the server has everything.
func (t *trace) drained(c *outbox.Content) error {
	t.after(c)
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := range t.returned {
		if !t.logged[n] {
			t.failed("message %d is lost: the server does not have it after Flush", n)
		}
	}
	return t.wrong
}

// err returns the first promise that was broken.
func (t *trace) err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wrong
}

// seenStore is the store of the server. It tells what comes to it, and gives the killer its moment.
type seenStore struct {
	server.Store
	trace *trace

	mu     sync.Mutex
	moment func(before bool) // around each Commit with messages
}

// Commit implements server.Store.
func (s *seenStore) Commit(ctx context.Context, c *server.Change) (server.Committed, error) {
	var numbers []int
	for _, e := range c.Entries {
		n, err := strconv.Atoi(string(e.Payload))
		if err != nil {
			return server.Committed{}, err
		}
		numbers = append(numbers, n)
	}
	if len(numbers) == 0 {
		return s.Store.Commit(ctx, c)
	}
	s.trace.mu.Lock()
	for _, n := range numbers {
		s.trace.seen[n] = true
	}
	s.trace.mu.Unlock()
	s.at(true)
	done, err := s.Store.Commit(ctx, c)
	if err == nil {
		s.trace.committed(c, numbers)
		s.at(false)
	}
	return done, err
}

// at calls moment.
func (s *seenStore) at(before bool) {
	s.mu.Lock()
	moment := s.moment
	s.mu.Unlock()
	if moment != nil {
		moment(before)
	}
}

// set sets what is called around the commits from now on.
func (s *seenStore) set(moment func(before bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moment = moment
}

// messages returns how many messages the server has.
func (t *trace) messages() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.log)
}
