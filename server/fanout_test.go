package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// countingStore counts the calls that follow the log.
type countingStore struct {
	server.Store
	views, reads, waits atomic.Int64
}

func (s *countingStore) View() server.View {
	s.views.Add(1)
	return s.Store.View()
}

func (s *countingStore) Read(ctx context.Context, from uint64, dst []*server.Entry) (int, uint64, error) {
	s.reads.Add(1)
	return s.Store.Read(ctx, from, dst)
}

func (s *countingStore) Changed() <-chan struct{} {
	s.waits.Add(1)
	return s.Store.Changed()
}

func (s *countingStore) calls() int64 { return s.views.Load() + s.reads.Load() + s.waits.Load() }

func memoryStore(keep server.Retention) *server.MemoryStore {
	return server.NewMemoryStore(&server.MemoryStoreOptions{Retention: keep})
}

func (r *rig) publish(topics ...string) {
	r.t.Helper()
	for _, topic := range topics {
		if _, err := r.srv.Publish(context.Background(), topic, []byte("x"), nil); err != nil {
			r.t.Fatal(err)
		}
	}
}

// live is a client with one subscription to each of topics, with channels from 1 on. The log is followed when it returns.
func (r *rig) live(enc native.Encoding, credit uint64, topics ...string) *client {
	r.t.Helper()
	c := r.connect(enc)
	c.hello(native.Hello{CN: 1})
	for i, topic := range topics {
		c.send(sub(uint64(i+1), topic, native.FromNew, credit))
		c.next(native.TypeSubOK)
	}
	synctest.Wait()
	return c
}

// wantMsg fails unless the next frame is the message at s behind p.
func (c *client) wantMsg(ch, p, s uint64) {
	c.t.Helper()
	if m := c.next(native.TypeMsg).Msg; m.Ch != ch || m.S != s || m.P != p {
		c.t.Fatalf("message %d behind %d on channel %d, want %d behind %d on %d", m.S, m.P, m.Ch, s, p, ch)
	}
}

// quiet fails if anything waits for the client.
func (c *client) quiet() {
	c.t.Helper()
	synctest.Wait()
	c.send(native.Frame{Type: native.TypePing, N: 1})
	c.next(native.TypePong)
}

// A message that no client wants wakes no connection, and costs the same number of calls of
// the store however many there are.
func TestMessageForNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &countingStore{Store: memoryStore(server.Retention{})}
		r := newRig(t, &server.Options{Store: store})
		var all []*client
		for i := range 60 {
			all = append(all, r.live(native.Binary, 9, fmt.Sprint("a/", i), fmt.Sprint("b/", i, "/*"), fmt.Sprint("c/", i, "/**")))
		}
		synctest.Wait()
		wakes, calls := r.srv.Wakes(), store.calls()
		const messages = 50
		for range messages {
			r.publish("a", "b/1", "c/1")
			synctest.Wait()
		}
		if n := r.srv.Wakes() - wakes; n != 0 {
			t.Errorf("%d connections were woken", n)
		}
		if n := store.calls() - calls; n > 3*messages*6 {
			t.Errorf("%d calls of the store for %d messages", n, 3*messages)
		}
		r.publish("b/7/x") // one is woken, the others are not
		all[7].wantMsg(2, 0, 3*messages+1)
		synctest.Wait()
		if n := r.srv.Wakes() - wakes; n != 1 {
			t.Errorf("%d connections were woken for one", n)
		}
	})
}

// No goroutine follows the log unless a connection has had a subscription.
func TestFollowerBeginsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &countingStore{Store: memoryStore(server.Retention{})}
		r := newRig(t, &server.Options{Store: store})
		idle := r.live(native.JSON, 0)
		want := func(followers int) {
			t.Helper()
			synctest.Wait()
			if n, _, _ := r.srv.Following(); n != followers {
				t.Fatalf("%d followers, want %d", n, followers)
			}
		}
		want(0)
		for range 3 {
			c, d := r.live(native.JSON, 9, "t", "t"), r.live(native.JSON, 9, "t")
			want(1)
			c.ws.CloseNow()
			want(1)
			d.ws.CloseNow()
			want(0)
			if _, entries, bytes := r.srv.Following(); entries+bytes != 0 {
				t.Fatalf("%d entries, %d bytes are left", entries, bytes)
			}
		}
		calls := store.waits.Load()
		r.publish("t", "t")
		idle.quiet()
		if store.waits.Load() != calls {
			t.Error("the log is still followed")
		}
		r.live(native.JSON, 9, "t")
		want(1)
		if err := r.srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		want(0)
	})
}

// A subscription that reads the log catches up with its feed: nothing is lost, doubled or out
// of order, whatever the feeds hold.
func TestHandOver(t *testing.T) {
	for i, limit := range []int{0, 1, 3, 1000, 0, 1, 3, 1000} {
		both(t, func(t *testing.T, enc native.Encoding) {
			r := newRig(t, nil)
			r.srv.LimitFeeds(limit, 1<<20)
			early := r.live(enc, 1<<30, "t/*")
			pattern := []string{"t/*", "t/**"}[i/4] // with the feed that is there, or a new one
			for range 300 {
				r.publish("t/a", "none")
			}
			first := sub(1, pattern, native.FromFirst, 1<<30)
			late := r.connect(enc)
			late.hello(native.Hello{CN: 1, Subs: []native.Sub{*first.Sub}})
			late.next(native.TypeSubOK)
			for range 300 {
				r.publish("t/b", "none")
				if limit == 3 {
					synctest.Wait()
				}
			}
			for _, c := range []*client{early, late} {
				last := uint64(0)
				for o := uint64(1); o < 1200; o += 2 {
					c.wantMsg(1, last, o)
					last = o
				}
				c.quiet()
			}
		})
	}
}

// What a slow consumer has not read, it reads in the log once the feeds no longer have it.
func TestFeedsAreBounded(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		r.srv.LimitFeeds(4, 100)
		c := r.live(enc, 1, "t", "*")
		for range 10 {
			r.publish("t")
			synctest.Wait()
			if _, entries, bytes := r.srv.Following(); entries > 4 || bytes > 100 {
				t.Fatalf("%d entries, %d bytes", entries, bytes)
			}
		}
		if _, err := r.srv.Publish(context.Background(), "t", make([]byte, 101), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, entries, bytes := r.srv.Following(); entries != 0 || bytes != 0 {
			t.Fatalf("%d entries, %d bytes although one is longer than the limit", entries, bytes)
		}
		for range 2 {
			if m := c.next(native.TypeMsg).Msg; m.S != 1 {
				t.Fatalf("message %d", m.S)
			}
		}
		for ch := uint64(1); ch <= 2; ch++ {
			c.send(credit(ch, 99, 1<<20))
			for o := uint64(2); o <= 11; o++ {
				c.wantMsg(ch, o-1, o)
			}
		}
		r.publish("t") // from the feed again
		for range 2 {
			if m := c.next(native.TypeMsg).Msg; m.S != 12 || m.P != 11 {
				t.Fatalf("message %d behind %d", m.S, m.P)
			}
		}
	})
}

// Nothing of a quiet topic is missing although the log no longer has the entries of others,
// even if the feed has lost the new one before it was read.
func TestQuietSubscriptionOverATrim(t *testing.T) {
	for _, limit := range []int{0, 2, 1000} {
		both(t, func(t *testing.T, enc native.Encoding) {
			r := newRig(t, &server.Options{Store: memoryStore(server.Retention{Count: 20})})
			r.srv.LimitFeeds(limit, 1<<20)
			c := r.live(enc, 9, "quiet", "qui*t/*", "**")
			synctest.Wait()
			pub := r.connect(enc)
			pub.hello(native.Hello{CN: 1})
			c.send(credit(3, 1<<30, 1<<30))
			last := uint64(0)
			for o := uint64(1); o <= 100; o++ {
				r.publish("loud")
				c.wantMsg(3, last, o)
				last = o
			}
			// One Commit: all of it is in the feeds before a connection can read.
			batch := []native.Frame{msg(1, idOf(1), "quiet", "x")}
			for i := uint64(2); i <= 15; i++ {
				batch = append(batch, msg(i, idOf(i), "loud", "x"))
			}
			pub.send(batch...)
			pub.acked(15)
			seen := 0
			for range 16 {
				switch m := c.next(native.TypeMsg).Msg; m.Ch {
				case 1:
					if seen++; m.S != 101 || m.P != 0 {
						t.Fatalf("message %d behind %d", m.S, m.P)
					}
				case 2:
					t.Fatal("a message that does not match")
				}
			}
			if seen != 1 {
				t.Fatalf("%d messages of the quiet topic", seen)
			}
			c.quiet()
		})
	}
}

// What lies before the entry that waits for credit does not match: there is no gap once the log
// no longer has it.
func TestNoGapBeforeAnEntryThatWaits(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{Retention: server.Retention{Count: 20}})
		r.srv.LimitFeeds(3, 1<<20)
		c, other := r.live(enc, 0, "t"), r.live(enc, 1<<20, "loud")
		synctest.Wait()
		pub := r.connect(enc)
		pub.hello(native.Hello{CN: 1})
		batch := []native.Frame{msg(1, idOf(1), "t", "x")}
		for i := uint64(2); i <= 11; i++ {
			batch = append(batch, msg(i, idOf(i), "none", "x"))
		}
		pub.send(append(batch, msg(12, idOf(12), "t", "x"))...) // one Commit
		pub.acked(12)
		synctest.Wait()
		c.send(credit(1, 1, 1<<20))
		c.wantMsg(1, 0, 1)
		for o := uint64(13); o <= 30; o++ { // the log holds 11 to 30 then, the feeds only these
			r.publish("loud")
			other.next(native.TypeMsg)
		}
		c.send(credit(1, 9, 1<<20))
		c.wantMsg(1, 1, 12)
		c.quiet()
	})
}

// An entry that retention has removed is not sent although a feed still has it.
func TestFeedsKeepNothingBeyondTheLog(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{Retention: server.Retention{Age: 10 * time.Second}})
		c := r.live(enc, 0, "t")
		r.publish("t", "t")
		synctest.Wait()
		time.Sleep(15 * time.Second)
		c.send(credit(1, 9, 1<<20))
		if g := c.next(native.TypeGap).Gap; g.P != 0 || g.To != 2 || g.Why != native.GapExpired {
			t.Fatalf("gap %+v", g)
		}
		r.publish("t")
		c.wantMsg(1, 2, 3)
		if _, entries, _ := r.srv.Following(); entries != 1 {
			t.Errorf("the feeds hold %d entries, the log 1", entries)
		}
	})
}

// Many patterns of one connection, which come and go, each get what they match.
func TestManyPatterns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.connect(native.Binary)
		c.hello(native.Hello{CN: 1})
		patterns := []string{"a", "a/b", "*", "a/*", "*/b", "*/*", "**", "a/**", "a/b/**", "a/*/**", "*/b/**", "a/b/c", "*/*/c"}
		for i, p := range patterns {
			c.send(sub(uint64(i+1), p, native.FromNew, 1<<20))
			c.next(native.TypeSubOK)
		}
		check := func(from int) {
			t.Helper()
			for _, topic := range []string{"a", "b", "a/b", "b/b", "a/c", "a/b/c", "b/b/c", "a/b/c/d"} {
				want := map[uint64]bool{}
				for i, p := range patterns {
					if i >= from && native.Match(p, topic) {
						want[uint64(i+1)] = true
					}
				}
				r.publish(topic)
				for len(want) > 0 {
					m := c.next(native.TypeMsg).Msg
					if !want[m.Ch] {
						t.Fatalf("%s came on %q, or twice", topic, patterns[m.Ch-1])
					}
					delete(want, m.Ch)
				}
				c.quiet()
			}
		}
		check(0)
		for i := range 8 {
			c.send(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: uint64(i + 1)}})
		}
		c.quiet()
		check(8)
		for i := range patterns[8:] {
			c.send(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: uint64(i + 9)}})
		}
		c.quiet()
		wakes := r.srv.Wakes()
		r.publish("a", "a/b", "a/b/c")
		if c.quiet(); r.srv.Wakes() != wakes {
			t.Error("a connection without subscriptions was woken")
		}
	})
}

// The index of the feeds finds the patterns that native.Match says, and keeps nothing of those
// that were removed.
func TestIndexMatchesAsTheProtocolSays(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	name := func(words ...string) string {
		levels := make([]string, 1+rnd.IntN(4))
		for i := range levels {
			levels[i] = words[rnd.IntN(len(words))]
		}
		return strings.Join(levels, "/")
	}
	for range 200 {
		var index server.Patterns
		live := map[string]bool{}
		for range 40 {
			p := name("a", "b", "*")
			if rnd.IntN(3) == 0 {
				p = strings.TrimSuffix("**/"+p, "/"+p)
				if rnd.IntN(2) == 0 {
					p = name("a", "b", "*") + "/**"
				}
			}
			if live[p] && rnd.IntN(2) == 0 {
				index.Remove(p)
				delete(live, p)
			} else {
				index.Add(p)
				live[p] = true
			}
			topic := name("a", "b", "c")
			var want []string
			for p := range live {
				if native.Match(p, topic) {
					want = append(want, p)
				}
			}
			got := index.Match(topic)
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("%s: got %q, want %q", topic, got, want)
			}
		}
		for p := range live {
			index.Remove(p)
		}
		if !index.Empty() {
			t.Fatal("something is left")
		}
	}
}
