package test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// What is said of a session has an error of its own, and what is not about a session has not.
func TestErrorsOfSessions(t *testing.T) {
	closing := func(code websocket.StatusCode) func(*scriptedConn) { // after Publish below
		return func(p *scriptedConn) { <-time.After(time.Second); p.ws.Close(code, "") }
	}
	open := func(p *scriptedConn) { p.sendFrames(p.welcome()) }
	for name, row := range map[string]struct {
		talk []func(p *scriptedConn) // on each connection
		is   error
	}{
		"forbidden without a session":  {[]func(*scriptedConn){closing(4003)}, nil},
		"forbidden while it is in use": {[]func(*scriptedConn){func(p *scriptedConn) { open(p); closing(4003)(p) }}, nil},
		"forbidden as it is resumed":   {[]func(*scriptedConn){func(p *scriptedConn) { open(p); closing(1012)(p) }, closing(4003)}, limpet.ErrNotOwner},
		"taken over":                   {[]func(*scriptedConn){func(p *scriptedConn) { open(p); closing(4006)(p) }}, limpet.ErrSuperseded},
		"taken over again and again":   {[]func(*scriptedConn){closing(4007)}, limpet.ErrSessionConflict},
		"the server is old": {[]func(*scriptedConn){func(p *scriptedConn) {
			open(p)
			p.readMessages(1)
			p.sendFrames(native.Frame{Type: native.TypeAck, Ack: &native.Ack{To: 1, HasTo: true}})
			closing(1012)(p)
		}, func(p *scriptedConn) {
			w := p.welcome()
			w.Welcome.Res = p.hello.SID != ""
			p.sendFrames(w)
		}}, limpet.ErrRolledBack},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			s := newScriptedServer(t, func(p *scriptedConn) { row.talk[min(p.number, len(row.talk))-1](p) })
			var said error // about each connection
			c, err := limpet.New(s.host.URL(), options(&limpet.Options{HTTPClient: s.host.HTTPClient(), Heartbeat: rareHeartbeats,
				Verdict: func(f wire.Failure, _ wire.Verdict) wire.Verdict {
					said = errors.Join(said, f.Err)
					return wire.Verdict{}
				}}))
			assert.NoError(t, err)
			_, err = c.Publish(t.Context(), "a", []byte("x"), nil)
			assert.NoError(t, err)
			time.Sleep(2 * time.Minute)
			closeAndWait(t, c)
			for _, is := range []error{limpet.ErrNotOwner, limpet.ErrSuperseded, limpet.ErrSessionConflict, limpet.ErrRolledBack} {
				if errors.Is(said, is) != (is == row.is) {
					t.Errorf("%v: is %v", said, is)
				}
			}
		}))
	}
}

// A wire protocol without sessions may use the same codes for something else.
func TestCodesWithoutSessions(t *testing.T) {
	for _, code := range []uint16{4003, 4006, 4007, 4402} {
		synctest.Test(t, func(t *testing.T) {
			var seen []error
			o := limpet.Options{Verdict: func(f wire.Failure, _ wire.Verdict) wire.Verdict { seen = append(seen, f.Err); return wire.Verdict{} }}
			srv := newToyServer(t, func(_ int, _ func(string), hear func() string) {
				for hear() != "" {
				}
			})
			o.HTTPClient, o.Dialect = srv.host.HTTPClient(), flexDialect{traits: wire.Traits{Publish: true}}
			c, err := limpet.Dial(t.Context(), srv.host.URL(), options(&o))
			assert.NoError(t, err)
			srv.host.Network.Strike(limpettest.CloseWith(code, "go", 0))
			time.Sleep(10 * time.Second)
			closeAndWait(t, c)
			if len(seen) == 0 || slices.ContainsFunc(seen, func(err error) bool {
				return errors.Is(err, limpet.ErrNotOwner) || errors.Is(err, limpet.ErrSuperseded) || errors.Is(err, limpet.ErrSessionConflict) || errors.Is(err, limpet.ErrRolledBack)
			}) {
				t.Errorf("%d: %v", code, seen)
			}
		})
	}
}
