// Package saver saves the committed position of one subscription to a cursor.Store, on a
// goroutine of its own, and knows which names are in use.
package saver

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/wire"
)

const (
	// SaveTimeout bounds the context of one call of Store.Save.
	SaveTimeout = 10 * time.Second

	// MaxLastSave bounds how long the end of a client waits for stores.
	MaxLastSave = SaveTimeout + 2*time.Second

	firstRetry = 100 * time.Millisecond
	maxRetry   = 30 * time.Second
)

// ErrSlow is reported when a call of Store.Save has not returned for SaveTimeout.
var ErrSlow = errors.New("Store.Save has not returned for 10 seconds; it must return when its ctx ends")

// ErrGoexit is reported when a call of Store.Save has ended its goroutine.
var ErrGoexit = errors.New("Store.Save called runtime.Goexit, as t.FailNow does; return an error instead")

// Panicked is reported when a call of Store.Save has panicked.
type Panicked struct {
	Value any
	Stack []byte
}

func (*Panicked) Error() string { return "Store.Save panicked" }

// Committed is how far a subscription has got.
type Committed struct {
	Position wire.Position
	Number   uint64 // of the messages up to there
	Ending   bool   // nothing more is received: there is no reason to wait
}

// Config is what a Saver needs.
type Config struct {
	Store cursor.Store
	Name  string
	Feed  cursor.Feed

	// Current returns how far the subscription is now. It must not block.
	Current func() Committed

	// Over reports whether the subscription has ended or was closed, and Processed whether
	// no message waits for a consumer or for an acknowledgement. They must not block.
	Over      func() bool
	Processed func() bool

	// Failed reports that a save has failed, and after which time it is tried again: 0
	// means that it is not. It must not block.
	Failed func(err error, retry time.Duration)
}

// Saver saves what is committed: one save runs at a time, and the newest position counts.
// A save that fails is tried again, later each time. Its lock is a leaf.
type Saver struct {
	Config
	messages int
	interval time.Duration

	mu       sync.Mutex
	saved    Committed   // last
	since    time.Time   // when something newer was first seen; zero: nothing is
	running  bool        // there is a goroutine
	again    bool        // it must look again before it ends
	hurried  bool        // neither pace nor failures make it wait
	failures int         // in a row
	retryAt  time.Time   // not before, after a failure
	timer    *time.Timer // of Notice; nil before it was needed
	final    bool        // failures are not tried again
	retired  bool        // nothing more is saved
	idle     chan struct{}
}

// New returns a Saver for which saved needs no save.
func New(c Config, saved wire.Position) *Saver {
	s := &Saver{Config: c, saved: Committed{Position: saved}}
	if p, ok := c.Store.(cursor.Paced); ok {
		s.messages, s.interval = p.Pace()
	}
	return s
}

// Notice follows when something may have been committed. It does not block. A nil Saver
// saves nothing.
func (s *Saver) Notice() {
	if s == nil {
		return
	}
	c := s.Current()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.again = true
	} else if s.startsSave(c) {
		s.running = true
		go s.run()
	}
}

// startsSave reports whether c is to be saved now. If it is to be saved later it sets the
// timer; mu is held.
func (s *Saver) startsSave(c Committed) bool {
	if s.retired || c.Position.IsZero() || c.Position == s.saved.Position {
		s.since = time.Time{}
		return false
	}
	now := time.Now()
	if s.since.IsZero() {
		s.since = now
	}
	wait := s.retryAt.Sub(now)
	switch {
	case s.hurried, wait <= 0 && s.paceAllows(c, now):
		return true
	case s.final:
		return false
	case wait <= 0 && s.interval == 0:
		return false // a later message makes it due
	case wait <= 0:
		wait = s.since.Add(s.interval).Sub(now)
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.Notice)
	} else {
		s.timer.Reset(wait)
	}
	return false
}

// paceAllows reports whether the pace of the store allows to save c; mu is held.
func (s *Saver) paceAllows(c Committed, now time.Time) bool {
	return c.Ending || s.saved.Position.IsZero() ||
		s.messages == 0 && s.interval == 0 ||
		s.messages > 0 && c.Number-s.saved.Number >= uint64(s.messages) ||
		s.interval > 0 && now.Sub(s.since) >= s.interval
}

// run saves as long as there is something to save.
func (s *Saver) run() {
	returned := false
	defer func() {
		if !returned {
			go s.run() // Save has ended this goroutine
		}
	}()
	for {
		c := s.Current()
		s.mu.Lock()
		if !s.startsSave(c) {
			if s.again {
				s.again = false
				s.mu.Unlock()
				continue
			}
			s.running = false
			if s.idle != nil {
				close(s.idle)
				s.idle = nil
			}
			s.mu.Unlock()
			break
		}
		s.again, s.hurried = false, false
		s.mu.Unlock()
		s.save(c)
	}
	returned = true
}

// save makes one call of Store.Save.
func (s *Saver) save(c Committed) {
	err := ErrGoexit
	slow := time.AfterFunc(SaveTimeout+time.Second, func() { s.Failed(ErrSlow, 0) })
	ctx, cancel := context.WithTimeout(context.Background(), SaveTimeout)
	defer func() {
		slow.Stop()
		cancel()
		if p := recover(); p != nil {
			err = &Panicked{p, debug.Stack()}
		}
		s.finished(c, err)
	}()
	err = s.Store.Save(ctx, s.Name, cursor.Cursor{Feed: s.Feed, Position: c.Position})
}

// finished follows when Store.Save has returned.
func (s *Saver) finished(c Committed, err error) {
	s.mu.Lock()
	if err == nil {
		s.saved, s.since, s.failures, s.retryAt = c, time.Time{}, 0, time.Time{}
		s.mu.Unlock()
		return
	}
	retry := min(maxRetry, firstRetry<<min(s.failures, 16))
	retry = retry/2 + rand.N(retry/2)
	s.failures++
	s.retryAt = time.Now().Add(retry)
	if s.final || s.retired {
		retry = 0
	}
	s.mu.Unlock()
	s.Failed(err, retry)
}

// Flush saves at once what is committed, and waits for it until ctx ends. A save that
// fails is not tried again from now on, unless something more is committed. It reports
// whether everything is saved.
func (s *Saver) Flush(ctx context.Context) bool {
	s.mu.Lock()
	s.hurried, s.final = true, true
	s.stopTimer()
	s.mu.Unlock()
	s.Notice()
	if !s.wait(ctx) {
		return false
	}
	s.mu.Lock()
	s.hurried = false
	s.mu.Unlock()
	return s.Settled()
}

// Settled reports whether everything that is committed is saved, and no save runs.
func (s *Saver) Settled() bool {
	c := s.Current()
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.running && (c.Position.IsZero() || c.Position == s.saved.Position)
}

// wait waits until no save runs. It reports whether that was before the end of ctx.
func (s *Saver) wait(ctx context.Context) bool {
	s.mu.Lock()
	if !s.running {
		s.mu.Unlock()
		return true
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}

// HandOver is Flush and, unless ctx ended before, Retire. It reports whether no save runs and
// none begins any more.
func (s *Saver) HandOver(ctx context.Context) bool {
	s.Flush(ctx)
	return ctx.Err() == nil && s.Retire(ctx)
}

// Retire is Flush, after which no save begins. It reports whether none runs either.
func (s *Saver) Retire(ctx context.Context) bool {
	s.Flush(ctx)
	s.mu.Lock()
	s.retired = true
	s.stopTimer()
	s.mu.Unlock()
	return s.wait(ctx)
}

// stopTimer stops the timer of Notice; mu is held.
func (s *Saver) stopTimer() {
	if s.timer != nil {
		s.timer.Stop()
	}
}
