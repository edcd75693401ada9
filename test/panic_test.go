package test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// fragile is limpet.v1 with a fault in one method, which happens while on returns
// true.
type fragile struct {
	wire.Dialect
	method string
	fault  func()
	hits   *atomic.Int32
	on     func(hit int32) bool
}

func newFragile(method string, times int32) *fragile {
	return &fragile{Dialect: native.New(nil), method: method, hits: new(atomic.Int32),
		fault: func() { panic("broken " + method) }, on: func(hit int32) bool { return hit <= times }}
}

func (d *fragile) at(method string) {
	if d.method == method && d.on(d.hits.Add(1)) {
		d.fault()
	}
}

func (d *fragile) Name() string        { d.at("Name"); return d.Dialect.Name() }
func (d *fragile) Traits() wire.Traits { d.at("Traits"); return d.Dialect.Traits() }
func (d *fragile) CheckTopic(u wire.Use, topic string) error {
	d.at("CheckTopic")
	return d.Dialect.CheckTopic(u, topic)
}
func (d *fragile) Attempt(a *wire.Attempt) error { d.at("Attempt"); return d.Dialect.Attempt(a) }
func (d *fragile) Verdict(f wire.Failure) wire.Verdict {
	d.at("Verdict")
	return d.Dialect.Verdict(f)
}
func (d *fragile) Open(r wire.Resume) (wire.Codec, error) {
	d.at("Open")
	c, err := d.Dialect.Open(r)
	return &fragileCodec{c, d}, err
}

type fragileCodec struct {
	wire.Codec
	d *fragile
}

func (c *fragileCodec) Start(out *wire.Frames) error { c.d.at("Start"); return c.Codec.Start(out) }
func (c *fragileCodec) Decode(f wire.Frame, out *wire.Events) error {
	c.d.at("Decode")
	return c.Codec.Decode(f, out)
}
func (c *fragileCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for _, op := range ops {
		if c.d.method == "Encode of poison" && op.Message != nil && string(op.Message.Payload) == "poison" {
			c.d.at("Encode of poison")
		}
	}
	if len(ops) > 0 {
		c.d.at("Encode")
	}
	return c.Codec.Encode(ops, out)
}

// A panic in a method of the dialect ends an attempt or a connection. The cause
// says which method, and the client comes back.
func TestPanicOfTheDialect(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		for method, times := range map[string]int{"Attempt": 5, "Open": 5, "Start": 5, "Decode": 5, "Encode": 2, "Verdict": 5} {
			t.Run(fmt.Sprintf("%s plain=%v", method, plain), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := limpettest.NewServer(t, nil)
					d := newFragile(method, int32(times))
					var causes []error
					c := newClient(t, srv, limpet.Options{Dialect: d, PlainFrames: plain, Observer: observer(func(e limpet.Event) {
						if e, ok := e.(limpet.StateChanged); ok && e.State.Phase == limpet.Waiting {
							causes = append(causes, e.State.Cause)
						}
					})})
					if method == "Verdict" {
						for range times {
							if err := c.WaitReady(context.Background()); err != nil {
								t.Fatal(err)
							}
							srv.Network.Strike(limpettest.CloseWith(4200, "", 0))
							synctest.Wait()
						}
					}
					ack, err := c.Send(context.Background(), "a", []byte("x"), nil)
					if err != nil || ack.Outcome != limpet.Acked {
						t.Fatal(ack, err)
					}
					synctest.Wait()
					if d.hits.Load() < int32(times) || len(causes) != times {
						t.Fatalf("the fault happened %d times: %v", d.hits.Load(), causes)
					}
					for _, err := range causes {
						var p *limpet.PanicError
						if !errors.Is(err, limpet.ErrPanic) || !errors.As(err, &p) || len(p.Stack) == 0 ||
							!strings.Contains(err.Error(), method) || method != "Verdict" && limpet.ClassOf(err) != limpet.ClassUser {
							t.Errorf("class %q: %v", limpet.ClassOf(err), err)
						}
					}
				})
			})
		}
	}
}

func newClient(t *testing.T, srv *limpettest.Server, o limpet.Options) *limpet.Client {
	t.Helper()
	o.HTTPClient = srv.HTTPClient()
	c, err := limpet.New(srv.URL(), options(&o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// A panic in a method that a call of the user needs is the error of that call.
func TestPanicOfTheDialectInACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		for _, method := range []string{"Name", "Traits"} {
			d := newFragile(method, 1)
			_, err := limpet.New(srv.URL(), options(&limpet.Options{Dialect: d}))
			var e *limpet.Error
			if !errors.Is(err, limpet.ErrPanic) || !errors.As(err, &e) || e.Field != "Options.Dialect" || e.Class != limpet.ClassUser {
				t.Errorf("%s: %v", method, err)
			}
		}
		d := newFragile("CheckTopic", 2)
		c := dial(t, srv, &limpet.Options{Dialect: d})
		_, pubErr := c.Publish(context.Background(), "a", nil, nil)
		_, subErr := c.Subscribe(context.Background(), "a", nil)
		for _, err := range []error{pubErr, subErr} {
			if !errors.Is(err, limpet.ErrPanic) || errors.Is(err, limpet.ErrTopic) || limpet.ClassOf(err) != limpet.ClassUser {
				t.Errorf("CheckTopic: %v", err)
			}
		}
		if _, err := c.Send(context.Background(), "a", nil, nil); err != nil {
			t.Error(err)
		}
	})
}

// A message at which Encode panics is rejected; those around it arrive.
func TestPoisonousMessageIsRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		d := newFragile("Encode of poison", 1000)
		c := dial(t, srv, &limpet.Options{Dialect: d})
		var rs []*limpet.Receipt
		for _, text := range []string{"a", "poison", "b", "c"} {
			r, err := c.Publish(context.Background(), "a", []byte(text), nil)
			if err != nil {
				t.Fatal(err)
			}
			rs = append(rs, r)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		for i, r := range rs {
			ack, err := r.Wait(ctx)
			if i == 1 && (ack.Outcome != limpet.Rejected || !errors.Is(err, limpet.ErrPanic)) || i != 1 && err != nil {
				t.Errorf("message %d: %v, %v", i, ack.Outcome, err)
			}
		}
		if d.hits.Load() == 0 {
			t.Error("Encode did not panic")
		}
	})
}

// An error of Encode is the cause of the failure, with its text.
func TestEncodeErrorIsTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		d := &encodeFails{Dialect: native.New(nil)}
		c := dial(t, srv, &limpet.Options{Dialect: d})
		d.failing.Store(true)
		if _, err := c.Publish(context.Background(), "a", nil, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cause := c.State().Cause
		if !errors.Is(cause, errEncode) || !strings.Contains(fmt.Sprint(cause), errEncode.Error()) {
			t.Errorf("%v", cause)
		}
		d.failing.Store(false)
		if err := c.Flush(context.Background()); err != nil || c.Stats().Acked != 1 {
			t.Errorf("%v, %+v", err, c.Stats())
		}
	})
}

var errEncode = errors.New("no room for colour")

type encodeFails struct {
	wire.Dialect
	failing atomic.Bool
}

func (d *encodeFails) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.Dialect.Open(r)
	return encodeFailsCodec{c, d}, err
}

type encodeFailsCodec struct {
	wire.Codec
	d *encodeFails
}

func (c encodeFailsCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	if c.d.failing.Load() && len(ops) > 0 {
		return errEncode
	}
	return c.Codec.Encode(ops, out)
}

// A transport that panics, or a dialect that ends its goroutine, fails one attempt.
func TestPanicOfTheTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		hits := 0
		good := srv.HTTPClient().Transport
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if hits++; hits == 1 {
				panic("broken transport")
			}
			return good.RoundTrip(r)
		})}}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		synctest.Wait()
		if cause := c.State().Cause; !errors.Is(cause, limpet.ErrPanic) || limpet.ClassOf(cause) != limpet.ClassUser {
			t.Errorf("%v", cause)
		}
		if err := c.WaitReady(context.Background()); err != nil || hits != 2 {
			t.Errorf("%d attempts: %v", hits, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		d := newFragile("Attempt", 1)
		d.fault = runtime.Goexit
		c := newClient(t, limpettest.NewServer(t, nil), limpet.Options{Dialect: d})
		if err := c.WaitReady(context.Background()); err != nil || d.hits.Load() != 2 {
			t.Errorf("%d attempts: %v", d.hits.Load(), err)
		}
	})
}

// A method of the dialect that calls runtime.Goexit ends the goroutine that called
// it. In Decode it costs a connection. On the goroutine that owns the client's state
// it ends the client, and calls that wait return.
func TestGoexitInTheDialect(t *testing.T) {
	for method, ends := range map[string]bool{"Open": true, "Start": true, "Encode": true, "Verdict": true, "Decode": false} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				d := newFragile(method, 1)
				d.fault = runtime.Goexit
				c := newClient(t, srv, limpet.Options{Dialect: d})
				if method == "Verdict" {
					assert.NoError(t, c.WaitReady(t.Context()))
					srv.Network.Strike(limpettest.CloseWith(4200, "", 0))
					synctest.Wait()
				}
				at := time.Now()
				ack, err := c.Send(t.Context(), "a", []byte("x"), nil)
				if d.hits.Load() == 0 {
					t.Fatal("the fault did not happen")
				}
				if !ends {
					if took := time.Since(at); took > time.Second {
						t.Errorf("a connection without a reader lasted %v", took)
					}
					if err != nil || ack.Outcome != limpet.Acked || c.State().Generation != 2 {
						t.Errorf("%v, connection %d: %v", ack, c.State().Generation, err)
					}
					return
				}
				<-c.Done()
				var p *limpet.PermanentError
				if err == nil || !errors.As(c.Err(), &p) || p.Class != limpet.ClassUser || !strings.Contains(p.Error(), "Options.Dialect: a method called runtime.Goexit") {
					t.Errorf("Send: %v; Err: %v", err, c.Err())
				}
				time.Sleep(time.Second)
				if n := srv.Server.Stats().Conns; n != 0 {
					t.Errorf("%d connections are open", n)
				}
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
