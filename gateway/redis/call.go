package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// fate says what may follow an error.
type fate int

const (
	final   fate = iota // nothing was done, and another try has the same result
	again               // nothing was done
	unknown             // it may have been done
)

// failure is an error of Redis or of the way to it. It wraps nothing that a library wrote, whose text may have a password.
type failure struct {
	fate     fate
	sentinel error  // may be nil
	text     string // without secrets
}

func (f *failure) Error() string {
	if f.sentinel == nil {
		return "gateway/redis: " + f.text
	}
	if f.text == "" {
		return f.sentinel.Error()
	}
	return fmt.Sprintf("%v (%s)", f.sentinel, f.text)
}

func (f *failure) Unwrap() error { return f.sentinel }

// answers are what Redis says, by the beginning of the text, and what it means.
var answers = []struct {
	begin    string
	sentinel error
	fate     fate
}{
	{"OOM", ErrFull, final},
	{"NOAUTH", ErrDenied, final},
	{"WRONGPASS", ErrDenied, final},
	{"NOPERM", ErrDenied, final},
	{"ERR ACL failure", ErrDenied, final},                   // in a script, since 7.2
	{"ERR The user executing the script", ErrDenied, final}, // before
	{"ERR AUTH", ErrDenied, final},
	{"ERR invalid password", ErrDenied, final},
	{"ERR unknown command", ErrDenied, final},
	{"DENIED", ErrDenied, final},
	{"WRONGTYPE", ErrForeign, final},
	{"LIMPETFOREIGN", ErrForeign, final},
	{"ERR The ID specified in XADD", ErrForeign, final},
	{"LIMPETFORMAT", ErrFormat, final},
	{"CROSSSLOT", ErrCluster, final},
	{"READONLY", ErrReadOnly, again},
	{"MISCONF", ErrReadOnly, again},
	{"NOREPLICAS", ErrReplicas, again},
	{"BUSY", ErrBusy, again},
	{"LOADING", ErrUnreachable, again},
	{"MASTERDOWN", ErrUnreachable, again},
	{"CLUSTERDOWN", ErrUnreachable, again},
	{"TRYAGAIN", ErrUnreachable, again},
	{"MOVED", ErrUnreachable, again},
	{"ASK", ErrUnreachable, again},
	{"ERR max number of clients", ErrUnreachable, again},
}

// remoteAlert is the operation of a net.OpError that package crypto/tls makes of an alert of the server.
const remoteAlert = "remote error"

// failed returns err as a failure, and an error of this package as it is.
func (s *Store) failed(err error) *failure {
	var f *failure
	var answer redis.Error
	var op *net.OpError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &verify), errors.As(err, &record): // before anything was sent
		return s.withoutTLS(again, err)
	case errors.As(err, &op) && op.Op == remoteAlert: // it may come at any time
		return s.withoutTLS(unknown, err)
	case errors.As(err, &answer):
		text := s.clean(answer.Error())
		for _, a := range answers {
			if strings.HasPrefix(text, a.begin) {
				return &failure{a.fate, a.sentinel, text}
			}
		}
		if strings.Contains(text, "SCRIPT KILL") { // only a script that has written nothing can be ended
			return &failure{again, ErrBusy, text}
		}
		return &failure{final, nil, text}
	case errors.As(err, &op) && op.Op == "dial", errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return &failure{again, ErrUnreachable, s.clean(err.Error())}
	case isOurs(err):
		return &failure{final, err, ""}
	default:
		return &failure{unknown, ErrUnreachable, s.clean(err.Error())}
	}
}

// withoutTLS returns the failure of a handshake. Only Open does not try again: later, certificates may be in the middle of a change.
func (s *Store) withoutTLS(f fate, err error) *failure {
	if !s.opened.Load() {
		f = final
	}
	return &failure{f, fmt.Errorf("%w (%w)", ErrTLS, err), ""}
}

func isOurs(err error) bool {
	for _, e := range []error{ErrClosed, ErrVersion, ErrPolicy, ErrCluster, ErrForeign, ErrFormat} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// clean removes what an error must not have: the password, and arguments, which Redis repeats where it does not know a command.
func (s *Store) clean(text string) string {
	text, _, _ = strings.Cut(text, ", with args")
	if s.secret != "" {
		text = strings.ReplaceAll(text, s.secret, "***")
	}
	if len(text) > 200 {
		text = text[:200]
	}
	return strings.ToValidUTF8(text, "?")
}

// enter counts a goroutine that Close waits for, and returns false after Close.
func (s *Store) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.calls.Add(1)
	}
	return !s.closed
}

// try calls f once, for as long as one try may take. f goes on if ctx ends, since no library can
// interrupt it; it ends by its own time or with the store.
func try[T any](ctx context.Context, s *Store, f func(context.Context) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	var none T
	if !s.enter() {
		return none, ErrClosed
	}
	c := make(chan answer, 1)
	go func() {
		defer s.calls.Done()
		limit := tryTimeout
		if s.opt.Replicas > 0 {
			limit += s.opt.ReplicaTimeout
		}
		own, cancel := context.WithTimeout(s.ctx, limit)
		defer cancel()
		v, err := f(own)
		c <- answer{v, err}
	}()
	select {
	case a := <-c:
		if a.err != nil && s.ctx.Err() != nil {
			return none, ErrClosed
		}
		return a.v, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-s.ctx.Done():
		return none, ErrClosed
	}
}

// call calls f until it has succeeded, failed for good, or Options.Timeout has passed. f may be done more than once.
func call[T any](ctx context.Context, s *Store, f func(context.Context) (T, error)) (T, error) {
	p := s.newPause(ctx)
	defer p.cancel()
	for {
		v, err := try(p.ctx, s, f)
		if err == nil {
			return v, nil
		}
		if err = p.wait(s, err); err != nil {
			return v, err
		}
	}
}

// pause is the time between the tries of one call.
type pause struct {
	outer  context.Context
	ctx    context.Context // with the end of the call
	cancel context.CancelFunc
	next   time.Duration
	last   *failure // of the try before
}

func (s *Store) newPause(ctx context.Context) *pause {
	p := &pause{outer: ctx, next: 10 * time.Millisecond}
	p.ctx, p.cancel = context.WithTimeout(ctx, s.opt.Timeout)
	return p
}

// wait returns nil when it is time for another try after err, or the error with which the call ends.
func (p *pause) wait(s *Store, err error) error {
	if p.outer.Err() != nil {
		return p.outer.Err()
	}
	if errors.Is(err, ErrClosed) {
		return ErrClosed
	}
	if p.ctx.Err() != nil && errors.Is(err, p.ctx.Err()) {
		if p.last != nil {
			return p.last
		}
		return &failure{unknown, ErrUnreachable, "no answer in " + s.opt.Timeout.String()}
	}
	f := s.failed(err)
	p.last = f
	if f.fate == final {
		return f
	}
	timer := time.NewTimer(p.next/2 + rand.N(p.next))
	defer timer.Stop()
	p.next = min(2*p.next, 500*time.Millisecond)
	select {
	case <-timer.C:
		return nil
	case <-p.ctx.Done():
		if p.outer.Err() != nil {
			return p.outer.Err()
		}
		return f
	case <-s.ctx.Done():
		return ErrClosed
	}
}
