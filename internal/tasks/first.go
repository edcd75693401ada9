package tasks

import (
	"sync"
	"time"
)

// First is what the messages of a server that sends before it is asked wait for: a Subscribe
// that follows New receives the first message, however busy the machine is. A nil *First holds
// up nothing.
type First struct {
	by      time.Time // later they do not wait
	arrived chan struct{}
	once    sync.Once
}

const firstTimeout = time.Second // after NewFirst

// NewFirst returns a First that holds up messages for at most a second from now on.
func NewFirst() *First {
	return &First{by: time.Now().Add(firstTimeout), arrived: make(chan struct{})}
}

// Arrive ends the wait.
func (f *First) Arrive() {
	if f != nil {
		f.once.Do(func() { close(f.arrived) })
	}
}

// Await waits until the first subscription has been requested. It waits once: after the
// time is over nothing waits.
func (f *First) Await() {
	if f == nil {
		return
	}
	select {
	case <-f.arrived:
		return
	default:
	}
	timeout := time.NewTimer(time.Until(f.by))
	defer timeout.Stop()
	select {
	case <-f.arrived:
	case <-timeout.C:
		f.Arrive()
	}
}
