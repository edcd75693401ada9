package keeper

import (
	"errors"
	"fmt"
	"time"

	"github.com/limpet-go/limpet/outbox"
)

// Open loads what store keeps, and makes the first commit, with which this client takes the
// outbox over. It blocks until the store has returned. While another client uses store the error is outbox.ErrInUse.
// report makes an error of a panic.
func Open[R any](store outbox.Store, dialect string, now time.Time, report Report) (o Opened[R], err error) {
	if !claim(store) {
		return o, fmt.Errorf("%w (another client of this process has the same Store; a client has it until its Done is closed)", outbox.ErrInUse)
	}
	k := &Keeper[R]{store: store, calls: newCaller(report)}
	defer func() {
		if err != nil {
			release(store)
			k.calls.cancel()
		}
	}()
	c, err := k.calls.load(store)
	if err != nil {
		return o, err
	}
	if err = check(c); err != nil {
		return o, err
	}
	s, err := decode(c.State)
	if err != nil {
		return o, err
	}
	if s.Dialect != "" && s.Dialect != dialect {
		return o, fmt.Errorf("%w: it holds messages for the dialect %q, this client has %q; use another outbox", outbox.ErrForeign, s.Dialect, dialect)
	}
	k.state = s
	k.state.Dialect, k.state.Conn, k.state.Clock = dialect, s.Conn+numbersAhead, now
	if err = <-k.calls.commit(store, &outbox.Change{State: k.state.encode()}, func() {}); err != nil {
		return o, err
	}
	return Opened[R]{k, s, c}, nil
}

// Opened is an outbox that a client has taken over. The zero value is none.
type Opened[R any] struct {
	Keeper  *Keeper[R]
	State   State // as the client before has left it
	Content *outbox.Content
}

// check returns why c is not what a Store may return.
func check(c *outbox.Content) error {
	if c == nil {
		return errors.New("method Load returned neither a Content nor an error; correct the store")
	}
	for i := range c.Messages {
		if want := c.Through + 1 + uint64(i); c.Messages[i].Seq != want {
			return fmt.Errorf("%w: message %d is where %d should be", outbox.ErrCorrupt, c.Messages[i].Seq, want)
		}
	}
	return nil
}

// Clock says how long ago something happened, by the wall clock.
type Clock struct {
	now  time.Time
	back bool // it was set back: it says nothing
}

// NewClock returns the clock for what s and c hold. A wall clock that is behind any time in
// them was set back.
func NewClock(now time.Time, s *State, c *outbox.Content) Clock {
	back := s.Clock.After(now)
	for i := range c.Messages {
		back = back || c.Messages[i].Added.After(now) || c.Messages[i].Sent.After(now)
	}
	return Clock{now, back}
}

// Since returns how long ago t was. It is not known if the clock was set back.
func (c Clock) Since(t time.Time) (d time.Duration, known bool) {
	if c.back {
		return 0, false
	}
	return c.now.Round(0).Sub(t), true
}
