package dispatch

import (
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/fifo"
)

// Calls calls the user's code for one value at a time, in the order in which the
// values were posted. Its goroutine lives while there is something to call. Its lock is
// a leaf.
type Calls[T any] struct {
	Receive func(T)     // the user's code
	Failed  func(error) // follows a call that failed: with *Panicked, ErrGoexit or ErrHangs

	mu      sync.Mutex
	waiting fifo.Queue[T]
	running bool          // there is a goroutine
	began   time.Time     // of the call in progress
	idle    chan struct{} // closed when the goroutine ends; nil until Finish
}

// ErrGoexit is reported when a call has ended its goroutine.
var ErrGoexit = errors.New("called runtime.Goexit, as t.FailNow does; return instead")

// ErrHangs is reported when a call has not returned in time.
var ErrHangs = errors.New("has not returned in time")

// Panicked is reported when a call has panicked.
type Panicked struct {
	Value any
	Stack []byte
}

func (*Panicked) Error() string { return "panicked" }

// CallerName is in the stack of each call.
const CallerName = "dispatch.(*Calls[...]).call("

// Len returns how many calls wait.
func (c *Calls[T]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting.Len()
}

// Post adds a call. It never blocks.
func (c *Calls[T]) Post(v T) {
	c.mu.Lock()
	c.waiting.Push(v)
	start := !c.running
	c.running = true
	c.mu.Unlock()
	if start {
		go c.run()
	}
}

// run makes the calls that wait. If one of them ends the goroutine, another continues.
func (c *Calls[T]) run() {
	for v, ok := c.next(); ok; v, ok = c.next() {
		c.call(v)
	}
}

// next returns the value whose call begins. It reports false if none waits: then the
// goroutine must end.
func (c *Calls[T]) next() (v T, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting.Len() == 0 {
		c.running = false
		if c.idle != nil {
			close(c.idle)
			c.idle = nil
		}
		return v, false
	}
	v = *c.waiting.At(0)
	c.waiting.Drop(1)
	c.began = time.Now()
	return v, true
}

func (c *Calls[T]) call(v T) {
	returned := false
	defer func() {
		var err error
		if p := recover(); p != nil {
			err = &Panicked{p, debug.Stack()}
		} else if !returned {
			err = ErrGoexit
			go c.run()
		}
		if err != nil {
			c.Failed(err)
		}
	}()
	c.Receive(v)
	returned = true
}

// Finish waits until all calls have returned, or one of them has run for limit. Nothing
// is posted after it.
func (c *Calls[T]) Finish(limit time.Duration) {
	c.mu.Lock()
	if !c.running {
		c.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	c.idle = idle
	c.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-idle:
			return
		case <-timer.C:
		}
		c.mu.Lock()
		rest := limit - time.Since(c.began)
		c.mu.Unlock()
		if rest <= 0 {
			c.Failed(ErrHangs)
			return
		}
		timer.Reset(rest)
	}
}
