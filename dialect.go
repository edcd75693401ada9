package limpet

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

// report makes the error that reports a panic: of what was passed to panic, and the stack of
// the goroutine.
type report func(value any, stack []byte) error

// newPanicError is the report as a *PanicError.
func newPanicError(value any, stack []byte) error { return &PanicError{Value: value, Stack: stack} }

// guarded is the dialect of a client. Every call into a dialect goes through it:
// a panic becomes a *fault.User.
type guarded struct {
	dialect wire.Dialect
	report  report
	name    string
	traits  wire.Traits
}

// guard returns d as the client uses it, or why its name or traits cannot be
// had.
func guard(d wire.Dialect, report report) (g guarded, err error) {
	g.dialect, g.report = d, report
	err = report.call("Name", func() error { g.name = d.Name(); return nil })
	if err == nil {
		err = report.call("Traits", func() error { g.traits = d.Traits(); return nil })
	}
	return g, err
}

// check returns what is wrong with the options of the dialect, if it can say so.
func (g guarded) check() error {
	if c, ok := g.dialect.(wire.Checker); ok {
		return g.report.call("Check", c.Check)
	}
	return nil
}

// call calls f, which calls a method of a dialect, and the methods of its
// error, so that they can be called later.
func (report report) call(method string, f func() error) (err error) {
	defer report.recovered(method, &err)
	if err = f(); err != nil {
		socket.CallMethods(err)
	}
	return err
}

// recovered is deferred around a call of a dialect's method.
func (report report) recovered(method string, err *error) {
	if p := recover(); p != nil {
		*err = &fault.User{Option: fault.OptionDialect, Err: fmt.Errorf("%s: %w", method, report(p, debug.Stack()))}
	}
}

func (g guarded) Name() string        { return g.name }
func (g guarded) Traits() wire.Traits { return g.traits }

func (g guarded) CheckTopic(use wire.Use, topic string) error {
	return g.report.call("CheckTopic", func() error { return g.dialect.CheckTopic(use, topic) })
}

func (g guarded) Attempt(a *wire.Attempt) error {
	return g.report.call("Attempt", func() error { return g.dialect.Attempt(a) })
}

func (g guarded) Open(r wire.Resume) (wire.Codec, error) {
	var codec wire.Codec
	err := g.report.call("Open", func() (err error) { codec, err = g.dialect.Open(r); return err })
	return &guardedCodec{codec, g.report}, err
}

// Verdict is that of the dialect. After a panic it has no opinion.
func (g guarded) Verdict(f wire.Failure) wire.Verdict {
	v, _ := g.verdictOf(f)
	return v
}

// verdictOf returns what the dialect decides, or no opinion and its panic.
func (g guarded) verdictOf(f wire.Failure) (v wire.Verdict, panicked error) {
	panicked = g.report.call("Verdict", func() error { v = g.dialect.Verdict(f); return nil })
	return v, panicked
}

// guardedCodec is a codec whose panics become errors.
type guardedCodec struct {
	codec  wire.Codec
	report report
}

func (g *guardedCodec) Start(out *wire.Frames) error {
	return g.report.call("Start", func() error { return g.codec.Start(out) })
}

func (g *guardedCodec) Decode(f wire.Frame, out *wire.Events) (err error) {
	defer g.report.recovered("Decode", &err)
	if err = g.codec.Decode(f, out); err != nil {
		socket.CallMethods(err)
	}
	return err
}

func (g *guardedCodec) Encode(ops []wire.Op, out *wire.Frames) (err error) {
	defer g.report.recovered("Encode", &err)
	if err = g.codec.Encode(ops, out); err != nil {
		socket.CallMethods(err)
	}
	return err
}

// countFrames counts the frames that Encode makes of ops. It reports false if the dialect
// cannot tell.
func (g *guardedCodec) countFrames(ops []wire.Op) (n int, ok bool) {
	packer, ok := g.codec.(wire.Packer)
	if !ok || g.report.call("CountFrames", func() error { n = packer.CountFrames(ops); return nil }) != nil {
		return 0, false
	}
	return max(n, 0), true
}

// asker calls one function of Options, one call at a time, each on a goroutine of its own
// that may outlive the client.
type asker[T any] struct {
	running atomic.Pointer[askedCall]       // nil: none runs
	final   atomic.Pointer[fault.Permanent] // of a call that outlived its context
}

// askedCall is a call in progress.
type askedCall struct {
	ctx      context.Context // that f got
	returned chan struct{}   // closed when it has returned
}

// ask returns what f returns, once an earlier call in its time has returned: an attempt and a
// refresh on the open connection may ask at once. A panic and runtime.Goexit are errors. It does
// not wait beyond the end of ctx.
func (a *asker[T]) ask(ctx context.Context, report report, f func() (T, error)) (none T, err error) {
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	call := &askedCall{ctx, make(chan struct{})}
	for !a.running.CompareAndSwap(nil, call) {
		if earlier := a.running.Load(); earlier != nil && !earlier.inTime(ctx) {
			return none, cmp.Or(ctx.Err(), errStillRuns)
		}
	}
	end := func() { // first: the next call may follow at once
		a.running.Store(nil)
		close(call.returned)
	}
	if final := a.final.Load(); final != nil {
		end()
		return none, final
	}
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		ans := answer{err: errors.New("called runtime.Goexit")}
		defer func() {
			end()
			answers <- ans
		}()
		defer func() {
			if p := recover(); p != nil {
				ans.err = report(p, debug.Stack())
			}
		}()
		ans.value, ans.err = f()
		if ans.err != nil {
			socket.CallMethods(ans.err)
			if final := (*fault.Permanent)(nil); errors.As(ans.err, &final) {
				a.final.Store(final)
			}
		}
	}()
	select {
	case ans := <-answers:
		return ans.value, ans.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// inTime waits for c. It reports false if c outlives its own context, or ctx.
func (c *askedCall) inTime(ctx context.Context) bool {
	select {
	case <-c.returned:
	case <-c.ctx.Done():
	case <-ctx.Done():
	}
	select {
	case <-c.returned:
		return true
	default:
		return false
	}
}

var errStillRuns = errors.New("an earlier call has not returned although its context has ended")

// settle waits until the call that runs has returned, for at most patience. It reports false
// if that was too short. The context of the call has just ended.
func (a *asker[T]) settle(ctx context.Context, patience time.Duration) bool {
	running := a.running.Load()
	if running == nil {
		return true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-running.returned:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// askVerdict calls Options.Verdict. The loop waits for it, but neither for one that hangs
// nor after Close.
func (l *loop) askVerdict(f wire.Failure, would wire.Verdict) (wire.Verdict, error) {
	ctx, cancel := context.WithTimeout(l.c.closing, maxCall)
	defer cancel()
	v, err := l.verdicts.ask(ctx, newPanicError, func() (wire.Verdict, error) { return l.c.cfg.Verdict(f, would), nil })
	if errors.Is(err, context.DeadlineExceeded) {
		err = newHangError("Verdict", "limpet.(*loop).askVerdict.func")
	}
	switch {
	case err != nil:
	case v.Action > wire.ActionStop:
		err = fmt.Errorf("returned the unknown Action %d; use one of wire.ActionDefault to wire.ActionStop", v.Action)
	case min(v.After, v.Spread) < 0 || max(v.After, v.Spread) > maxDuration:
		err = fmt.Errorf("returned After %v and Spread %v; use 0 to %v", v.After, v.Spread, maxDuration)
	}
	return v, err
}

// reportUnencoded reports an operation that no caller waits for and that the dialect could
// not encode, once for each kind on a connection.
func (l *loop) reportUnencoded(k *link, kind wire.OpKind, err error) {
	if kind == wire.OpAuth {
		l.refreshFailed(k, &Error{Op: "refresh", Field: fault.OptionDialect, Class: ClassUser, Err: err}, 0)
		return
	}
	if bit := uint32(1) << (kind % 32); k.unencodable&bit == 0 {
		k.unencodable |= bit
		l.c.notify.post(CallbackFailed{fault.OptionDialect, &Error{Op: "Encode", Field: fault.OptionDialect, Class: ClassUser, Detail: kind.String(), Err: err}})
	}
}

// openFailed follows when the dialect has no codec for a connection: the peer broke the
// protocol, or the fault is on this side.
func (l *loop) openFailed(k *link, err error) {
	var user *fault.User
	var violation *wire.CodeError
	switch {
	case errors.As(err, &user):
		l.dialectFailed(k, user)
	case errors.As(err, &violation):
		l.violated(k, err)
	default:
		l.dialectFailed(k, &fault.User{Option: fault.OptionDialect, Err: fmt.Errorf("Open cannot use the connection; correct the options of the dialect or the credential: %w", err)})
	}
}

// guardedStore is the store of a subscription. The methods of its errors are called here,
// where those who call Load and Save recover a panic. Its pace is asked for once.
type guardedStore struct {
	cursor.Store
	messages int
	interval time.Duration
}

// guardStore returns store as the client uses it, or why its pace cannot be had.
func guardStore(store cursor.Store, report report) (g guardedStore, err error) {
	g.Store = store
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Pace: %w", report(p, debug.Stack()))
		}
	}()
	if paced, ok := store.(cursor.Paced); ok {
		g.messages, g.interval = paced.Pace()
		if n, d := g.messages, g.interval; n < 0 || d < 0 || n == 0 && d == 0 {
			err = fmt.Errorf("cursor.Every has %d messages and %v; neither may be negative, and one must be set", n, d)
		}
	}
	return g, err
}

func (g guardedStore) Pace() (messages int, interval time.Duration) { return g.messages, g.interval }

func (g guardedStore) Load(ctx context.Context, name string) (cursor.Cursor, error) {
	c, err := g.Store.Load(ctx, name)
	if err != nil {
		socket.CallMethods(err)
	}
	return c, err
}

func (g guardedStore) Save(ctx context.Context, name string, c cursor.Cursor) error {
	err := g.Store.Save(ctx, name, c)
	if err != nil {
		socket.CallMethods(err)
	}
	return err
}

// errKeyGoexit is why a stream and a connection end when Delivery.Key has ended the
// goroutine that reads.
var errKeyGoexit = keyError(errors.New("it called runtime.Goexit, as t.FailNow does; return a key instead"))

func keyError(err error) *Error {
	return &Error{Op: "Subscribe", Field: "Delivery.Key", Class: ClassUser, Err: err}
}

// maxCall is how long a call of Decode or Attempt may run. They only compute, so
// more means that they wait for something.
const maxCall = 10 * time.Second

// callWatch notices a call of a method of the dialect that does not return. One
// timer looks at most every maxCall, so a call costs no timer. Its lock is a leaf.
type callWatch struct {
	onHang func() // called once, when a call is given up

	mu      sync.Mutex
	began   time.Time // of the call; zero: no call runs
	givenUp bool
	timer   *time.Timer
	armed   bool // the timer runs
}

// begin follows when a call begins.
func (w *callWatch) begin(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = now
	switch {
	case w.armed:
		return
	case w.timer == nil:
		w.timer = time.AfterFunc(maxCall, w.look)
	default:
		w.timer.Reset(maxCall)
	}
	w.armed = true
}

// end follows when the call has returned. It reports false if it was given up.
func (w *callWatch) end() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = time.Time{}
	return !w.givenUp
}

// stop ends the watch: no call follows.
func (w *callWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

// look gives up a call that has run for maxCall.
func (w *callWatch) look() {
	w.mu.Lock()
	w.armed = false
	if !w.began.IsZero() {
		if rest := maxCall - time.Since(w.began); rest > 0 {
			w.armed = true
			w.timer.Reset(rest)
		} else {
			w.givenUp = true
		}
	}
	givenUp := w.givenUp
	w.mu.Unlock()
	if givenUp {
		w.onHang()
	}
}

// HangError means that a method of Options.Dialect that must not block, or Delivery.Key,
// has not returned for 10 seconds. Its goroutine is abandoned, and the client has ended. It
// also means that a call of Options.Verdict or, at the end of the client, of
// PublishOptions.Done took that long, see CallbackFailed, or that Save of a store hangs,
// see CursorNotSaved.
type HangError struct {
	// Method is the name of the method, or of the option that holds the function.
	Method string

	// Stack is the stack of each goroutine of the process that runs it, as text of at
	// most 16 KiB.
	Stack []byte
}

// Error returns the name of the method and what to do.
func (e *HangError) Error() string {
	return fmt.Sprintf("%s has not returned for %v; it must not wait: see HangError.Stack", e.Method, maxCall)
}

// callHangs follows when a call of a method of the dialect, or of the function in an
// option, was given up.
type callHangs struct {
	option string
	err    *HangError
}

func (e callHangs) apply(l *loop) {
	l.end(&PermanentError{ClassUser, &fault.User{Option: e.option, Err: e.err}})
}

// newHangError returns the error for a method that was called by the function with
// this name.
func newHangError(method, caller string) *HangError {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	var found []byte
	for _, stack := range bytes.Split(all, []byte("\n\n")) {
		if bytes.Contains(stack, []byte(caller)) && len(found)+len(stack) < 16<<10 {
			found = append(append(found, stack...), "\n\n"...)
		}
	}
	return &HangError{method, bytes.TrimSpace(found)}
}
