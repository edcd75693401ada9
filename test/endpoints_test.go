package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// cluster is one server behind several hosts of one network.
type cluster struct {
	network *limpettest.Network
	server  *server.Server
	nodes   []*node
}

// node is one host. It refuses attempts with status, unless that is 0.
type node struct {
	*limpettest.Host
	status atomic.Int32
	header http.Header // of a refusal
}

func newCluster(t *testing.T, nodes int) *cluster {
	t.Helper()
	srv, err := server.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{network: limpettest.NewNetwork(nil), server: srv}
	t.Cleanup(func() { _ = srv.Close() })
	for range nodes {
		n := &node{header: make(http.Header)}
		n.Host = limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if status := n.status.Load(); status != 0 {
				for name, values := range n.header {
					w.Header()[name] = values
				}
				w.WriteHeader(int(status))
				return
			}
			srv.ServeHTTP(w, r)
		}), &limpettest.HostOptions{On: c.network})
		c.nodes = append(c.nodes, n)
	}
	return c
}

// urls returns the URLs of all hosts.
func (c *cluster) urls() (urls []string) {
	for _, n := range c.nodes {
		urls = append(urls, n.URL())
	}
	return urls
}

// start returns a client of all hosts, which ends with the test.
func (c *cluster) start(t *testing.T, o limpet.Options) *limpet.Client {
	t.Helper()
	urls := c.urls()
	o.HTTPClient, o.Endpoints = c.network.HTTPClient(), urls[1:]
	client, err := limpet.New(urls[0], options(&o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, client) })
	return client
}

// hostOf returns the host of a client that is ready.
func hostOf(t *testing.T, client *limpet.Client) string {
	t.Helper()
	if err := client.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return client.State().Host
}

// dialsTo returns how often each host was dialled since a moment.
func (c *cluster) dialsTo(since time.Time) map[string]int {
	dials := make(map[string]int)
	for _, d := range c.network.Dials() {
		if !d.At.Before(since) {
			dials[d.Addr]++
		}
	}
	return dials
}

// A host that is down costs one attempt: the next follows at once, whichever comes first.
func TestNextEndpointFollowsAtOnce(t *testing.T) {
	first := make(map[string]int)
	for range 40 {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			c.nodes[0].Stop()
			c.nodes[1].status.Store(http.StatusBadGateway)
			began := time.Now()
			client := c.start(t, limpet.Options{})
			if got := hostOf(t, client); got != c.nodes[2].Addr() {
				t.Errorf("ready at %s", got)
			}
			if took := time.Since(began); took > 250*time.Millisecond {
				t.Errorf("ready after %v", took)
			}
			first[c.network.Dials()[0].Addr]++
		})
	}
	if len(first) != 3 {
		t.Errorf("the first attempts went to %v; want a random order", first)
	}
}

// A round of failures at all endpoints costs one wait, and the waits grow by the round.
func TestRoundCostsOneWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		for _, n := range c.nodes {
			n.status.Store(http.StatusBadGateway)
		}
		client := c.start(t, limpet.Options{})
		if _, err := client.WaitState(t.Context(), func(s limpet.State) bool { return s.Attempt == 5 }); err != nil {
			t.Fatal(err)
		}
		dials := c.network.Dials()
		if len(dials) != 20 {
			t.Fatalf("%d dials in five rounds", len(dials))
		}
		bound := 500 * time.Millisecond
		for round := range 5 {
			hosts := make(map[string]bool)
			for i := range 4 {
				d := dials[round*4+i]
				hosts[d.Addr] = true
				gap := time.Duration(0)
				if n := round*4 + i; n > 0 {
					gap = d.At.Sub(dials[n-1].At)
				}
				switch {
				case i > 0 && gap > 150*time.Millisecond:
					t.Errorf("round %d: attempt %d came after %v", round, i, gap)
				case i == 0 && round > 1 && gap < bound/2:
					t.Errorf("round %d came after %v, want %v at least", round, gap, bound/2)
				}
			}
			if len(hosts) != 4 {
				t.Errorf("round %d went to %v", round, hosts)
			}
			if round > 0 {
				bound = bound * 3 / 2
			}
		}
	})
}

// What one endpoint refuses for good does not end the client while another may work.
func TestEndpointThatRefusesForGood(t *testing.T) {
	for _, works := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			c.nodes[0].status.Store(http.StatusNotFound)
			c.nodes[1].status.Store(http.StatusForbidden)
			if !works {
				c.nodes[2].status.Store(http.StatusBadRequest)
			}
			client := c.start(t, limpet.Options{})
			err := client.WaitReady(t.Context())
			var permanent *limpet.PermanentError
			if works && err != nil || !works && !errors.As(err, &permanent) {
				t.Errorf("works %v: %v", works, err)
			}
			for host, n := range c.dialsTo(time.Time{}) {
				if n > 1 {
					t.Errorf("works %v: %d attempts at %s", works, n, host)
				}
			}
		})
	}
}

// A permanent error of Auth ends the client at the first endpoint.
func TestPermanentEndsAtTheFirstEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		asked := 0
		client := c.start(t, limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			asked++
			return limpet.Credential{}, limpet.Permanent(errors.New("no licence"))
		}})
		if err := client.WaitReady(t.Context()); limpet.ClassOf(err) != limpet.ClassAuth || asked != 1 {
			t.Errorf("after %d calls of Auth: %v", asked, err)
		}
	})
}

// A slot is of the endpoint that gave it: others are tried at once, it is not.
func TestSlotIsOfOneEndpoint(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 2)
			c.nodes[0].status.Store(http.StatusServiceUnavailable)
			c.nodes[0].header.Set("Retry-After", "60")
			began := time.Now()
			client := c.start(t, limpet.Options{})
			if got := hostOf(t, client); got != c.nodes[1].Addr() {
				t.Fatalf("ready at %s", got)
			}
			if took := time.Since(began); took > 150*time.Millisecond {
				t.Errorf("ready after %v", took)
			}
			c.nodes[1].Stop() // and the first one still says when
			if c.dialsTo(began)[c.nodes[0].Addr()] == 0 {
				return // it was not tried, and gave no slot
			}
			for _, d := range func() []limpettest.Dial { time.Sleep(50 * time.Second); return c.network.Dials() }()[1:] {
				if d.Addr == c.nodes[0].Addr() && d.At.Sub(began) > time.Second && d.At.Sub(began) < time.Minute {
					t.Errorf("an attempt %v after the slot began", d.At.Sub(began))
				}
			}
			c.nodes[0].status.Store(0)
			if got := hostOf(t, client); got != c.nodes[0].Addr() || time.Since(began) < time.Minute {
				t.Errorf("ready at %s after %v", got, time.Since(began))
			}
		})
	}
}

// The slot of the last endpoint of a round does not hold up the next round.
func TestSlotDoesNotHoldTheRound(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 2)
			c.nodes[0].status.Store(http.StatusServiceUnavailable)
			c.nodes[0].header.Set("Retry-After", "60")
			c.nodes[1].status.Store(http.StatusBadGateway)
			client := c.start(t, limpet.Options{})
			if _, err := client.WaitState(t.Context(), func(s limpet.State) bool { return s.Attempt == 1 }); err != nil {
				t.Fatal(err)
			}
			c.nodes[1].status.Store(0)
			began := time.Now()
			if got := hostOf(t, client); got != c.nodes[1].Addr() || time.Since(began) > time.Second {
				t.Errorf("ready at %s after %v", got, time.Since(began))
			}
		})
	}
}

// A lost connection goes back to its endpoint.
func TestEndpointIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		client := c.start(t, limpet.Options{})
		sub := subscribeLive(t, client, "a", nil)
		host := hostOf(t, client)
		for range 5 {
			time.Sleep(time.Minute)
			if got := c.reconnect(t, client); got != host {
				t.Errorf("from %s to %s", host, got)
			}
		}
		if st := sub.Stats(); st.Gaps+st.Resets > 0 {
			t.Errorf("%d gaps, %d resets", st.Gaps, st.Resets)
		}
	})
}

// reconnect cuts the connection of client and returns the host of the next.
func (c *cluster) reconnect(t *testing.T, client *limpet.Client) string {
	t.Helper()
	generation := client.State().Generation
	c.network.CutAll()
	if _, err := client.WaitState(t.Context(), func(s limpet.State) bool { return s.Generation > generation && s.Phase == limpet.Ready }); err != nil {
		t.Fatal(err)
	}
	return client.State().Host
}

// An endpoint that says that it goes away is left for another.
func TestEndpointThatGoesAway(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			c.network.Inject(limpettest.CloseWith(1001, "", 3), limpettest.Clean())
			client := c.start(t, limpet.Options{})
			subscribeLive(t, client, "a", nil)
			if _, err := client.WaitState(t.Context(), func(s limpet.State) bool { return s.Generation == 2 && s.Phase == limpet.Ready }); err != nil {
				t.Fatal(err)
			}
			if dials := c.network.Dials(); len(dials) != 2 || dials[0].Addr == dials[1].Addr {
				t.Errorf("dials: %v", dials)
			}
		})
	}
}

// An endpoint that accepts every client and drops it gives way to others.
func TestEndpointThatDropsGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		client := c.start(t, limpet.Options{})
		bad := hostOf(t, client)
		began := time.Now()
		for n := 0; ; n++ {
			if n > 6 {
				t.Fatal("the client stays")
			}
			if hostOf(t, client) != bad {
				break
			}
			c.reconnect(t, client)
		}
		t.Logf("gave way after %v", time.Since(began))
	})
}

// Resolver is asked at each attempt, and its last answer counts when it fails.
func TestResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		urls := c.urls()
		answers := []func() ([]string, error){
			func() ([]string, error) { return urls[1:2], nil },
			func() ([]string, error) { return nil, errors.New("no such name") },
			func() ([]string, error) { panic("of the resolver") },
			func() ([]string, error) { return []string{"https://x", urls[2], urls[2]}, nil },
			func() ([]string, error) { return nil, nil },
		}
		want := []int{1, 1, 1, 2, 2}
		var reports []string
		log := &lockedBuffer{}
		calls := 0
		client, err := limpet.New(urls[0], options(&limpet.Options{
			HTTPClient: c.network.HTTPClient(), Logger: slog.New(slog.NewTextHandler(log, nil)),
			Resolver: func(ctx context.Context) ([]string, error) {
				if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != 10*time.Second {
					t.Errorf("deadline %v", deadline)
				}
				calls++
				return answers[calls-1]()
			},
			Observer: observer(func(e limpet.Event) {
				if failed, ok := e.(limpet.CallbackFailed); ok {
					reports = append(reports, failed.Err.Error())
					if known := (*limpet.Error)(nil); !errors.As(failed.Err, &known) || known.Field != failed.Option || limpet.ClassOf(failed.Err) != limpet.ClassUser {
						t.Errorf("%s: %#v, want an *Error of ClassUser", failed.Option, failed.Err)
					}
				}
			}),
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, client)
		for i := range answers {
			if got := hostOf(t, client); got != c.nodes[want[i]].Addr() {
				t.Errorf("answer %d: ready at %s", i, got)
			}
			if i < len(answers)-1 {
				c.reconnect(t, client)
			}
		}
		synctest.Wait()
		if len(reports) != 4 || reports[0] != "limpet: dial: Options.Resolver: no such name" ||
			!strings.Contains(reports[1], "panic: of the resolver") || !strings.Contains(reports[2], "Options.Resolver: answer[0]: scheme must be ws") {
			t.Errorf("reports %q", reports)
		}
		// An answer that is missing passes: the last list is used. A panic is a defect of this program.
		text, failed := log.String(), `msg="limpet: a function of the caller failed" option=Options.Resolver`
		if warned, defects := strings.Count(text, "level=WARN "+failed), strings.Count(text, "level=ERROR "+failed); warned != 3 || defects != 1 {
			t.Errorf("%d warnings and %d errors, want 3 and 1:\n%s", warned, defects, text)
		}
	})
}

// A Resolver that hangs costs an attempt its time, and the client uses the list that it has.
func TestResolverThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		release := make(chan struct{})
		began := time.Now()
		var calls atomic.Int32
		client, err := limpet.New(c.urls()[0], options(&limpet.Options{
			HTTPClient: c.network.HTTPClient(),
			Resolver: func(context.Context) ([]string, error) {
				calls.Add(1)
				<-release
				return nil, nil
			},
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, client)
		hostOf(t, client)
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("ready after %v", took)
		}
		again := time.Now()
		c.reconnect(t, client) // the call still runs: there is no second one
		if took := time.Since(again); took > time.Second || calls.Load() != 1 {
			t.Errorf("ready again after %v and %d calls", took, calls.Load())
		}
		close(release)
	})
}

// The first answers of Resolver come before the URL of New, which need not exist.
func TestResolverReplacesTheURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		client, err := limpet.New("ws://127.0.0.1:9", options(&limpet.Options{
			HTTPClient: c.network.HTTPClient(),
			Resolver:   func(context.Context) ([]string, error) { return c.urls(), nil },
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, client)
		hostOf(t, client)
		if n := c.dialsTo(time.Time{})["127.0.0.1:9"]; n > 0 {
			t.Errorf("%d attempts at the URL of New", n)
		}
	})
}

// AttemptInfo.Host and the events name the endpoint of the attempt.
func TestEndpointIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes[0].Stop()
		c.nodes[1].Stop()
		var asked, seen []string
		client := c.start(t, limpet.Options{
			Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
				asked = append(asked, info.Host)
				return limpet.Credential{}, nil
			},
			Observer: observer(func(e limpet.Event) {
				if s, ok := e.(limpet.StateChanged); ok && s.State.Phase == limpet.Connecting {
					seen = append(seen, s.Host)
				}
			}),
		})
		hostOf(t, client)
		synctest.Wait()
		var dialled []string
		for _, d := range c.network.Dials() {
			dialled = append(dialled, d.Addr)
		}
		if !slices.Equal(asked, dialled) || !slices.Equal(seen, dialled) {
			t.Errorf("asked for %v, saw %v, dialled %v", asked, seen, dialled)
		}
	})
}

// Options that cannot be meant are refused.
func TestEndpointsThatCannotBeMeant(t *testing.T) {
	const url = "wss://a.example/x"
	for _, tc := range []struct {
		endpoints []string
		want      string
	}{
		{[]string{"wss://b.example", "https://c.example"}, "Options.Endpoints[1]: scheme must be ws or wss, not https"},
		{[]string{"ws://127.0.0.1/x"}, "Options.Endpoints[0]: has the scheme ws, and url has wss; use one scheme"},
		{[]string{"wss://a.example/x"}, "Options.Endpoints[0]: is the same URL as an earlier one; remove it"},
		{[]string{"wss://b.example", "wss://b.example"}, "Options.Endpoints[1]: is the same URL"},
		{[]string{"wss://user:canary@b.example"}, "Options.Endpoints[0]: user information does not belong in a URL"},
		{make([]string, 1024), "Options.Endpoints: has 1024 URLs; use 1023 or less"},
	} {
		_, err := limpet.New(url, options(&limpet.Options{Endpoints: tc.endpoints}))
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%.3q: %v; want %s", fmt.Sprint(tc.endpoints), err, tc.want)
		}
	}
	for _, tc := range []struct {
		rate  float64
		burst int
	}{{0, 1}, {-1, 1}, {1e7, 1}, {1, 0}, {1, 1e7}} {
		if _, err := limpet.NewGovernor(tc.rate, tc.burst); limpet.ClassOf(err) != limpet.ClassInput {
			t.Errorf("rate %v, burst %d: %v", tc.rate, tc.burst, err)
		}
	}
}
