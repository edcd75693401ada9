package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"nhooyr.io/websocket"
)

// toyDialect is a small language that differs from limpet.v1 in everything that the
// seam allows: a ticket fetched over HTTP before the dial, a challenge to answer
// after it, messages before the handshake is over, names given by the server,
// an inclusive cursor, no acknowledgement of what is published, but one for each
// message processed.
type toyDialect struct{ traits wire.Traits }

func newToyDialect() toyDialect {
	return toyDialect{wire.Traits{ByKey: true, Publish: true, Greeting: true, Confirms: true, Resume: true, StartSubs: 10,
		DedupWindow: 4, Processed: wire.ProcessedEach, Ping: wire.PingControl}}
}

func (toyDialect) Name() string                           { return "toy" }
func (w toyDialect) Traits() wire.Traits                  { return w.traits }
func (toyDialect) CheckTopic(wire.Use, string) error      { return nil }
func (toyDialect) Verdict(wire.Failure) wire.Verdict      { return wire.Verdict{} }
func (toyDialect) Open(r wire.Resume) (wire.Codec, error) { return &toyCodec{r: r}, nil }

func (toyDialect) Attempt(a *wire.Attempt) error {
	if a.Response == nil {
		a.Request = &wire.Request{Method: "GET", URL: "http" + strings.TrimPrefix(a.URL, "ws") + "/ticket"}
		return nil
	}
	a.URL += "?ticket=" + string(a.Response.Body)
	for _, s := range a.Subs {
		a.URL += "&" + s.Topic + "=" + s.Position.Tag
	}
	a.Dial = true
	return nil
}

type toyCodec struct{ r wire.Resume }

func (c *toyCodec) Start(out *wire.Frames) error {
	for _, s := range c.r.Subs {
		out.Append(wire.Text, fmt.Appendf(nil, "sub %d %s %s", s.Key, s.Topic, s.Position.Tag))
	}
	return nil
}

func (c *toyCodec) Decode(f wire.Frame, out *wire.Events) error {
	for line := range strings.SplitSeq(string(f.Data), ";") {
		c.decodeLine(line, out)
	}
	return nil
}

func (c *toyCodec) decodeLine(line string, out *wire.Events) {
	w := strings.Fields(line)
	switch w[0] {
	case "challenge":
		out.Append(wire.EventStep).Step = w[1]
	case "ready":
		out.Append(wire.EventReady).Ready = &wire.Ready{}
	case "is": // is KEY NAME
		e := out.Append(wire.EventSubscribed)
		fmt.Sscan(w[1], &e.Key)
		e.Name, e.Continuity = w[2], wire.ContinuityByNumber
	default: // NAME TAG
		e := out.Append(wire.EventData)
		e.Name, e.Position.Tag, e.Message.Payload = w[0], w[1], []byte(w[1])
		copy(e.Message.ID[:], w[1])
	}
}

func (c *toyCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for _, op := range ops {
		switch op.Kind {
		case wire.OpStep:
			out.Append(wire.Text, fmt.Appendf(nil, "answer %v", op.Step))
		case wire.OpPublish:
			out.Append(wire.Text, fmt.Appendf(nil, "pub %s", op.Message.Payload))
		case wire.OpAck:
			out.Append(wire.Text, fmt.Appendf(nil, "ack %s %s", op.Name, op.Position.Tag))
		case wire.OpUnsubscribe:
			out.Append(wire.Text, fmt.Appendf(nil, "unsub %s", op.Name))
		}
	}
	return nil
}

// toyServer hears everything and answers as the test says.
type toyServer struct {
	host  *limpettest.Host
	mu    sync.Mutex
	heard []string
	conns int
}

func newToyServer(t *testing.T, talk func(conn int, say func(string), hear func() string)) *toyServer {
	s := &toyServer{}
	s.host = limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.heard = append(s.heard, r.URL.String())
		s.mu.Unlock()
		if r.URL.Path == "/ticket" {
			io.WriteString(w, "t1")
			return
		}
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		s.mu.Lock()
		s.conns++
		conn := s.conns
		s.mu.Unlock()
		ctx := context.Background()
		hear := func() string {
			_, data, err := ws.Read(ctx)
			if err != nil {
				return ""
			}
			s.mu.Lock()
			s.heard = append(s.heard, string(data))
			s.mu.Unlock()
			return string(data)
		}
		talk(conn, func(text string) { ws.Write(ctx, websocket.MessageText, []byte(text)) }, hear)
		for hear() != "" {
		}
	}), nil)
	return s
}

func (s *toyServer) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.heard, "\n")
}

func TestSeamIsWideEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			say(fmt.Sprintf("challenge %d", 41+conn))
			for hear() != fmt.Sprintf("answer %d", 41+conn) {
			}
			say(fmt.Sprintf("is 1 n%d", conn)) // another name on every connection
			if conn == 1 {
				say("n1 a")
				say("n1 b")
			} else {
				say("n2 b") // the cursor includes the last message
				say("n2 c") // a replay, before the handshake is over
			}
			say("ready")
		})
		srv.host.Inject(limpettest.Clean(), limpettest.Stall(1), limpettest.Clean())
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: newToyDialect()}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		ctx := context.Background()
		s, err := c.Subscribe(ctx, "topic", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.WaitLive(ctx); err != nil {
			t.Fatal(err)
		}
		got := payloads(collect(t, s, 2))
		synctest.Wait()
		srv.host.Network.CutAll()
		if got += " " + payloads(collect(t, s, 1)); got != "a b c" {
			t.Errorf("delivered %q", got)
		}
		if st := s.Stats(); st.Duplicates != 1 {
			t.Errorf("%+v", st)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		r, err := c.Publish(ctx, "x", []byte("hello"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if ack, err := r.Wait(ctx); err != nil || ack.Outcome != limpet.Written {
			t.Errorf("without acknowledgements a message ends as %v, %v", ack.Outcome, err)
		}
		synctest.Wait()
		for _, want := range []string{"/ticket", "/?ticket=t1&topic=", "answer 42", "sub 1 topic \n", "ack n1 a", "ack n1 b",
			"/?ticket=t1&topic=b", "answer 43", "sub 1 topic b", "ack n2 c", "pub hello"} {
			if !strings.Contains(srv.all()+"\n", want) {
				t.Errorf("the server did not hear %q:\n%s", want, srv.all())
			}
		}
		if _, err := c.Subscribe(ctx, "y", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Block}}); !errors.Is(err, limpet.ErrUnsupported) || !strings.Contains(err.Error(), "Credit") {
			t.Errorf("Block without credit: %v", err)
		}
	})
}

// A message is acknowledged under the name that stands before it, however fast its
// consumer is: the reader has something to do after it.
func TestAckHasTheNameOfItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			say(fmt.Sprintf("challenge %d", conn))
			for hear() != fmt.Sprintf("answer %d", conn) {
			}
			head := fmt.Sprintf("ready;is 1 n%d;is 2 k%d", conn, conn)
			if conn > 1 {
				head += fmt.Sprintf(";n%d m%d", conn, conn-1) // the cursor includes the last message
			}
			say(head + fmt.Sprintf(";n%d m%d;k%d x%d", conn, conn, conn, conn))
		})
		srv.host.Inject(limpettest.Stall(1), limpettest.Clean())
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: newToyDialect()}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s := subscribe(t, c, "topic")
		acknowledged := make(chan bool)
		key := func(limpet.Message) string { <-acknowledged; return "" } // the reader stands still
		other, err := c.Subscribe(t.Context(), "other", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: key}})
		if err != nil {
			t.Fatal(err)
		}
		for conn := 1; conn <= 3; conn++ {
			if got := payloads(collect(t, s, 1)); got != fmt.Sprintf("m%d", conn) {
				t.Errorf("delivered %q", got)
			}
			synctest.Wait()
			acknowledged <- true
			collect(t, other, 1)
			synctest.Wait()
			if want := fmt.Sprintf("ack n%d m%d", conn, conn); !strings.Contains(srv.all()+"\n", want+"\n") {
				t.Errorf("the server did not hear %q:\n%s", want, srv.all())
			}
			srv.host.Network.CutAll()
		}
	})
}

// A language without sessions cannot say what became of a message that was
// under way when the connection broke.
func TestOutcomeWithoutSessions(t *testing.T) {
	for resend := range limpet.Never + 1 {
		synctest.Test(t, func(t *testing.T) {
			srv := newToyServer(t, func(conn int, say func(string), hear func() string) { say("ready") })
			d := newToyDialect()
			d.traits.Acks = true // which never come
			c, err := limpet.Dial(context.Background(), srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			r, err := c.Publish(context.Background(), "x", []byte("hello"), &limpet.PublishOptions{Resend: resend})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			srv.host.Network.CutAll()
			if _, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			want, sent := limpet.Unknown, 1
			if resend == limpet.AtLeastOnce {
				want, sent = limpet.Pending, 2
			}
			if r.Outcome() != want || strings.Count(srv.all(), "pub hello") != sent {
				t.Errorf("Resend %v: %v, heard\n%s", resend, r.Outcome(), srv.all())
			}
		})
	}
}

func TestSilentLanguageSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) { say("is 1 n"); say("n a") })
		d := newToyDialect()
		d.traits = wire.Traits{ByKey: true, Silent: true, Ping: wire.PingNone, StartSubs: 1, Confirms: true}
		srv.host.Inject(limpettest.Clean(), limpettest.Stall(1))
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		if _, err := c.Publish(context.Background(), "x", nil, nil); !errors.Is(err, limpet.ErrUnsupported) {
			t.Errorf("Publish: %v", err)
		}
		s, err := c.Subscribe(context.Background(), "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		collect(t, s, 1)
		if _, err := c.Subscribe(context.Background(), "b", nil); err != nil {
			t.Fatal(err)
		}
		s.Close()
		time.Sleep(time.Minute)
		for _, heard := range strings.Split(srv.all(), "\n") {
			if heard != "sub 1 a " && !strings.HasPrefix(heard, "/") { // the first frame, and URLs
				t.Errorf("the server heard %q", heard)
			}
		}
	})
}

// A subscription that was live and saw no number has no base to prove
// continuity from.
func TestNoNumberBeforeTheBreakIsAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := feed.Coinbase()
		d, err := feed.New(table)
		if err != nil {
			t.Fatal(err)
		}
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			hear()
			say(`{"type":"subscriptions","channels":[{"name":"matches","product_ids":["A-B"]}]}`)
			if conn == 2 {
				say(`{"type":"match","product_id":"A-B","trade_id":7}`)
				say(`{"type":"match","product_id":"A-B","trade_id":9}`)
			}
		})
		var seen []limpet.LossReported
		var mu sync.Mutex
		c, err := limpet.Dial(context.Background(), srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d,
			Observer: observer(func(e limpet.Event) {
				if l, ok := e.(limpet.LossReported); ok {
					mu.Lock()
					seen = append(seen, l)
					mu.Unlock()
				}
			})}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s := subscribeLive(t, c, "matches/A-B", nil)
		srv.host.Network.CutAll()
		ms := collect(t, s, 4)
		if ms[0].Kind != limpet.Reset || ms[1].Position.Offset != 7 || ms[2].Kind != limpet.Gap || ms[2].Loss.To.Offset != 8 || ms[3].Position.Offset != 9 {
			t.Errorf("got %s", payloads(ms))
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(seen) != 2 || seen[0].Kind != limpet.Reset || seen[1].Kind != limpet.Gap {
			t.Errorf("the observer saw %+v", seen)
		}
	})
}

// An HTTP step takes the time of the attempt: half an answer is none.
func TestSlowTicketIsReadWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialled := make(chan string, 10)
		h := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ticket" {
				io.WriteString(w, "first")
				w.(http.Flusher).Flush()
				time.Sleep(3 * time.Second)
				io.WriteString(w, "second")
				return
			}
			dialled <- r.URL.Query().Get("ticket")
			if ws, err := websocket.Accept(w, r, nil); err == nil {
				ws.Read(context.Background())
				ws.CloseNow()
			}
		}), nil)
		d := newToyDialect()
		d.traits.Greeting = false
		c, err := limpet.Dial(context.Background(), h.URL(), options(&limpet.Options{HTTPClient: h.HTTPClient(), Dialect: d}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		if got := <-dialled; got != "firstsecond" {
			t.Errorf("dialled with ticket %q", got)
		}
	})
}

// A server that asks for steps and reads none of the answers is not remembered
// for ever.
func TestStepsWithoutEndAreAViolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			for i := range 20_000 {
				say(fmt.Sprintf("challenge %d%s", i, strings.Repeat("x", 100)))
			}
			time.Sleep(5 * time.Second)
		})
		srv.host.Network.Each(func(int) limpettest.Fault { return limpettest.Clean() })
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: newToyDialect()}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		st, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil })
		if limpet.ClassOf(st.Cause) != limpet.ClassProtocol {
			t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
		}
	})
}
