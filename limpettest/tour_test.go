package limpettest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"nhooyr.io/websocket"

	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// TestServerTour explains the kit from top to bottom. It uses a bare client of
// a few lines, at the end of this file; a real test uses a real one.
func TestServerTour(t *testing.T) {
	// A bubble has its own clock, which jumps as soon as all goroutines wait.
	// Everything of the kit is made inside it, with the bubble's own t.
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()

		// The reference server on an in-memory network. With Capture the network keeps
		// the messages that cross it. No cleanup is needed: t has one.
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{
			Network: &limpettest.NetworkOptions{Capture: true},
		})

		// Clients dial srv.URL() with srv.HTTPClient(): this one says HELLO and
		// gets WELCOME.
		c := connect(t, srv, nil)
		if st := srv.Server.Stats(); st.Conns != 1 || srv.Network.Conns() != 1 {
			t.Fatalf("server %+v, network: %v", st, srv.Network)
		}

		// The recorder records what is sent and what arrives. Payloads are
		// stamped, so that every message proves where it came from.
		var rec limpettest.Recorder
		publish := func(counter uint64) {
			payload := limpettest.Stamp("tour", counter, []byte("hello"))
			rec.Record(limpettest.NewSent(uuid.Nil, payload))
			if _, err := srv.Server.Publish(t.Context(), "tide", payload, nil); err != nil {
				t.Fatal(err)
			}
		}
		receive := func(c *client) {
			m := c.next(native.TypeMsg).Msg
			d := limpettest.NewDelivered("tide", wire.Position{Epoch: c.epoch, Offset: m.S}, uuid.UUID(m.ID), m.Payload)
			d.Prev, d.HasPrev = m.P, true
			rec.Record(d)
			c.at = wire.Position{Epoch: c.epoch, Offset: m.S, Tag: string(m.ID[:])}
		}
		c.subscribe("tide", wire.Position{})
		publish(1)
		receive(c)

		// An outage of half an hour takes no time. Connections are reset, dials
		// are refused; sessions and log stay.
		srv.Stop()
		if err := c.fail(); err == nil {
			t.Fatal("the connection survived Stop")
		}
		if _, err := dial(t, srv); err == nil {
			t.Fatal("a dial succeeded during the outage")
		}
		publish(2)
		time.Sleep(30 * time.Minute)
		srv.Start()

		// Faults are values. Each dial takes one from the script.
		srv.Inject(
			limpettest.Refuse(2),
			limpettest.RefuseUpgrade(http.StatusServiceUnavailable, http.Header{"Retry-After": {"3"}}),
			limpettest.Stall(5*time.Second),
			limpettest.CutAfterFrames(limpettest.Down, 1),
		)
		t.Logf("the script:\n%s", srv.Network.Script())
		for i, want := range []string{"refused", "refused", "503", "after 5s"} {
			start := time.Now()
			ws, err := dial(t, srv)
			got := "no answer"
			var op *net.OpError
			switch {
			case err == nil:
				got = "after " + time.Since(start).String()
				_ = ws.CloseNow()
			case errors.As(err, &op):
				got = "refused"
			default:
				got = "503"
			}
			if got != want {
				t.Errorf("dial %d: %s (%v), want %s", i, got, err, want)
			}
		}
		// This one is cut after the server's first data frame, WELCOME.
		if c = connect(t, srv, c); c.fail() == nil {
			t.Error("the connection survived CutAfterFrames")
		}

		// The script is empty: the stream resumes where the first connection
		// stopped, with what was published in the meantime.
		c = connect(t, srv, c)
		c.subscribe("tide", c.at)
		receive(c)

		// Each sets a policy for all further dials, such as a server that accepts
		// connections and drops them. Here it closes them for a minute, with a
		// code of its own.
		srv.Network.Each(func(int) limpettest.Fault { return limpettest.CloseWith(native.CloseOverloaded, "busy", 1) })
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Second) {
			c = connect(t, srv, c)
			if err := c.fail(); websocket.CloseStatus(err) != native.CloseOverloaded {
				t.Errorf("the connection ended with %v", err)
			}
		}
		srv.Network.Each(nil)

		// Strike applies a fault to the connections that are open now. Here the
		// cable is cut and neither end notices; the server detects it by its
		// heartbeat.
		c = connect(t, srv, c)
		synctest.Wait()
		srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
		time.Sleep(55 * time.Second) // 2.5 heartbeats of 20 s, and time to close
		if st := srv.Server.Stats(); st.Dead != 1 || st.Conns != 0 {
			t.Errorf("the server did not notice: %+v", st)
		}

		// A crash: sessions are lost. The log is kept here; server.NewMemoryLog
		// instead of nil would lose it too.
		srv.Reboot(nil)
		c = connect(t, srv, c)
		c.subscribe("tide", c.at)
		publish(3)
		receive(c)

		// What happened, for the message of a failing test.
		dials := srv.Network.Dials()
		t.Logf("%d dials, the third after %s: %s", len(dials), dials[2].At.Sub(begin), dials[2].Fault)

		// The oracle: over the trace, with what the log holds, and over the wire.
		held := srv.Held("tide", "tide")
		held.Complete = true
		rec.Record(held)
		rec.Verify(t, srv.Network)
		if len(srv.Network.Captured()) == 0 {
			t.Error("nothing was captured")
		}
		// c is still connected. The cleanup closes the server, then the network,
		// and waits for what runs on them; the test must close its own client.
		_ = c.ws.CloseNow()
	})
}

// The tour on real sockets, for faults that need them.
func TestServerLoopback(t *testing.T) {
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{Loopback: true, Server: &server.Options{Heartbeat: time.Second}})
	srv.Inject(limpettest.CutAfterFrames(limpettest.Down, 1))
	c := connect(t, srv, nil)
	if c.fail() == nil {
		t.Error("the connection survived CutAfterFrames")
	}
	c = connect(t, srv, c)
	c.subscribe("tide", wire.Position{})
	if _, err := srv.Server.Publish(t.Context(), "tide", []byte("1"), nil); err != nil {
		t.Fatal(err)
	}
	if m := c.next(native.TypeMsg); string(m.Msg.Payload) != "1" {
		t.Errorf("payload %q", m.Msg.Payload)
	}
	_ = c.ws.CloseNow()
}

// client is one connection that sends and receives limpet.v1 frame by frame.
type client struct {
	t       *testing.T
	ws      *websocket.Conn
	frames  []native.Frame
	session *native.Welcome
	cn      uint64
	epoch   string
	at      wire.Position // of the last message
}

func dial(t *testing.T, srv *limpettest.Server) (*websocket.Conn, error) {
	ws, _, err := websocket.Dial(t.Context(), srv.URL(), &websocket.DialOptions{
		HTTPClient:   srv.HTTPClient(),
		Subprotocols: []string{native.Subprotocol(native.JSON)},
	})
	return ws, err
}

// connect dials and sends HELLO, in the session of before if there is one.
func connect(t *testing.T, srv *limpettest.Server, before *client) *client {
	t.Helper()
	ws, err := dial(t, srv)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, ws: ws, cn: 1}
	h := &native.Hello{CN: 1}
	if before != nil {
		_ = before.ws.CloseNow()
		c.cn, c.at = before.cn+1, before.at
		h = &native.Hello{CN: c.cn, SID: before.session.SID, Key: before.session.Key, SE: before.session.SE}
	}
	c.send(native.Frame{Type: native.TypeHello, Hello: h})
	c.session = c.next(native.TypeWelcome).Welcome
	return c
}

func (c *client) send(f native.Frame) {
	c.t.Helper()
	data, err := native.Append(nil, native.JSON, []native.Frame{f})
	if err == nil {
		err = c.ws.Write(c.t.Context(), websocket.MessageText, data)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// read returns the next frame.
func (c *client) read() (native.Frame, error) {
	for len(c.frames) == 0 {
		_, data, err := c.ws.Read(context.Background())
		if err != nil {
			return native.Frame{}, err
		}
		if c.frames, err = native.Decode(nil, native.JSON, native.FromServer, data, native.DecodeLimits{}); err != nil {
			return native.Frame{}, err
		}
	}
	f := c.frames[0]
	c.frames = c.frames[1:]
	return f, nil
}

// next returns the next frame of type want.
func (c *client) next(want native.Type) native.Frame {
	c.t.Helper()
	for {
		f, err := c.read()
		if err != nil {
			c.t.Fatal(err)
		}
		if f.Type == want {
			return f
		}
	}
}

// fail reads until the connection fails, and returns why.
func (c *client) fail() error {
	for {
		if _, err := c.read(); err != nil {
			_ = c.ws.CloseNow()
			return err
		}
	}
}

func (c *client) subscribe(topic string, at wire.Position) {
	c.t.Helper()
	s := &native.Sub{Ch: 1, Topic: topic, From: native.FromNew, Cr: native.Credit{N: 100, B: 1 << 20}}
	if !at.IsZero() {
		s.From, s.Epoch, s.O, s.Tag = native.FromResume, at.Epoch, at.Offset, []byte(at.Tag)
	}
	c.send(native.Frame{Type: native.TypeSub, Sub: s})
	c.epoch = c.next(native.TypeSubOK).SubOK.Epoch
}

// A script of faults, in order of the dials.
func ExampleNetwork_Inject() {
	n := limpettest.NewNetwork(nil)
	defer n.Close()
	if _, err := n.Listen("feed.example:80"); err != nil { // nothing accepts there
		fmt.Println(err)
	}
	n.Inject(
		limpettest.Refuse(1),
		limpettest.RefuseUpgrade(503, http.Header{"Retry-After": {"2"}}),
	)
	fmt.Println(n.Script())
	for range 2 {
		resp, err := n.HTTPClient().Get("http://feed.example/")
		if err != nil {
			fmt.Println(err)
			continue
		}
		_ = resp.Body.Close()
		fmt.Println(resp.Status, resp.Header.Get("Retry-After"))
	}
	// Output:
	// Refuse(1),
	// RefuseUpgrade(503, http.Header{"Retry-After": {"2"}})
	// Get "http://feed.example/": dial tcp 127.0.0.1:80: connect: connection refused
	// 503 Service Unavailable 2
}

// A seed always gives the same faults.
func ExampleSchedule() {
	fmt.Println(limpettest.Schedule(1, 4, limpettest.KindCut, limpettest.KindStall))
	// Output:
	// Stall(2400*time.Millisecond),
	// Stall(2500*time.Millisecond),
	// CutAfterFrames(Up, 2),
	// CutAfterBytes(Down, 811).Upgraded()
}

// Reboot with an empty log loses all messages and changes the epoch.
func TestReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{
			Network: &limpettest.NetworkOptions{Buffer: 256},
			Server:  &server.Options{Retention: server.Retention{Count: 10}},
		})
		for i := range 12 {
			if _, err := srv.Server.Publish(t.Context(), fmt.Sprintf("t/%d", i%2), []byte("1"), nil); err != nil {
				t.Fatal(err)
			}
		}
		h := srv.Held("s", "t/1")
		if len(h.Entries) != 5 || h.Entries[0].Offset != 4 || h.Entries[4].Offset != 12 {
			t.Errorf("held: %+v", h)
		}
		c := connect(t, srv, nil)
		old := srv.Server
		srv.Reboot(server.NewMemoryLog(server.Retention{}))
		if _, err := old.Publish(t.Context(), "t", nil, nil); !errors.Is(err, server.ErrClosed) {
			t.Errorf("the server from before Reboot: %v, want ErrClosed", err)
		}
		if c.fail() == nil {
			t.Error("the connection survived Reboot")
		}
		if c = connect(t, srv, c); c.session.Res {
			t.Error("the session survived Reboot")
		}
		if h := srv.Held("s", "**"); len(h.Entries) != 0 || h.Epoch == "" {
			t.Errorf("held: %+v", h)
		}
		_ = c.ws.CloseNow()
	})
}

func TestNewServerOptions(t *testing.T) {
	p := &fatal{TB: t}
	func() {
		defer func() { _ = recover() }()
		limpettest.NewServer(p, &limpettest.ServerOptions{Server: &server.Options{MaxConns: -1}})
	}()
	if !p.called {
		t.Error("wrong options were accepted")
	}
}

// fatal records a Fatalf.
type fatal struct {
	testing.TB
	called bool
}

func (f *fatal) Helper() {}
func (f *fatal) Fatalf(string, ...any) {
	f.called = true
	panic("fatal")
}
