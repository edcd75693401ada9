package test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"github.com/limpet-go/limpet/wire/stomp"
)

// An error made with Permanent for the next connection ends no client that has one: it ends when
// that one is lost.
func TestPermanentDuringRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.answer = func(_ context.Context, n int, _ limpet.AttemptInfo) (limpet.Credential, error) {
			if n > 1 {
				return limpet.Credential{}, limpet.Permanent(errors.New("revoked"))
			}
			return limpet.Credential{}, nil
		}
		s := newAuthScript(t, i, 0, nil)
		c := s.client(t, limpet.Options{Observer: observer(i.observeAll)})
		time.Sleep(time.Second)
		s.current().sendFrames(askToLeave)
		time.Sleep(time.Minute)
		st, text := c.State(), i.noted()
		if st.Phase != limpet.Ready || st.Generation != 1 || limpet.ClassOf(st.NoCredential) != limpet.ClassAuth ||
			strings.Count(text, "no next connection") != 1 || strings.Count(text, "ended: ") != 1 {
			t.Errorf("%+v\n%s", st, text)
		}
		s.current().sendFrames(authFrame(native.Auth{Need: 60_000})) // what was said for the next connection counts for this one
		time.Sleep(time.Minute)
		if st, text := c.State(), i.noted(); st.Phase != limpet.Ready || strings.Contains(text, "ended") {
			t.Errorf("%+v\n%s", st, text)
		}
		s.current().ws.CloseNow()
		time.Sleep(time.Minute)
		if st := c.State(); st.Phase != limpet.Ended || !strings.Contains(st.Cause.Error(), "revoked") {
			t.Errorf("%+v", st)
		}
	})
}

// agedStomp ends each connection at an age.
type agedStomp struct{ wire.Dialect }

func (d agedStomp) Traits() wire.Traits {
	t := d.Dialect.Traits()
	t.Connection.Age = 10 * time.Minute
	return t
}

// A client that shuts down makes no next connection, even if one waits: what its consumers have
// taken is acknowledged on the connection that delivered it.
func TestShutdownWhileTheNextConnectionWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		var mu sync.Mutex
		attempts := 0
		c, err := limpet.New(b.host.URL(), options(&limpet.Options{HTTPClient: b.host.HTTPClient(), Dialect: agedStomp{stomp.New(stomp.Options{Prefetch: 300})},
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				mu.Lock()
				defer mu.Unlock()
				attempts++
				return limpet.Credential{}, nil
			}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		s := subscribeLive(t, c, "/queue/a", &limpet.SubscribeOptions{ManualAck: true})
		noise := subscribeLive(t, c, "/queue/noise", nil)
		go func() {
			for range noise.Messages(t.Context()) {
			}
		}()
		b.put("/queue/a", "a1")
		m := takeUnacked(t, s, 1)[0]
		for { // never a quiet second
			b.put("/queue/noise", "n")
			time.Sleep(300 * time.Millisecond)
			mu.Lock()
			waits := attempts > 1
			mu.Unlock()
			if waits {
				break
			}
		}
		b.put("/queue/noise", "n")
		time.Sleep(300 * time.Millisecond) // the next connection is there
		if st := c.State(); st.Generation != 1 {
			t.Fatalf("%+v", st)
		}
		done := make(chan error, 1)
		go func() { done <- c.Shutdown(withinAnHour(t)) }()
		time.Sleep(8 * time.Second)
		m.Ack()
		synctest.Wait()
		b.mu.Lock()
		acked := slices.Contains(b.acked, "a1")
		b.mu.Unlock()
		if !acked || c.State().Generation != 1 {
			t.Errorf("acknowledged %v on %+v", acked, c.State())
		}
		assert.NoError(t, <-done)
	})
}

// A Resolver that hangs or fails, and an endpoint that is down, delay a change and cost nothing.
// A ticket serves one attempt.
func TestRotationWithResolverEndpointsAndTicket(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%v", lost), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				current := make(chan *scriptedConn, 9)
				script := &scriptedServer{t: t, talk: func(p *scriptedConn) {
					p.sendFrames(p.welcome())
					current <- p
				}}
				s.host(t, "a.test:80", script.serve) // b.test is down
				s.host(t, "c.test:80", script.serve)
				var mu sync.Mutex
				resolves, tickets := 0, 0
				i := newIssuer()
				c, err := limpet.New("ws://a.test/", options(&limpet.Options{
					HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Heartbeat: rareHeartbeats, Observer: observer(i.observeAll),
					Endpoints: []string{"ws://b.test/", "ws://c.test/"},
					Resolver: func(ctx context.Context) ([]string, error) {
						mu.Lock()
						resolves++
						n := resolves
						mu.Unlock()
						switch n {
						case 2:
							<-ctx.Done()
							return nil, ctx.Err()
						case 3:
							return nil, errors.New("no answer")
						}
						return []string{"ws://a.test/", "ws://b.test/", "ws://c.test/"}, nil
					},
					Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
						mu.Lock()
						defer mu.Unlock()
						tickets++
						return url.Values{"ticket": {fmt.Sprint("canary-", tickets)}}, nil
					},
				}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				p := <-current
				time.Sleep(time.Second)
				p.sendFrames(askToLeave)
				time.Sleep(time.Second)
				if lost {
					p.ws.CloseNow()
				}
				<-current
				time.Sleep(time.Minute)
				requests := s.requests()
				seen := map[string]bool{}
				for _, r := range requests {
					if seen[r[strings.Index(r, "?"):]] {
						t.Errorf("a ticket twice: %q", requests)
					}
					seen[r[strings.Index(r, "?"):]] = true
				}
				if st := c.State(); st.Phase != limpet.Ready || st.Generation != 2 || c.Stats().Outages > 1 || !lost && c.Stats().Outages > 0 {
					t.Errorf("%+v: %q, %s", st, requests, i.noted())
				}
			})
		})
	}
}

// Each policy of a queue over two changes, the second one within the overlap of the first: what is
// missing is reported, and nothing comes twice.
func TestPoliciesDuringTheOverlap(t *testing.T) {
	for _, o := range []limpet.SubscribeOptions{
		{Delivery: limpet.Delivery{Overflow: limpet.DropOldest, Buffer: 2}},
		{Delivery: limpet.Delivery{Overflow: limpet.DropNewest, Buffer: 2}},
		{Delivery: limpet.Delivery{Overflow: limpet.Latest, Buffer: 2}},
		{Lend: true},
	} {
		t.Run(fmt.Sprint(o.Delivery.Overflow, o.Lend), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &movingFeed{confirms: 3 * time.Second}
				f.began, f.pubs = time.Now(), map[string]int{}
				srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
					if conn == 2 {
						time.AfterFunc(time.Second, func() { say("leave 0") })
					}
					f.talk(conn, say, hear)
				})
				c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: f.dialect(t, true), Memory: 8 << 20}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				sub, err := c.Subscribe(t.Context(), "a", &o)
				assert.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
				defer cancel()
				var last uint64
				gaps := 0
				for batch, err := range sub.Batches(ctx) {
					if err != nil {
						break
					}
					for _, m := range batch {
						if m.Loss != nil {
							gaps, last = gaps+1, 0
							continue
						}
						if at := m.Position.Offset; at <= last || at != last+1 && last != 0 && o.Delivery.Overflow != limpet.Latest {
							t.Errorf("%d after %d", at, last)
						}
						last = m.Position.Offset
					}
					time.Sleep(130 * time.Millisecond)
				}
				now := uint64(time.Since(f.began) / (100 * time.Millisecond))
				if c.State().Generation < 3 || last+20 < now {
					t.Errorf("%+v: the last one is %d of %d, %d gaps", c.State(), last, now, gaps)
				}
			})
		})
	}
}

// A redirect of the attempt to make the next connection is followed; the host that a Governor
// keeps waiting is reached later.
func TestRotationIsRedirectedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		script := &scriptedServer{t: t, talk: func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			if p.number == 1 {
				p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300, URL: "ws://b.test/x"}})
			}
		}}
		s.host(t, "a.test:80", script.serve)
		s.host(t, "b.test:80", redirect(http.StatusTemporaryRedirect, "ws://c.test/y"))
		s.host(t, "c.test:80", script.serve)
		g, err := limpet.NewGovernor(0.01, 1)
		assert.NoError(t, err)
		other, err := limpet.New("ws://b.test/z", options(&limpet.Options{HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Governor: g}))
		assert.NoError(t, err)
		time.Sleep(time.Second)
		closeAndWait(t, other) // it has taken the turn of the host
		c, err := limpet.New("ws://a.test/v1", options(&limpet.Options{
			HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test", "c.test"}}, Heartbeat: rareHeartbeats, Governor: g,
		}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		for range 10 {
			time.Sleep(9 * time.Second)
			c.ReconnectNow()
			c.NetworkChanged()
		}
		time.Sleep(time.Minute)
		if got := strings.Join(s.requests(), " "); c.State().Generation != 2 || got != "b.test/z a.test/v1 b.test/x c.test/y" {
			t.Errorf("%s; %+v", got, c.State())
		}
	})
}

// The expiry of a credential is that of the connection in use: no timer of the one before is left.
func TestExpiryOfAConnectionThatWasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		s := newAuthScript(t, i, 100_000, nil)
		c := s.client(t, limpet.Options{Observer: observer(i.observeAll)})
		time.Sleep(70 * time.Second)
		first := s.current()
		first.sendFrames(authFrame(native.Auth{Need: 60_000})) // sent, and not answered
		time.Sleep(time.Second)
		i.noted()
		first.sendFrames(askToLeave)
		time.Sleep(10 * time.Minute)
		want := "1m11s attempt; 1m11s close 1000 of 1; 1m11s hello 2 with token-3"
		if got := sortedNotes(i.noted()); got != want || c.State().Generation != 2 {
			t.Fatalf("%s\nwant %s", got, want)
		}
		s.current().sendFrames(authFrame(native.Auth{Exp: 100_000}))
		time.Sleep(90 * time.Second)
		if got := i.noted(); !strings.Contains(got, "auth 2 with token-4") || strings.Contains(got, "auth 1") {
			t.Errorf("%s", got)
		}
	})
}
