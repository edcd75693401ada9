package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
	"nhooyr.io/websocket"
)

// plainServer is a WebSocket server without a protocol. It does what talk does, and then
// reads until the connection ends.
type plainServer struct {
	host *limpettest.Host
	talk func(p *plainConn)

	mu    sync.Mutex
	conns int
	heard []string // "1 text a": on connection 1
}

// plainConn is one connection of a plainServer.
type plainConn struct {
	s      *plainServer
	ws     *websocket.Conn
	number int
}

func newPlainServer(t *testing.T, talk func(p *plainConn)) *plainServer {
	s := &plainServer{talk: talk}
	s.host = limpettest.NewHandler(t, http.HandlerFunc(s.serve), nil)
	return s
}

func (s *plainServer) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"prices.v2"}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	s.mu.Lock()
	s.conns++
	p := &plainConn{s: s, ws: ws, number: s.conns}
	s.mu.Unlock()
	s.talk(p)
	for p.read() != "" {
	}
}

func (p *plainConn) text(texts ...string) {
	for _, text := range texts {
		p.ws.Write(context.Background(), websocket.MessageText, []byte(text))
	}
}

func (p *plainConn) binary(data string) {
	p.ws.Write(context.Background(), websocket.MessageBinary, []byte(data))
}

// read returns the next message as "text a" or "binary a", empty after the last one.
func (p *plainConn) read() string {
	typ, data, err := p.ws.Read(context.Background())
	if err != nil {
		return ""
	}
	message := map[websocket.MessageType]string{websocket.MessageText: "text ", websocket.MessageBinary: "binary "}[typ] + string(data)
	p.s.mu.Lock()
	p.s.heard = append(p.s.heard, fmt.Sprint(p.number, " ", message))
	p.s.mu.Unlock()
	return message
}

func (s *plainServer) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.heard, "\n")
}

// client returns a client with subscriptions to topics that exist before it connects.
func (s *plainServer) client(t *testing.T, o raw.Options, co limpet.Options, topics ...string) (*limpet.Client, []*limpet.Subscription) {
	t.Helper()
	s.host.Inject(limpettest.Stall(time.Millisecond))
	co.HTTPClient, co.Dialect = s.host.HTTPClient(), raw.New(o)
	c, err := limpet.New(s.host.URL(), options(&co))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	var subs []*limpet.Subscription
	for _, topic := range topics {
		sub, err := c.Subscribe(t.Context(), topic, nil)
		assert.NoError(t, err)
		subs = append(subs, sub)
	}
	return c, subs
}

// cut breaks every connection and checks that the client has made another one.
func (s *plainServer) cut(t *testing.T, c *limpet.Client) {
	t.Helper()
	before := c.State().Generation
	s.host.Network.CutAll()
	_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation > before })
	assert.NoError(t, err)
}

// On every connection the client first sends the texts of OnOpen, with the token for that
// connection, and receives from the first message on. What was sent in between is a Reset.
func TestRawReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newPlainServer(t, func(p *plainConn) {
			p.text(fmt.Sprint("hello ", p.number)) // before anything was asked for
			p.read()
			p.read()
			p.text(fmt.Sprint("snapshot ", p.number))
			p.binary("\xff")
		})
		onOpen := func(r wire.Resume) [][]byte {
			return [][]byte{[]byte("login " + r.Token), fmt.Appendf(nil, "subscribe as %s", r.Subprotocol)}
		}
		attempts := 0
		c, subs := srv.client(t, raw.Options{OnOpen: onOpen, Subprotocols: []string{"prices.v1", "prices.v2"}}, limpet.Options{
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				attempts++
				return limpet.Credential{Token: limpet.Secret(fmt.Sprint("t", attempts))}, nil
			},
		}, "*")
		got := collect(t, subs[0], 3)
		srv.cut(t, c)
		got = append(got, collect(t, subs[0], 4)...)
		if text := payloads(got); text != "hello 1 snapshot 1 \xff reset hello 2 snapshot 2 \xff" {
			t.Errorf("received %q", text)
		}
		if r := got[3].Loss; r == nil || r.Cause != limpet.CauseUnverifiable {
			t.Errorf("%+v", r)
		}
		if got[1].Type != raw.TypeText || got[2].Type != raw.TypeBinary || got[1].Topic != "*" {
			t.Errorf("%+v, %+v", got[1], got[2])
		}
		const want = "1 text login t1\n1 text subscribe as prices.v2\n2 text login t2\n2 text subscribe as prices.v2"
		if srv.all() != want {
			t.Errorf("the server heard\n%s", srv.all())
		}
		if st := c.Stats(); st.Unrequested != 0 || st.Malformed != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// numberedTopic reads messages such as "b 7": message 7 of topic b. "x" has no topic.
func numberedTopic(f wire.Frame) raw.Label {
	var l raw.Label
	if n, _ := fmt.Sscan(string(f.Data), &l.Topic, &l.Number); n < 2 {
		return raw.Label{}
	}
	l.Numbered = true
	return l
}

// Numbers count for each topic by itself. They show what is missing, also across
// connections, and a restart. OnOpen knows the last number of each topic.
func TestRawNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := [][]string{
			{"a 7", "b 1", "a 8", "b 2", "a 8", "a 11", "x"}, // a repeat, and a gap
			{"b 3", "a 12", "y", "a 1", "a 2"},               // nothing lost, then a restart
		}
		srv := newPlainServer(t, func(p *plainConn) { p.text(conns[p.number-1]...) })
		var after []string
		onOpen := func(r wire.Resume) [][]byte {
			for _, s := range r.Subs {
				after = append(after, fmt.Sprint(r.Conn, s.Topic, s.Position.Offset))
			}
			return nil
		}
		c, subs := srv.client(t, raw.Options{OnOpen: onOpen, Topic: numberedTopic}, limpet.Options{}, "a", "b", "*")
		var got [3][]limpet.Message
		for conn := range conns {
			if conn > 0 {
				srv.cut(t, c)
			}
			for i, sub := range subs {
				got[i] = append(got[i], waiting(t, sub)...)
			}
		}
		for i, want := range []string{
			"7 8 gap(8,10]x2:lost 11 12 reset(12,0]x0:restarted 1 2",
			"1 2 3",
			"0 reset(0,0]x0:unverifiable 0", // without numbers
		} {
			if text := story(got[i]); text != want {
				t.Errorf("topic %d: %s\nwant %s", i, text, want)
			}
		}
		if text := payloads(got[2]); text != "x reset y" {
			t.Errorf("without a topic: %s", text)
		}
		if text := strings.Join(after, " "); text != "1a0 1b0 1*0 2a11 2b2 2*0" {
			t.Errorf("OnOpen saw %s", text)
		}
		if n := subs[0].Stats().Duplicates; n != 1 {
			t.Errorf("%d duplicates", n)
		}
	})
}

// A message for a topic without a subscription is counted, and reported once for each
// topic. "*" is no wildcard.
func TestRawTopicWithoutSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newPlainServer(t, func(p *plainConn) { p.text("b 1", "c 1", "b 2", "c 2", "a 1", "rest") })
		var reports []string
		c, subs := srv.client(t, raw.Options{Topic: numberedTopic}, limpet.Options{Observer: observer(func(e limpet.Event) {
			if skipped, ok := e.(limpet.MessageSkipped); ok {
				reports = append(reports, skipped.Topic)
			}
		})}, "a", "*")
		if text := payloads(collect(t, subs[0], 1)) + ", " + payloads(collect(t, subs[1], 1)); text != "a 1, rest" {
			t.Error(text)
		}
		synctest.Wait()
		if n := c.Stats().Unrequested; n != 4 || strings.Join(reports, " ") != "b c" {
			t.Errorf("%d unrequested, reported %q", n, reports)
		}
	})
}

// The end of a subscription sends nothing, and a new one to the same topic goes on at
// once.
func TestRawSubscribeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := make(chan string)
		srv := newPlainServer(t, func(p *plainConn) {
			for text := range next {
				p.text(text)
			}
		})
		c, subs := srv.client(t, raw.Options{}, limpet.Options{}, "*")
		next <- "a"
		first := payloads(collect(t, subs[0], 1))
		assert.NoError(t, subs[0].Close())
		again, err := c.Subscribe(t.Context(), "*", nil)
		assert.NoError(t, err)
		began := time.Now()
		assert.NoError(t, again.WaitLive(t.Context()))
		next <- "b"
		close(next)
		if text := first + payloads(collect(t, again, 1)); text != "ab" || time.Since(began) > time.Second || srv.all() != "" {
			t.Errorf("%s after %v, the server heard %q", text, time.Since(began), srv.all())
		}
	})
}

// A published message is one frame, a text or binary, and ends as Written. What cannot be
// a frame is refused.
func TestRawPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newPlainServer(t, func(p *plainConn) {})
		srv.host.Inject(limpettest.Stall(time.Second))
		c, _ := srv.client(t, raw.Options{}, limpet.Options{})
		expired, err := c.Publish(t.Context(), "*", []byte("late"), &limpet.PublishOptions{TTL: time.Millisecond})
		assert.NoError(t, err)
		if _, err := expired.Wait(t.Context()); err == nil || expired.Outcome() != limpet.Expired || c.State().Generation != 0 {
			t.Errorf("%v, %v on connection %d", expired.Outcome(), err, c.State().Generation)
		}
		for _, row := range []struct {
			payload string
			o       limpet.PublishOptions
			want    limpet.Outcome
			says    string
		}{
			{"a", limpet.PublishOptions{}, limpet.Written, ""},
			{"{}", limpet.PublishOptions{Type: "application/json"}, limpet.Written, ""},
			{"", limpet.PublishOptions{}, limpet.Written, ""},
			{"\xff\x00", limpet.PublishOptions{Type: raw.TypeBinary}, limpet.Written, ""},
			{"\xff\x00", limpet.PublishOptions{}, limpet.Rejected, raw.TypeBinary},
			{"a", limpet.PublishOptions{Header: map[string]string{"k": "v"}}, limpet.Rejected, "PublishOptions.Header"},
		} {
			r, err := c.Publish(t.Context(), "*", []byte(row.payload), &row.o)
			assert.NoError(t, err)
			_, err = r.Wait(t.Context())
			if got := r.Outcome(); got != row.want || row.says == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), row.says) {
				t.Errorf("%q: %v, %v", row.payload, got, err)
			}
		}
		synctest.Wait()
		if want := "1 text a\n1 text {}\n1 text \n1 binary \xff\x00"; srv.all() != want {
			t.Errorf("the server heard\n%q", srv.all())
		}
		_, err = c.Publish(t.Context(), "orders", nil, nil)
		var te *raw.TopicError
		if !errors.Is(err, limpet.ErrTopic) || !errors.As(err, &te) || te.Topic != "orders" {
			t.Error(err)
		}
	})
}

// The first message waits for the first subscription, at most until one second after New.
// One that is requested in the handshake ends the wait, too.
func TestFirstMessageWaits(t *testing.T) {
	for _, tc := range []struct {
		dial        bool
		stall       time.Duration // of the connection
		pause       time.Duration // before Subscribe
		want        string
		unrequested uint64
	}{
		{dial: false, pause: 900 * time.Millisecond, want: "first"},
		{dial: true, pause: 900 * time.Millisecond, want: "first"},
		{dial: false, pause: 1100 * time.Millisecond, want: "second", unrequested: 1},
		{dial: true, pause: 1100 * time.Millisecond, want: "second", unrequested: 1},
		{dial: false, stall: 100 * time.Millisecond, want: "first"},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := newPlainServer(t, func(p *plainConn) {
				p.text("first")
				time.Sleep(1200 * time.Millisecond)
				p.text("second")
			})
			srv.host.Inject(limpettest.Stall(tc.stall))
			c, err := limpet.New(srv.host.URL(), options(&limpet.Options{Dialect: raw.New(raw.Options{}), HTTPClient: srv.host.HTTPClient()}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			if tc.dial {
				assert.NoError(t, c.WaitReady(t.Context()))
			}
			time.Sleep(tc.pause)
			sub, err := c.Subscribe(t.Context(), "*", nil)
			assert.NoError(t, err)
			began := time.Now()
			if got := payloads(collect(t, sub, 1)); got != tc.want {
				t.Errorf("%+v: received %q", tc, got)
			}
			if waited := time.Since(began); tc.want == "first" && waited > tc.stall+10*time.Millisecond {
				t.Errorf("%+v: received after %v", tc, waited)
			}
			if got := c.Stats().Unrequested + sub.Stats().Earlier; got != tc.unrequested {
				t.Errorf("%+v: %d messages without a subscription", tc, got)
			}
		})
	}
}

// A client that ends does not wait for a subscription.
func TestEndDoesNotWaitForTheFirstSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newPlainServer(t, func(p *plainConn) { p.text("first") })
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{Dialect: raw.New(raw.Options{}), HTTPClient: srv.host.HTTPClient()}))
		assert.NoError(t, err)
		synctest.Wait()
		began := time.Now()
		c.Close()
		<-c.Done()
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("ended after %v", took)
		}
	})
}

// Wrong options are refused by limpet.New, which names the option.
func TestRawOptionsAreChecked(t *testing.T) {
	_, err := limpet.New("ws://127.0.0.1", options(&limpet.Options{Dialect: raw.New(raw.Options{Ping: "ping"})}))
	var e *limpet.Error
	var oe *raw.OptionError
	if !errors.As(err, &e) || e.Field != "Options.Dialect" || e.Class != limpet.ClassInput || !errors.As(err, &oe) || oe.Field != "Ping" {
		t.Errorf("%v", err)
	}
	_, err = limpet.New("ws://127.0.0.1", options(&limpet.Options{Dialect: panickingCheck{raw.New(raw.Options{})}}))
	var pe *limpet.PanicError
	if !errors.As(err, &e) || e.Field != "Options.Dialect" || e.Class != limpet.ClassUser || !errors.As(err, &pe) {
		t.Errorf("%v", err)
	}
}

type panickingCheck struct{ wire.Dialect }

func (panickingCheck) Check() error { panic("broken") }

// jsonNumber returns the number that is the member name of a JSON object, nil if there is none.
func jsonNumber(f wire.Frame, name string) *int {
	var m map[string]*int
	_ = json.Unmarshal(f.Data, &m)
	return m[name]
}
