package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/jsonrpc"
)

// recorder keeps what passes through the codecs of a dialect, in the form of
// wire/jsonrpc/testdata/ganache.txt.
type recorder struct {
	wire.Dialect
	mu    sync.Mutex
	lines []string
}

type recordingCodec struct {
	wire.Codec
	r *recorder
}

// longMembers are left out of a recording: a bloom filter of zeros, and stacks.
var longMembers = regexp.MustCompile(`"(logsBloom|stack)":"[^"\\]*(\\.[^"\\]*)*",?`)

func (r *recorder) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, longMembers.ReplaceAllString(fmt.Sprintf(format, args...), ""))
}

func (r *recorder) Open(resume wire.Resume) (wire.Codec, error) {
	r.add("open")
	c, err := r.Dialect.Open(resume)
	return recordingCodec{c, r}, err
}

func (c recordingCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	before := len(out.List)
	for _, op := range ops {
		switch op.Kind {
		case wire.OpSubscribe:
			c.r.add("subscribe %d %d %s %s", op.Key, op.Subscribe.Position.Offset, "-"+op.Subscribe.Position.Tag, op.Topic)
		case wire.OpUnsubscribe:
			c.r.add("unsubscribe %d %s", op.Key, op.Topic)
		case wire.OpPublish:
			c.r.add("publish %d %s %s", op.Message.Seq, op.Message.Topic, op.Message.Payload)
		}
	}
	err := c.Codec.Encode(ops, out)
	for _, f := range out.List[before:] {
		c.r.add("> %s", f.Data)
	}
	return err
}

func (c recordingCodec) Decode(f wire.Frame, out *wire.Events) error {
	c.r.add("< %s", f.Data)
	return c.Codec.Decode(f, out)
}

// node is a client of a Ganache server.
type node struct {
	t      *testing.T
	ctx    context.Context
	client *limpet.Client
}

func newNode(t *testing.T, ctx context.Context, url string, o limpet.Options) *node {
	t.Helper()
	if o.Dialect == nil {
		o.Dialect = jsonrpc.New(jsonrpc.Ethereum())
	}
	o.Backoff = limpet.Backoff{First: -1, Initial: 50 * time.Millisecond}
	client, err := limpet.New(url, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); <-client.Done() })
	return &node{t, ctx, client}
}

func (n *node) subscribe(topic string) *limpet.Subscription {
	n.t.Helper()
	s, err := n.client.Subscribe(n.ctx, topic, nil)
	if err == nil {
		err = s.WaitLive(n.ctx)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// call publishes a request and returns its result.
func (n *node) call(method, params string) string {
	n.t.Helper()
	ack, err := n.client.Send(n.ctx, method, []byte(params), nil)
	if err != nil {
		n.t.Fatalf("%s: %v", method, err)
	}
	return string(ack.Reply)
}

// take returns the next n messages of s: the numbers of blocks, and losses.
func (n *node) take(s *limpet.Subscription, count int) string {
	n.t.Helper()
	var got []string
	for m, err := range s.Messages(n.ctx) {
		if err != nil {
			n.t.Fatalf("after %q: %v", got, err)
		}
		if m.Loss != nil {
			got = append(got, fmt.Sprintf("%s:%s(%d,%d]", m.Kind, m.Loss.Cause, m.Loss.After.Offset, m.Loss.To.Offset))
		} else {
			got = append(got, fmt.Sprint(m.Position.Offset))
		}
		if len(got) == count {
			break
		}
	}
	return strings.Join(got, " ")
}

// TestJSONRPCGanache: subscriptions, requests with results, refusals, a reorganisation,
// and a lost connection whose hole is filled with eth_getBlockByNumber, against Ganache
// 7.9.2. With LIMPET_RECORD it writes what passed to that file.
func TestJSONRPCGanache(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := startPeer(t, "node", "servers/jsonrpc.mjs")
	l := newLink(t, p.Addr)
	rec := &recorder{Dialect: jsonrpc.New(jsonrpc.Ethereum())}
	n := newNode(t, ctx, l.URL, limpet.Options{Dialect: rec})
	other := newNode(t, ctx, p.URL, limpet.Options{}) // its connection is not cut
	heads := n.subscribe("newHeads")

	other.call("evm_mine", "[]")
	other.call("evm_mine", "[]")
	if got := n.take(heads, 2); got != "1 2" {
		t.Fatalf("received %s", got)
	}

	// A refusal ends one subscription or one message.
	refused, err := n.client.Subscribe(ctx, "nope", nil)
	if err != nil {
		t.Fatal(err)
	}
	var e *limpet.Error
	if err := refused.WaitLive(ctx); !errors.Is(err, limpet.ErrRejected) || !errors.As(err, &e) || e.Code != 32601 || !strings.Contains(e.Detail, `-32601: no \"nope\" subscription`) {
		t.Errorf("a subscription that does not exist: %v", err)
	}
	if ack, err := n.client.Send(ctx, "eth_nope", nil, nil); ack.Outcome != limpet.Rejected || !strings.Contains(err.Error(), "eth_nope does not exist") {
		t.Errorf("a method that does not exist: %v, %v", ack.Outcome, err)
	}
	if got := n.call("eth_blockNumber", ""); got != `"0x2"` {
		t.Errorf("eth_blockNumber: %s", got)
	}

	// A reorganisation: block 2 is made again.
	snapshot := n.call("evm_snapshot", "[]")
	n.call("evm_mine", `[{"blocks":1}]`)
	n.call("evm_revert", "["+snapshot+"]")
	n.call("evm_increaseTime", "[1000]")
	n.call("evm_mine", "[]")
	if got := n.take(heads, 3); got != "3 reset:diverged(3,2] 3" {
		t.Errorf("a reorganisation: %s", got)
	}

	// The hole of a lost connection has numbers.
	before := n.client.State().Generation
	l.Cut(true)
	for range 3 {
		other.call("evm_mine", "[]")
	}
	l.Cut(false)
	if _, err := n.client.WaitState(ctx, func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation > before }); err != nil {
		t.Fatal(err)
	}
	if err := heads.WaitLive(ctx); err != nil {
		t.Fatal(err)
	}
	other.call("evm_mine", "[]")
	if got := n.take(heads, 2); got != "gap:lost(3,6] 7" {
		t.Errorf("after a lost connection: %s", got)
	}
	for i := 4; i <= 6; i++ {
		var block struct{ Number string }
		if json.Unmarshal([]byte(n.call("eth_getBlockByNumber", fmt.Sprintf(`["0x%x",false]`, i))), &block) != nil || block.Number != fmt.Sprintf("0x%x", i) {
			t.Errorf("block %d: %+v", i, block)
		}
	}

	// The end of a subscription reaches the server: the next one has only its own.
	heads.Close()
	again := n.subscribe("newHeads")
	other.call("evm_mine", "[]")
	if got := n.take(again, 1); got != "8" {
		t.Errorf("subscribed again: %s", got)
	}
	if st := n.client.Stats(); st.Malformed != 0 || st.Unrequested != 0 {
		t.Errorf("%d malformed, %d unrequested", st.Malformed, st.Unrequested)
	}
	if l.Made() < 2 {
		t.Errorf("the link was cut without effect: %d connections", l.Made())
	}
	if file := os.Getenv("LIMPET_RECORD"); file != "" {
		if err := os.WriteFile(file, []byte(strings.Join(rec.lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestJSONRPCGanacheFaults: requests in arrays, a request that is cut off in the middle,
// and a server that is killed and started again, against Ganache 7.9.2.
func TestJSONRPCGanacheFaults(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := startPeer(t, "node", "servers/jsonrpc.mjs")
	l := newLink(t, p.Addr)
	o := jsonrpc.Ethereum()
	o.Batch, o.Ping = 10, "net_version"
	rec := &recorder{Dialect: jsonrpc.New(o)}
	n := newNode(t, ctx, l.URL, limpet.Options{Dialect: rec, Heartbeat: limpet.Heartbeat{Interval: time.Second}})
	heads := n.subscribe("newHeads")

	receipts, err := n.client.PublishBatch(ctx, []limpet.Outgoing{{Topic: "eth_blockNumber"}, {Topic: "eth_blockNumber", Payload: []byte("[]")}, {Topic: "eth_blockNumber"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		if ack, err := r.Wait(ctx); err != nil || string(ack.Reply) != `"0x0"` {
			t.Errorf("in an array: %v, %v, %s", ack.Outcome, err, ack.Reply)
		}
	}
	rec.mu.Lock()
	lines := strings.Join(rec.lines, "\n")
	rec.mu.Unlock()
	if !strings.Contains(lines, `> [{"jsonrpc":"2.0"`) || !strings.Contains(lines, `< [{"id":`) {
		t.Errorf("no array passed:\n%s", lines)
	}

	long, err := n.client.Publish(ctx, "evm_mine", []byte(`[{"blocks":3000}]`), nil)
	if err != nil {
		t.Fatal(err)
	}
	// Two: within one second, the first block of the server that begins again is the same
	// block, with the same hash, and then nothing is new.
	if got := n.take(heads, 2); got != "1 2" || long.Outcome() != limpet.Pending {
		t.Fatalf("%s, %v", got, long.Outcome())
	}
	l.Cut(true)
	if _, err := long.Wait(ctx); !errors.Is(err, limpet.ErrOutcomeUnknown) {
		t.Errorf("cut off in the middle: %v", err)
	}

	p.Kill()
	port := p.Addr[strings.LastIndex(p.Addr, ":")+1:]
	startPeer(t, "node", "servers/jsonrpc.mjs", port)
	before := n.client.State().Generation
	l.Cut(false)
	if _, err := n.client.WaitState(ctx, func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation > before }); err != nil {
		t.Fatal(err)
	}
	if err := heads.WaitLive(ctx); err != nil {
		t.Fatal(err)
	}
	n.call("evm_mine", "[]")
	for m, err := range heads.Messages(ctx) { // after what had arrived before the cut
		if err != nil {
			t.Fatal(err)
		}
		if m.Loss != nil {
			if m.Kind != limpet.Reset || m.Loss.To.Offset != 0 {
				t.Errorf("a server that begins again: %v %+v", m.Kind, m.Loss)
			}
			break
		}
	}
	if got := n.take(heads, 1); got != "1" {
		t.Errorf("then %s", got)
	}
	if st := n.client.Stats(); st.Malformed != 0 {
		t.Errorf("%d malformed", st.Malformed)
	}
}
