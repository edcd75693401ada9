package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/socketio"
)

// A stream has the events from the first one on, and All has every event.
func TestSocketIOEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, nil)
		c, subs := srv.client(t, socketio.Options{}, limpet.Options{}, "hello", socketio.All)
		assert.NoError(t, c.WaitReady(t.Context()))
		srv.emit(`["hello",{"n":9007199254740993}]`, `["other",1,"two"]`, `["hello"]`)
		hello, all := collect(t, subs[0], 2), collect(t, subs[1], 3)
		if got := payloads(hello); got != `{"n":9007199254740993} []` || hello[0].Type != socketio.TypeJSON || hello[1].Type != socketio.TypeArguments {
			t.Errorf("%s, %s %s", got, hello[0].Type, hello[1].Type)
		}
		if got := payloads(all); got != `{"n":9007199254740993} [1,"two"] []` || all[1].Topic != "other" {
			t.Errorf("%s, topic %s", got, all[1].Topic)
		}
		later, err := c.Subscribe(t.Context(), "later", nil)
		assert.NoError(t, err)
		assert.NoError(t, later.WaitLive(t.Context()))
		assert.NoError(t, subs[0].Close())
		srv.emit(`["later",7]`, `["hello",8]`)
		if got := payloads(collect(t, later, 1)) + ", " + payloads(collect(t, subs[1], 2)); got != "7, 7 8" {
			t.Error(got)
		}
		again, err := c.Subscribe(t.Context(), "hello", nil)
		assert.NoError(t, err)
		began := time.Now()
		assert.NoError(t, again.WaitLive(t.Context()))
		srv.emit(`["hello",9]`)
		if got := payloads(collect(t, again, 1)); got != "9" || time.Since(began) > time.Second {
			t.Errorf("%s after %v", got, time.Since(began))
		}
		if st := c.Stats(); st.Malformed != 0 || st.Unrequested != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// An event without a subscription is counted. What cannot be read is skipped and counted,
// a Gap stands in its streams, and the connection goes on.
func TestSocketIOHostileServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, nil)
		c, subs := srv.client(t, socketio.Options{}, limpet.Options{}, "a")
		assert.NoError(t, c.WaitReady(t.Context()))
		srv.emit(`["other",1]`, `["other",2]`)
		for _, bad := range []string{"", "9", "4", "49", `42["a"`, `42[7]`, `42/x,["a",1]`, "43999[]", sioOpened, `40{"sid":"x"}`, "44", `42["a",` + strings.Repeat("[", 11000) + strings.Repeat("]", 11000) + "]"} {
			srv.conn.text(bad)
		}
		srv.conn.binary("part of nothing")
		srv.conn.text(`451-["a",{"_placeholder":true,"num":9}]`)
		srv.conn.binary("x")
		srv.emit(`["a",3]`)
		if got := collect(t, subs[0], 2); payloads(got) != "gap(0,0] 3" || got[0].Loss.Cause != limpet.CauseMalformed {
			t.Errorf("%s %+v", payloads(got), got[0].Loss)
		}
		if st := c.Stats(); st.Unrequested != 2 || st.Malformed != 14 || st.Connections != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// What the server emits while there is no connection arrives once, without a Reset. The
// offset moves with each event, also with those that have no subscription.
func TestSocketIORecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, nil)
		c, subs := srv.client(t, socketio.Options{}, limpet.Options{}, "a", "quiet")
		assert.NoError(t, c.WaitReady(t.Context()))
		srv.emit(`["a",1]`, `["other",2]`)
		got := collect(t, subs[0], 1)
		synctest.Wait()
		for round := range 2 {
			srv.host.Network.CutAll()
			srv.emit(fmt.Sprintf(`["a",%d]`, 3+2*round), fmt.Sprintf(`["a",%d]`, 4+2*round))
			_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == uint64(2+round) })
			assert.NoError(t, err)
			got = append(got, collect(t, subs[0], 2)...)
		}
		srv.emit(`["quiet",9]`, `["a",7]`)
		got = append(got, collect(t, subs[0], 1)...)
		if text := payloads(got) + ", " + payloads(collect(t, subs[1], 1)); text != "1 3 4 5 6 7, 9" {
			t.Error(text)
		}
		if back := srv.cameBackWith(); back != " o2 o4" {
			t.Errorf("the client came back with %q", back)
		}
		if st := c.Stats(); st.Resumes != 2 || !c.State().Resumed {
			t.Errorf("%+v", st)
		}
	})
}

// A server that takes longer for what it has kept than a handshake may take: each connection
// gets on, and nothing arrives twice.
func TestSocketIOSlowRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, nil)
		c, subs := srv.client(t, socketio.Options{}, limpet.Options{}, "a")
		assert.NoError(t, c.WaitReady(t.Context()))
		srv.emit(`["a",0]`)
		got := collect(t, subs[0], 1)
		synctest.Wait()
		srv.host.Network.CutAll()
		for i := range 60 {
			srv.emit(fmt.Sprintf(`["a",%d]`, i+1))
		}
		srv.mu.Lock()
		srv.pause = time.Second
		srv.mu.Unlock()
		got = append(got, collect(t, subs[0], 60)...)
		assert.NoError(t, c.WaitReady(t.Context()))
		if text := payloads(got); text != strings.Join(numbers(0, 60), " ") {
			t.Error(text)
		}
		if st := c.Stats(); st.Attempts < 3 || st.Connections != 2 || st.Resumes != 1 {
			t.Errorf("the handshake was not too slow: %+v", st)
		}
	})
}

// A stream with events that no server keeps has a Reset, and a server that has forgotten the
// session, or never recovers one, a Reset in each stream.
func TestSocketIOReset(t *testing.T) {
	for _, row := range []struct {
		name             string
		recovers, forget bool
		want             string
	}{
		{"recovered", true, false, "1 2, reset 3"},
		{"forgotten", true, true, "1 reset 2, reset 3"},
		{"without recovery", false, false, "1 reset 2, reset 3"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newSioPeer(t, func(s *sioPeer) { s.recovers = row.recovers })
				c, subs := srv.client(t, socketio.Options{Volatile: []string{"flash"}}, limpet.Options{}, "a", "flash")
				assert.NoError(t, c.WaitReady(t.Context()))
				srv.conn.text(`42["flash","x"]`)
				srv.emit(`["a",1]`)
				a := collect(t, subs[0], 1)
				if got := payloads(collect(t, subs[1], 1)); got != `"x"` {
					t.Error(got)
				}
				if row.forget {
					srv.forget()
				}
				srv.cut(t, c)
				reset := collect(t, subs[1], 1) // at once, not before the next event
				srv.conn.text(`42["flash",3]`)
				srv.emit(`["a",2]`)
				a = append(a, waiting(t, subs[0])...)
				if got := payloads(a) + ", " + payloads(append(reset, collect(t, subs[1], 1)...)); got != row.want {
					t.Errorf("got %s, want %s", got, row.want)
				}
				if cause := reset[0].Loss.Cause; cause != limpet.CauseUnverifiable {
					t.Error(cause)
				}
				if c.State().Resumed != (row.recovers && !row.forget) || c.State().Generation != 2 {
					t.Errorf("%+v", c.State())
				}
			})
		})
	}
}

// rooms asks for each topic but "local".
func rooms() socketio.Options {
	return socketio.Options{
		Join: func(s wire.Subscribe) (string, []any) {
			if s.Topic == "local" {
				return "", nil
			}
			return "join", []any{s.Topic}
		},
		Leave:    func(topic string) (string, []any) { return "leave", []any{topic} },
		Rejected: func(_ string, arguments []byte) string { return strings.Trim(string(arguments), `[]"`) },
	}
}

// joins answers "join", and refuses what begins with "no".
func joins(s *sioPeer) {
	s.events = func(p *plainConn, id, arguments string) {
		switch {
		case !strings.HasPrefix(arguments, `["join"`):
		case strings.HasPrefix(arguments, `["join","no`):
			p.text("43" + id + `["forbidden"]`)
		default:
			p.text("43" + id + "[]")
		}
	}
}

// A room is joined and left. A refusal ends its subscription alone. A recovered session
// keeps its rooms, and a new one has to join them.
func TestSocketIORooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, joins)
		c, subs := srv.client(t, rooms(), limpet.Options{}, "a", "nope", "local")
		for _, i := range []int{0, 2} {
			assert.NoError(t, subs[i].WaitLive(t.Context()))
		}
		var e *limpet.Error
		if err := subs[1].WaitLive(t.Context()); !errors.As(err, &e) || !errors.Is(err, limpet.ErrRejected) || e.Class != limpet.ClassRejected || e.Code != socketio.CodeRejected || !strings.Contains(e.Detail, "forbidden") {
			t.Errorf("a refused room: %v", err)
		}
		b, err := c.Subscribe(t.Context(), "b", nil)
		assert.NoError(t, err)
		assert.NoError(t, b.WaitLive(t.Context()))
		no, err := c.Subscribe(t.Context(), "no2", nil)
		assert.NoError(t, err)
		if err := no.WaitLive(t.Context()); !errors.Is(err, limpet.ErrRejected) {
			t.Errorf("a refused room: %v", err)
		}
		srv.emit(`["a",1]`, `["b",2]`)
		got := payloads(collect(t, subs[0], 1)) + payloads(collect(t, b, 1))
		synctest.Wait()
		srv.cut(t, c)
		assert.NoError(t, subs[0].WaitLive(t.Context()))
		srv.emit(`["a",3]`)
		got += payloads(collect(t, subs[0], 1))
		assert.NoError(t, b.Close())
		synctest.Wait()
		srv.forget()
		srv.cut(t, c)
		assert.NoError(t, subs[0].WaitLive(t.Context()))
		srv.emit(`["a",4]`)
		got += payloads(collect(t, subs[0], 2))
		if got != "123reset 4" {
			t.Errorf("received %s", got)
		}
		want := `1 text 40
1 text 425["join","a"]
1 text 429["join","nope"]
1 text 4217["join","b"]
1 text 4221["join","no2"]
2 text 40{"offset":"o2","pid":"secret-p1"}
2 text 42["leave","b"]
3 text 40{"offset":"o3","pid":"secret-p1"}
3 text 425["join","a"]`
		if srv.all() != want {
			t.Errorf("the server heard\n%s\nwant\n%s", srv.all(), want)
		}
	})
}

// A room whose answer was lost with the connection is joined again, though the session was
// recovered and a message of it had come.
func TestSocketIOJoinWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, nil) // it answers nothing
		c, subs := srv.client(t, rooms(), limpet.Options{}, "a")
		assert.NoError(t, c.WaitReady(t.Context()))
		srv.emit(`["a",1]`)
		collect(t, subs[0], 1)
		synctest.Wait()
		srv.cut(t, c)
		synctest.Wait()
		if want := "1 text 40\n1 text 425[\"join\",\"a\"]\n2 text 40{\"offset\":\"o1\",\"pid\":\"secret-p1\"}\n2 text 425[\"join\",\"a\"]"; srv.all() != want || !c.State().Resumed {
			t.Errorf("resumed %v, the server heard\n%s", c.State().Resumed, srv.all())
		}
	})
}

// A slow consumer: what the policy drops is a Gap, and the session goes on from the last
// event, so that nothing is dropped twice or sent again.
func TestSocketIOSlowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, nil)
		c, _ := srv.client(t, socketio.Options{}, limpet.Options{})
		s, err := c.Subscribe(t.Context(), "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 2, Overflow: limpet.DropOldest}})
		assert.NoError(t, err)
		assert.NoError(t, s.WaitLive(t.Context()))
		srv.emit(`["a",1]`, `["a",2]`, `["a",3]`, `["a",4]`)
		synctest.Wait()
		srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
		srv.emit(`["a",5]`)
		_, err = c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
		assert.NoError(t, err)
		got := collect(t, s, 3)
		if text := payloads(got); text != "gap(0,0] 4 5" || got[0].Loss.Cause != limpet.CauseOverflow || got[0].Loss.Count != 3 {
			t.Errorf("%s %+v", text, got[0].Loss)
		}
		if back := srv.cameBackWith(); back != " o4" {
			t.Errorf("the client came back with %q", back)
		}
	})
}

// Connections break at random places while the server emits: each event arrives once and in
// order, without a Reset.
func TestSocketIORandomCuts(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random, cuts := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
				srv := newSioPeer(t, nil)
				c, subs := srv.client(t, socketio.Options{}, limpet.Options{Backoff: limpet.Backoff{First: -1, Initial: time.Millisecond, Max: 50 * time.Millisecond}}, "a", socketio.All)
				assert.NoError(t, c.WaitReady(t.Context()))
				srv.emit(`["a",0]`) // without an event a session cannot be recovered
				synctest.Wait()
				srv.host.Network.Each(func(int) limpettest.Fault {
					return limpettest.CutAfterBytes(limpettest.Down, 300+cuts.IntN(3000))
				})
				const n = 400
				srv.host.Network.CutAll()
				for i := 1; i < n; i++ {
					srv.emit(fmt.Sprintf(`["a",%d]`, i))
					if random.IntN(3) == 0 {
						time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
					}
				}
				srv.host.Network.Each(nil)
				for i, s := range subs {
					if got, want := payloads(collect(t, s, n)), strings.Join(numbers(0, n-1), " "); got != want {
						t.Errorf("stream %d: %s", i, got)
					}
				}
				synctest.Wait()
				if st := c.Stats(); st.Resumes < 2 || st.Unrequested+st.Malformed != 0 {
					t.Errorf("%+v", st)
				}
				for _, s := range subs {
					if st := s.Stats(); st.Received != n || st.Resets+st.Gaps != 0 {
						t.Errorf("%+v", st)
					}
				}
			})
		})
	}
}
