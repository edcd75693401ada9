package test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// mergeTopics are subscriptions to topics of one client, whose messages wait.
func mergeTopics(t *testing.T, srv *limpettest.Server, c *limpet.Client, o *limpet.SubscribeOptions, waiting map[string]int) []*limpet.Subscription {
	t.Helper()
	var subs []*limpet.Subscription
	for topic := range waiting {
		subs = append(subs, subscribeLive(t, c, topic, o))
	}
	slices.SortFunc(subs, func(a, b *limpet.Subscription) int { return strings.Compare(a.Topic(), b.Topic()) })
	for _, s := range subs {
		publish(t, srv, s.Topic(), numbers(1, waiting[s.Topic()])...)
	}
	synctest.Wait()
	for _, s := range subs {
		if got := s.Stats().Waiting; got != uint64(waiting[s.Topic()]) {
			t.Fatalf("%d messages of %s wait", got, s.Topic())
		}
	}
	return subs
}

// pairs shows what an iteration yields, up to n pairs.
func pairs(seq iter.Seq2[limpet.Message, error], n int) string {
	var got []string
	for m, err := range seq {
		switch {
		case err != nil:
			got = append(got, m.Topic+"!")
		case m.Loss != nil:
			got = append(got, m.Topic+":"+m.Kind.String())
		default:
			got = append(got, m.Topic+string(m.Payload))
		}
		if len(got) == n {
			break
		}
	}
	return strings.Join(got, " ")
}

// Topics get turns of one message each, however many wait in one of them, and each
// topic keeps its order. One that was idle gets its turn within a round.
func TestMergeIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		subs := mergeTopics(t, srv, c, nil, map[string]int{"a": 1000, "b": 3, "c": 2, "d": 0})
		taken := map[string]int{}
		var order []string
		for m, err := range limpet.Merge(within(t, time.Minute), subs...) {
			if err != nil {
				t.Fatal(err)
			}
			if taken[m.Topic]++; string(m.Payload) != fmt.Sprint(taken[m.Topic]) {
				t.Fatalf("%s: %s is number %d", m.Topic, m.Payload, taken[m.Topic])
			}
			order = append(order, m.Topic)
			if len(order) == 500 {
				for _, p := range numbers(1, 20) {
					publish(t, srv, "d", p)
					synctest.Wait() // each comes alone
				}
			}
			if len(order) == 1025 {
				break
			}
		}
		if got := strings.Join(order[:12], ""); got != "abcabcabaaaa" {
			t.Errorf("the first turns: %s", got)
		}
		if got := strings.Join(order[500:541], ""); got != "a"+strings.Repeat("da", 20) && got != strings.Repeat("da", 20)+"a" {
			t.Errorf("after a topic woke: %s", got)
		}
	})
}

// A body that returns acknowledges its message before the iteration waits. Break,
// return and a panic do not.
func TestMergeAcknowledges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		subs := mergeTopics(t, srv, c, nil, map[string]int{"a": 3, "b": 2})
		// The server has one log: a has the offsets 1 to 3 and 6 to 8, b 4, 5 and 9 to 11.
		committed := func() string {
			return fmt.Sprint(subs[0].Committed().Offset, subs[1].Committed().Offset)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan string, 1)
		go func() { ended <- pairs(limpet.Merge(ctx, subs...), 0) }()
		synctest.Wait()
		if got := committed(); got != "3 5" {
			t.Errorf("committed while it waits: %s", got)
		}
		cancel()
		if got := <-ended; got != "a1 b1 a2 b2 a3 !" {
			t.Errorf("yielded %s", got)
		}
		publish(t, srv, "a", "4", "5", "6")
		publish(t, srv, "b", "3", "4", "5")
		synctest.Wait()
		if got := pairs(limpet.Merge(t.Context(), subs...), 2); got != "a4 b3" || committed() != "6 5" {
			t.Errorf("after break: %s, committed %s", got, committed())
		}
		func() {
			defer func() { _ = recover() }()
			for m := range limpet.Merge(t.Context(), subs...) {
				if m.Topic == "b" {
					panic("in the body")
				}
			}
		}()
		if got := committed(); got != "7 5" {
			t.Errorf("after a panic: committed %s", got)
		}
		for m := range limpet.Merge(t.Context(), subs...) {
			if m.Topic == "b" {
				break
			}
		}
		for _, s := range subs {
			if st := s.Stats(); st.Unacked != uint64(map[string]int{"a": 0, "b": 3}[s.Topic()]) {
				t.Errorf("%s: %d unacknowledged", s.Topic(), st.Unacked)
			}
		}
	})
}

// A subscription that ends cleanly drops out; one that ends with an error yields it
// once, with its topic; the iteration ends with the last.
func TestMergeOutlivesSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authorize: func(_ server.Principal, _ server.Verb, topic string) error {
				if topic == "refused" {
					return errors.New("not for you")
				}
				return nil
			},
		}}})
		c, other := dial(t, srv, nil), dial(t, srv, nil)
		a, b := subscribeLive(t, c, "a", nil), subscribeLive(t, other, "b", nil)
		refused, err := c.Subscribe(t.Context(), "refused", nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if refused.Err() == nil {
			t.Fatal("the subscription was not refused")
		}
		var got []string
		for m, err := range limpet.Merge(within(t, time.Minute), a, refused, b) {
			if err != nil {
				if m.Topic != "refused" || !errors.Is(err, limpet.ErrRejected) || strings.Count(err.Error(), "limpet: ") != 1 || !strings.Contains(err.Error(), `topic "refused": `) {
					t.Errorf("%q: %v", m.Topic, err)
				}
				var zero limpet.Message
				if zero.Topic = m.Topic; m.Kind != 0 || m.Payload != nil || m.Position != zero.Position {
					t.Errorf("a message with the error: %+v", m)
				}
				got = append(got, "error")
				publish(t, srv, "a", "1")
				publish(t, srv, "b", "1")
				continue
			}
			switch got = append(got, m.Topic); m.Topic {
			case "a":
				a.Close()
			case "b":
				other.Close()
			}
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != "a b error" {
			t.Errorf("yielded %s", text)
		}
	})
}

// What Merge makes of arguments that a careless caller passes.
func TestMergeArguments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", nil)
		publish(t, srv, "a", "1", "2")
		synctest.Wait()
		if got := pairs(limpet.Merge(t.Context()), 0); got != "" {
			t.Errorf("without subscriptions: %s", got)
		}
		for _, seq := range []iter.Seq2[limpet.Message, error]{
			limpet.Merge(nil, s), limpet.Merge(t.Context(), s, nil), limpet.Merge(t.Context(), new(limpet.Subscription)), //lint:ignore SA1012 what a careless caller does
		} {
			n := 0
			for m, err := range seq {
				var e *limpet.Error
				if n++; !errors.As(err, &e) || e.Class != limpet.ClassInput || e.Field == "" || m.Topic != "" {
					t.Errorf("%v", err)
				}
			}
			if n != 1 {
				t.Errorf("%d pairs", n)
			}
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if got := pairs(limpet.Merge(cancelled, s), 0); got != "!" {
			t.Errorf("with a context that has ended: %s", got)
		}
		subs := []*limpet.Subscription{s, s}
		seq := limpet.Merge(t.Context(), subs...)
		subs[0], subs[1] = nil, nil // the iteration has its own list
		if got := pairs(seq, 1); got != "a1" {
			t.Errorf("named twice: %s", got)
		}
		other := subscribeLive(t, c, "b", nil)
		publish(t, srv, "a", "3")
		publish(t, srv, "b", "1")
		synctest.Wait()
		if got := pairs(limpet.Merge(t.Context(), s, s, other), 3); got != "a2 b1 a3" {
			t.Errorf("named twice, turns: %s", got)
		}
		s.Close()
		if got := pairs(seq, 0); got != "" {
			t.Errorf("again, after its end: %s", got)
		}
	})
}

// Each element goes to one of the consumers of a subscription, and none is left while
// a consumer waits, whichever other consumers come and go.
func TestMergeCompetes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		a, b := subscribeLive(t, c, "a", nil), subscribeLive(t, c, "b", nil)
		took := make(chan string, 1000)
		consume := func(name string, seq iter.Seq2[limpet.Message, error]) {
			for m, err := range seq {
				if err != nil {
					return
				}
				took <- name + " " + m.Topic + string(m.Payload)
				<-time.After(time.Millisecond)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		brief, leave := context.WithCancel(t.Context())
		defer leave()
		for range 2 {
			go consume("merge", limpet.Merge(ctx, a, b))
		}
		go consume("messages", a.Messages(ctx))
		go consume("brief", limpet.Merge(brief, b, a))
		for i := range 100 {
			publish(t, srv, "a", fmt.Sprint(2*i), fmt.Sprint(2*i+1))
			publish(t, srv, "b", fmt.Sprint(i))
			if i == 50 {
				leave()
			}
			<-time.After(3 * time.Millisecond)
		}
		synctest.Wait()
		cancel()
		close(took)
		elements, consumers := map[string]int{}, map[string]int{}
		for text := range took {
			name, element, _ := strings.Cut(text, " ")
			elements[element]++
			consumers[name]++
		}
		if len(elements) != 300 || slices.Max(slices.Collect(func(yield func(int) bool) {
			for _, n := range elements {
				if !yield(n) {
					return
				}
			}
		})) != 1 {
			t.Errorf("%d of 300 elements", len(elements))
		}
		if len(consumers) != 3 {
			t.Errorf("consumers: %v", consumers)
		}
		if got := a.Stats().Waiting + b.Stats().Waiting; got != 0 {
			t.Errorf("%d messages are left", got)
		}
	})
}

// A client that fails permanently ends its subscriptions with its error, each once, after
// what was waiting. Those of other clients go on.
func TestMergeOutlivesAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails, lives := limpettest.NewServer(t, nil), limpettest.NewServer(t, nil)
		c := dial(t, fails, &limpet.Options{Backoff: limpet.Backoff{MaxElapsed: 20 * time.Second}})
		a, b, other := subscribeLive(t, c, "a", nil), subscribeLive(t, c, "b", nil), subscribeLive(t, dial(t, lives, nil), "other", nil)
		publish(t, fails, "a", "1", "2")
		synctest.Wait()
		fails.Network.Each(func(int) limpettest.Fault { return limpettest.Refuse(1) })
		fails.Network.CutAll()
		<-c.Done()
		var permanent *limpet.PermanentError
		if !errors.As(c.Err(), &permanent) {
			t.Fatalf("the client ended with %v", c.Err())
		}
		publish(t, lives, "other", "1")
		synctest.Wait()
		var got []string
		for m, err := range limpet.Merge(within(t, time.Minute), a, b, other) {
			text := m.Topic + string(m.Payload)
			if err != nil {
				text = m.Topic + "!"
				if m.Topic != "" && (!errors.Is(err, limpet.ErrMaxElapsed) || limpet.ClassOf(err) != permanent.Class) {
					t.Errorf("%s: %v", m.Topic, err)
				}
			}
			got = append(got, text)
		}
		if text := strings.Join(got, " "); text != "a1 b! other1 a2 a! !" {
			t.Errorf("yielded %s", text)
		}
	})
}
