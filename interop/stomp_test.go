package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/stomp"
)

// TestStomp: limpet against RabbitMQ with its Web STOMP plugin. One broker serves all
// parts, since it takes long to start.
func TestStomp(t *testing.T) {
	broker := startRabbitMQ(t)
	t.Run("subscribe, publish, redelivery", func(t *testing.T) { stompDelivery(t, broker) })
	t.Run("nack, close, another consumer", func(t *testing.T) { stompRelease(t, broker) })
	t.Run("login", func(t *testing.T) { stompLogin(t, broker) })
	t.Run("refusals", func(t *testing.T) { stompRefusals(t, broker) })
	t.Run("heartbeats", func(t *testing.T) { stompHeartbeats(t, broker) })
	t.Run("durable topic", func(t *testing.T) { stompDurable(t, broker) })
}

// startRabbitMQ starts a broker of its own on a free port. Its name server is ended with it.
func startRabbitMQ(t *testing.T) *peer {
	t.Helper()
	names := freePort(t)
	epmd := exec.Command("epmd", "-port", names, "-address", "127.0.0.1")
	if err := epmd.Start(); err != nil {
		t.Fatalf("epmd: %v; run interop/install.sh", err)
	}
	t.Cleanup(func() { _ = epmd.Process.Kill(); _ = epmd.Wait() })
	return startPeer(t, "sh", "servers/rabbitmq.sh", freePort(t), names, t.TempDir())
}

// freePort returns a port of the loopback interface on which nothing listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// rabbit are the options for the user of servers/rabbitmq.sh.
func rabbit() stomp.Options {
	return stomp.Options{Login: "heron", Passcode: `h:e\xron`, EscapeConnect: true}
}

func stompClient(t *testing.T, url string, d wire.Dialect, o limpet.Options) (*limpet.Client, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	o.Dialect = d
	if o.Backoff.First == 0 {
		o.Backoff.First = -1
	}
	c, err := limpet.New(url+"/ws", &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-c.Done() })
	return c, ctx
}

func stompSubscribe(t *testing.T, ctx context.Context, c *limpet.Client, topic string, o *limpet.SubscribeOptions) *limpet.Subscription {
	t.Helper()
	s, err := c.Subscribe(ctx, topic, o)
	if err == nil {
		err = s.WaitLive(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// take takes n messages; handle decides about each.
func take(t *testing.T, ctx context.Context, s *limpet.Subscription, n int, handle func(limpet.Message)) string {
	t.Helper()
	var got []string
	for m, err := range s.Messages(ctx) {
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		text := string(m.Payload)
		if m.Loss != nil {
			text = m.Kind.String()
		}
		if m.Redelivered {
			text += "+"
		}
		got = append(got, text)
		if handle(m); len(got) == n {
			break
		}
	}
	return strings.Join(got, " ")
}

func acknowledge(m limpet.Message) { m.Ack() }
func keep(limpet.Message)          {}

// stompDelivery also writes what passes to STOMP_RECORD, if that names a file:
// wire/stomp/testdata has such a recording.
func stompDelivery(t *testing.T, broker *peer) {
	link := newLink(t, broker.Addr)
	r := &brokerRecorder{Dialect: stomp.New(rabbit())}
	c, ctx := stompClient(t, link.URL, r, limpet.Options{})
	s := stompSubscribe(t, ctx, c, "/queue/px", &limpet.SubscribeOptions{ManualAck: true})
	for _, body := range []string{"one", "tw\x00o", "\xff"} {
		ack, err := c.Send(ctx, "/queue/px", []byte(body), &limpet.PublishOptions{Type: "text/x", Header: map[string]string{"k:1": "a\n\\", "persistent": "true"}})
		if err != nil || ack.Outcome != limpet.Acked {
			t.Fatalf("%v, %v", ack.Outcome, err)
		}
	}
	var ids []string
	got := take(t, ctx, s, 3, func(m limpet.Message) {
		if ids = append(ids, m.ID.String()); string(m.Payload) == "one" {
			m.Ack()
		}
		if m.Header["k:1"] != "a\n\\" || m.Type != "text/x" || m.Topic != "/queue/px" || m.Header["receipt"] != "" {
			t.Errorf("%+v", m)
		}
	})
	if got != "one tw\x00o \xff" {
		t.Errorf("%q", got)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(ctx, "/queue/other", nil, nil); err != nil { // the acknowledgement is behind it
		t.Fatal(err)
	}
	link.Cut(false)
	again := ""
	got = take(t, ctx, s, 3, func(m limpet.Message) {
		if m.Loss == nil {
			again += m.ID.String()
			m.Ack()
		}
	})
	if got != "reset tw\x00o+ \xff+" || again != ids[1]+ids[2] {
		t.Errorf("%q, ids %v, %v", got, ids, again)
	}
	r.write(t)
	// A publish that is cut: with AtLeastOnce it arrives, otherwise its outcome is true.
	link.Cut(true)
	sure, err := c.Publish(ctx, "/queue/cut", []byte("sure"), &limpet.PublishOptions{Resend: limpet.AtLeastOnce})
	if err != nil {
		t.Fatal(err)
	}
	link.Cut(false)
	if _, err := sure.Wait(ctx); err != nil || sure.Outcome() != limpet.Acked {
		t.Errorf("%v, %v", sure.Outcome(), err)
	}
	cut := stompSubscribe(t, ctx, c, "/queue/cut", nil)
	if got := take(t, ctx, cut, 1, acknowledge); strings.TrimSuffix(got, "+") != "sure" {
		t.Errorf("%q", got)
	}
	if link.Made() < 3 {
		t.Errorf("%d connections: the faults had no effect", link.Made())
	}
}

// stompRelease: what is given back comes again, and what a closed subscription or a
// closed client has not acknowledged goes to another consumer.
func stompRelease(t *testing.T, broker *peer) {
	c, ctx := stompClient(t, broker.URL, stomp.New(rabbit()), limpet.Options{})
	for _, body := range []string{"1", "2", "3", "4", "5", "6"} {
		if _, err := c.Send(ctx, "/queue/work", []byte(body), nil); err != nil {
			t.Fatalf("%v, %v", err, c.State().Cause)
		}
	}
	s := stompSubscribe(t, ctx, c, "/queue/work", &limpet.SubscribeOptions{ManualAck: true, Delivery: limpet.Delivery{Buffer: 8}})
	if got := take(t, ctx, s, 1, func(m limpet.Message) { m.Nack() }); got != "1" {
		t.Errorf("%q", got)
	}
	if got := take(t, ctx, s, 2, acknowledge); got != "2 3" && got != "1+ 2" && got != "2 1+" {
		t.Errorf("%q", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other := stompSubscribe(t, ctx, c, "/queue/free", nil) // it does not starve
	if _, err := c.Send(ctx, "/queue/free", []byte("x"), nil); err != nil {
		t.Fatalf("%v, %v", err, c.State().Cause)
	}
	if got := take(t, ctx, other, 1, acknowledge); got != "x" {
		t.Errorf("%q", got)
	}
	if st := c.State(); st.Generation != 1 {
		t.Errorf("connection %d: %v", st.Generation, st.Cause) // a broker refuses an acknowledgement that comes too late
	}
	c.Close()
	<-c.Done()
	second, ctx := stompClient(t, broker.URL, stomp.New(rabbit()), limpet.Options{})
	rest := stompSubscribe(t, ctx, second, "/queue/work", nil)
	if got := strings.Fields(take(t, ctx, rest, 4, acknowledge)); len(got) != 4 {
		t.Errorf("%q", got)
	}
}

func stompLogin(t *testing.T, broker *peer) {
	for name, o := range map[string]stomp.Options{
		"passcode": {Login: "heron", Passcode: "wrong"}, "host": {Login: "heron", Passcode: `h:e\xron`, EscapeConnect: true, Host: "nowhere"},
	} {
		c, ctx := stompClient(t, broker.URL, stomp.New(o), limpet.Options{})
		err := c.WaitReady(ctx)
		var permanent *limpet.PermanentError
		if !errors.As(err, &permanent) || permanent.Class != limpet.ClassAuth {
			t.Errorf("%s: %v", name, err)
		}
	}
	tokens := 0
	o := rabbit()
	o.Passcode = ""
	c, ctx := stompClient(t, broker.URL, stomp.New(o), limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
		if tokens++; tokens == 1 {
			return limpet.Credential{Token: "expired"}, nil
		}
		return limpet.Credential{Token: `h:e\xron`}, nil
	}})
	if err := c.WaitReady(ctx); err != nil || tokens != 2 {
		t.Errorf("%d tokens: %v", tokens, err)
	}
}

// stompRefusals: a destination that is none refuses its subscription and its message, and
// the others come back.
func stompRefusals(t *testing.T, broker *peer) {
	c, ctx := stompClient(t, broker.URL, stomp.New(rabbit()), limpet.Options{})
	good := stompSubscribe(t, ctx, c, "/queue/good", nil)
	bad, err := c.Subscribe(ctx, "/nonsense/px", nil)
	if err != nil {
		t.Fatal(err)
	}
	var e *limpet.Error
	if err := bad.WaitLive(ctx); !errors.Is(err, limpet.ErrRejected) || !errors.As(err, &e) || e.Code != stomp.CodeNotFound {
		t.Errorf("%v", err)
	}
	if err := good.WaitLive(ctx); err != nil {
		t.Error(err)
	}
	ack, err := c.Send(ctx, "/nonsense/px", []byte("x"), &limpet.PublishOptions{Resend: limpet.AtLeastOnce})
	if ack.Outcome != limpet.Rejected {
		t.Errorf("%v, %v", ack.Outcome, err)
	}
	if ack, err := c.Send(ctx, "/queue/good", []byte("x"), nil); ack.Outcome != limpet.Acked {
		t.Errorf("%v, %v", ack.Outcome, err)
	}
	got := ""
	for !strings.HasSuffix(got, "x") {
		got = take(t, ctx, good, 1, acknowledge)
	}
	if st := c.State(); st.Generation != 3 {
		t.Errorf("connection %d", st.Generation)
	}
}

// stompHeartbeats: the client beats often enough for the broker, and notices by the
// broker's beats that it is there.
func stompHeartbeats(t *testing.T, broker *peer) {
	c, ctx := stompClient(t, broker.URL, stomp.New(rabbit()), limpet.Options{Heartbeat: limpet.Heartbeat{Interval: time.Second}})
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-time.After(4500 * time.Millisecond): // the broker gives up after three seconds
	case <-c.Done():
	}
	if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 {
		t.Errorf("connection %d: %v", st.Generation, st.Cause)
	}
}

// stompDurable: a durable subscription to a topic keeps what came while no client was there.
func stompDurable(t *testing.T, broker *peer) {
	o := rabbit()
	o.Subscribe = func(string) stomp.Subscription {
		return stomp.Subscription{Header: map[string]string{"durable": "true", "auto-delete": "false", "x-queue-name": "keeper"}}
	}
	c, ctx := stompClient(t, broker.URL, stomp.New(o), limpet.Options{})
	s := stompSubscribe(t, ctx, c, "/topic/prices.eur", nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-c.Done()
	c, ctx = stompClient(t, broker.URL, stomp.New(o), limpet.Options{})
	if _, err := c.Send(ctx, "/topic/prices.eur", []byte("meanwhile"), nil); err != nil {
		t.Fatal(err)
	}
	s = stompSubscribe(t, ctx, c, "/topic/prices.eur", nil)
	if got := take(t, ctx, s, 1, acknowledge); got != "meanwhile" {
		t.Errorf("%q", got)
	}
}

// brokerRecorder is a dialect that writes down what passes through it.
type brokerRecorder struct {
	wire.Dialect
	mu    sync.Mutex
	lines []string
}

func (r *brokerRecorder) Open(w wire.Resume) (wire.Codec, error) {
	c, err := r.Dialect.Open(w)
	r.note("open %d", w.Heartbeat.Milliseconds())
	return &recording{c, r}, err
}

func (r *brokerRecorder) note(format string, args ...any) {
	r.mu.Lock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
	r.mu.Unlock()
}

func (r *brokerRecorder) write(t *testing.T) {
	file := os.Getenv("STOMP_RECORD")
	if file == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.WriteFile(file, []byte(strings.Join(r.lines, "\n")+"\n"), 0o644); err != nil {
		t.Error(err)
	}
}

type recording struct {
	wire.Codec
	r *brokerRecorder
}

func (c *recording) Start(out *wire.Frames) error {
	err := c.Codec.Start(out)
	c.sent(out, 0)
	return err
}

func (c *recording) sent(out *wire.Frames, from int) {
	for _, f := range out.List[from:] {
		c.r.note("> %d %q", f.Type, f.Data)
	}
}

func (c *recording) Encode(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		op, from := &ops[i], len(out.List)
		if err := c.Codec.Encode(ops[i:i+1], out); err != nil {
			return err
		}
		switch op.Kind {
		case wire.OpSubscribe:
			c.r.note("op subscribe %d %d %s", op.Key, op.Subscribe.Credit.N, op.Topic)
		case wire.OpPublish:
			c.r.note("op publish %d %s %x %q", op.Message.Seq, op.Message.Topic, op.Message.ID, op.Message.Payload)
		case wire.OpAck:
			c.r.note("op ack %d %s", op.Key, op.Position.Tag)
		case wire.OpStep:
			c.r.note("op step")
		default:
			c.r.note("op %d %d", op.Kind, op.Key)
		}
		c.sent(out, from)
	}
	return nil
}

func (c *recording) Decode(f wire.Frame, out *wire.Events) error {
	c.r.note("< %d %q", f.Type, f.Data)
	return c.Codec.Decode(f, out)
}
