package jetstream_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/server"
)

// plainMsg returns a message with headers: their names and values in turn.
func plainMsg(subject, payload string, headers ...string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = []byte(payload)
	for i := 0; i < len(headers); i += 2 {
		m.Header.Add(headers[i], headers[i+1])
	}
	return m
}

// ask publishes a message and returns its sequence, and whether the stream had it before.
func ask(t *testing.T, c *nats.Conn, m *nats.Msg) (seq uint64, duplicate bool) {
	t.Helper()
	r, err := c.RequestMsg(m, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var ack struct {
		Seq       uint64
		Duplicate bool
		Error     any
	}
	if err := json.Unmarshal(r.Data, &ack); err != nil || ack.Error != nil {
		t.Fatalf("%v, %s", err, r.Data)
	}
	return ack.Seq, ack.Duplicate
}

// raw publishes a message whose header is any bytes.
func raw(t *testing.T, url, subject, header, payload string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := fmt.Sprintf("CONNECT {\"verbose\":false,\"headers\":true}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n", subject, len(header), len(header)+len(payload), header, payload)
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	all, buf := "", make([]byte, 4096)
	for !strings.Contains(all, "PONG") {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, all)
		}
		all += string(buf[:n])
	}
	if strings.Contains(all, "-ERR") {
		t.Fatal(all)
	}
}

// A plain message is the same entry at each store, whether it comes from the consumer, from a read of older messages or from the leader.
func TestPlainEntries(t *testing.T) {
	p := single(t)
	o := &jetstream.Options{Log: "plain", Memory: true, RingBytes: 64 << 10}
	a, conn := open(t, p.url, o), connect(t, p.url)
	const id = "0197a3f0-5d5e-7c3b-9c53-6f2d7a1b2c3d"
	hash := sha256.Sum256([]byte("limpet Nats-Msg-Id order-17"))
	many := []string{"Content-Type", "text/plain"}
	for i := range 32 {
		many = append(many, fmt.Sprint("H", i), "v")
	}
	var want []server.Entry
	publish := func(e server.Entry, m *nats.Msg) {
		t.Helper()
		e.Offset, _ = ask(t, conn, m)
		e.Payload = m.Data
		want = append(want, e)
	}
	publish(server.Entry{Topic: "orders/eu", ID: [16]byte(uuid.MustParse(id)), Type: "text/plain", Header: map[string]string{"A": "1", "b": "2, 3"}, TTL: time.Hour},
		plainMsg("plain.m.@in.orders.eu", "one", "Nats-Msg-Id", id, "Content-Type", "text/plain", "A", "1", "b", "2", "b", "3", "Limpet-TTL", "1h"))
	publish(server.Entry{Topic: "a.b/c d/%*>/ä/in", ID: [16]byte(hash[:16])}, plainMsg("plain.m.@in.a%2Eb.c%20d.%25%2a%3E.ä.in", "two", "Nats-Msg-Id", "order-17"))
	publish(server.Entry{Topic: "@in/x"}, plainMsg("plain.m.@in.@in.x", ""))
	headers := maps.Clone(map[string]string{})
	for i := range 32 {
		headers[fmt.Sprint("H", i)] = "v"
	}
	publish(server.Entry{Topic: "many", Type: "text/plain", Header: headers}, plainMsg("plain.m.@in.many", "", many...))
	// Whatever the servers themselves say in headers, a publisher can say as well.
	publish(server.Entry{Topic: "t", Header: map[string]string{"Status": "503"}}, plainMsg("plain.m.@in.t", "", "Status", "503"))
	publish(server.Entry{Topic: "t", Header: map[string]string{"Status": "100"}}, plainMsg("plain.m.@in.t", "", "Status", "100", "Nats-Last-Consumer", "77"))
	publish(server.Entry{Topic: "t"}, plainMsg("plain.m.@in.t", "", "Nats-Sequence", "1", "Nats-Subject", "plain.m.@in.u"))
	publish(server.Entry{Topic: "t"}, plainMsg("plain.m.@in.t", "", "Nats-Sequence", "4", "Nats-Subject", "plain.m.x", "Nats-Stream", "other", "Nats-Time-Stamp", "x",
		"Limpet-Entry", "AAAAAA", "Limpet-Nonce", "n"))
	for _, header := range []string{"NATS/1.0\r\n\r\n", "NATS/1.0\r\nA\r\n\r\n", "NATS/1.0\r\nA: b\r\n", "NATS/1.0\r\n", "NATS/1.0\r\nA: b", "NATS/1.0 404\r\n\r\n"} {
		e := server.Entry{Topic: "raw", Payload: []byte(header)}
		raw(t, p.url, "plain.m.@in.raw", header, header)
		if err := a.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.Offset = a.View().Head
		want = append(want, e)
	}
	check := func(s *jetstream.Store) (got []*server.Entry) {
		t.Helper()
		got = readAll(t, s)[:len(want)]
		ids := map[[16]byte]bool{}
		for i, e := range got {
			w := want[i]
			if w.ID == ([16]byte{}) {
				w.ID = e.ID
			}
			w.Time = e.Time
			if len(w.Payload) == 0 {
				w.Payload = e.Payload
			}
			if !reflect.DeepEqual(*e, w) || len(e.Payload) != len(w.Payload) || e.ID == ([16]byte{}) || ids[e.ID] {
				t.Errorf("message %d is\n%+v, want\n%+v", i, *e, w)
			}
			ids[e.ID] = true
			if tag, held, err := s.Tag(t.Context(), e.Offset); err != nil || !held || [16]byte(tag) != e.ID {
				t.Errorf("tag of %d: %x, %v, %v, want %x", e.Offset, tag, held, err, e.ID)
			}
		}
		return got
	}
	tailed := check(a)
	if st := a.Stats(); st.Plain != uint64(len(want)) || st.Reads != 0 || st.Refused+st.Foreign+st.Holes != 0 {
		t.Errorf("%+v", st)
	}
	fill(t, a, 0, 100) // these leave no room for the others in memory
	for name, s := range map[string]*jetstream.Store{"the same": a, "one that is opened later": open(t, p.url, o)} {
		for _, e := range tailed { // asked from the leader
			if tag, held, err := s.Tag(t.Context(), e.Offset); err != nil || !held || [16]byte(tag) != e.ID {
				t.Errorf("%s: tag of %d: %x, %v, %v, want %x", name, e.Offset, tag, held, err, e.ID)
			}
		}
		if got := check(s); s.Stats().Reads == 0 || !slices.EqualFunc(got, tailed, func(a, b *server.Entry) bool { return a.ID == b.ID && a.Time.Equal(b.Time) }) {
			t.Errorf("%s: after %d reads other entries", name, s.Stats().Reads)
		}
	}
}

// What cannot be an entry is left out and counted. Nothing stands still: not a read of older messages, not a new store, not a subscriber.
func TestPlainRefused(t *testing.T) {
	p := single(t)
	o := &jetstream.Options{Log: "bad", Memory: true, RingBytes: 64 << 10, MaxPayload: 100}
	a, conn := open(t, p.url, o), connect(t, p.url)
	first, _ := ask(t, conn, plainMsg("bad.m.@in.t", strings.Repeat("x", 100)))
	tooMany := []string{}
	for i := range 33 {
		tooMany = append(tooMany, fmt.Sprint("H", i), "v")
	}
	refused := uint64(0)
	for _, x := range []struct {
		m    *nats.Msg
		want string
	}{
		{plainMsg("bad.m.@in.t", strings.Repeat("x", 101)), "101 bytes; publish at most Options.MaxPayload, 100"},
		{plainMsg("bad.m.@in.t.%", ""), "must not be empty"},
		{plainMsg("bad.m.@in.t.%4", ""), "two hexadecimal digits"},
		{plainMsg("bad.m.@in.t.%xx", ""), "two hexadecimal digits"},
		{plainMsg("bad.m.@in.t.%2A", ""), "a wildcard is only for subscriptions"},
		{plainMsg("bad.m.@in.%FF", ""), "UTF-8"},
		{plainMsg("bad.m.@in."+strings.Repeat("x", 256), ""), "256 bytes"},
		{plainMsg("bad.m.@in.t", "", tooMany...), "33 headers"},
		{plainMsg("bad.m.@in.t", "", "H", strings.Repeat("x", 8<<10)), "at most 32 with 8192"},
		{plainMsg("bad.m.@in.t", "", "H", "\xff"), "not UTF-8"},
		{plainMsg("bad.m.@in.t", "", "Limpet-TTL", "soon"), "Limpet-TTL is not a duration"},
		{plainMsg("bad.m.@in.t", "", "Limpet-TTL", "-1s"), "Limpet-TTL is not a duration"},
	} {
		seq, _ := ask(t, conn, x.m)
		if err := a.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		refused++
		err := a.LastRefused()
		if err == nil || a.Stats().Refused != refused || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), fmt.Sprint("sequence ", seq, ":")) {
			t.Errorf("%s: %d refused, %v, want %q", x.m.Subject, a.Stats().Refused, err, x.want)
		}
		if head := a.View().Head; head != first {
			t.Errorf("head %d, want %d", head, first)
		}
	}
	if _, err := conn.Request("bad.m.x", nil, 5*time.Second); err != nil { // not of a store, and not where a publisher may
		t.Fatal(err)
	}
	const count = 20_500 // more than a new store's tail and many reads
	for range count {
		if err := conn.Publish("bad.m.@in.%", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	last, _ := ask(t, conn, plainMsg("bad.m.@in.%", ""))
	for name, s := range map[string]*jetstream.Store{"the same": a, "a new one": open(t, p.url, o)} {
		if all := readAll(t, s); len(all) != 1 || all[0].Offset != first || s.View().Head != first || s.Health() != nil {
			t.Errorf("%s: %d messages, view %+v, health %v", name, len(all), s.View(), s.Health())
		}
	}
	if n := a.Stats().Refused; n != refused+count+1 || a.Stats().Foreign != 1 {
		t.Errorf("%d refused, want %d; %d foreign", n, refused+count+1, a.Stats().Foreign)
	}
	fill(t, a, 0, 100)
	for name, s := range map[string]*jetstream.Store{"the same": a, "a new one": open(t, p.url, o)} {
		buf := make([]*server.Entry, 10)
		n, _, err := s.Read(t.Context(), first+1, buf) // over all of them
		if err != nil || n == 0 || buf[0].Offset != last+1 {
			t.Errorf("%s: %d messages, %v", name, n, err)
		}
		if all := readAll(t, s); len(all) != 101 {
			t.Errorf("%s: %d messages", name, len(all))
		}
	}
}

// A Nats-Msg-Id that the stores use makes no message of a client known: the client does not hear that its message is in the log.
func TestPlainPublisherWithAnIDOfTheStores(t *testing.T) {
	_, urls := cluster(t)
	s := open(t, urls, &jetstream.Options{Log: "forged"})
	who, id := sha256.Sum256([]byte("who")), messageID(1, 1)
	ask(t, connect(t, urls), plainMsg("forged.m.@in.t", "x", "Nats-Msg-Id", fmt.Sprintf("%x:%x", who[:8], id[:])))
	c := &server.Change{Session: "s", Record: []byte("r"), TTL: time.Hour, Who: "who", Keep: time.Hour, Entries: entriesOf(1, 1)}
	if done, err := s.Commit(t.Context(), c); err == nil || !strings.Contains(err.Error(), "was not written by a store") {
		t.Errorf("%+v, %v", done, err)
	}
	c.Entries = entriesOf(2, 1)
	if _, err := s.Commit(t.Context(), c); err != nil {
		t.Error(err)
	}
}

// Backends publish with NATS, by core publish and with an id, while clients are subscribed at two gateways. One gateway ends and another
// takes its place; its clients resume, and so does one that has only its position. Each message comes once and in order, and what is refused
// between them is no gap.
func TestPlainPublishers(t *testing.T) {
	p := single(t)
	o := &jetstream.Options{Log: "backend", Memory: true}
	start := func() (url string, end func()) {
		s := open(t, p.url, o)
		srv, err := server.New(&server.Options{Store: s})
		if err != nil {
			t.Fatal(err)
		}
		web := httptest.NewServer(srv)
		end = func() { srv.Close(); web.Close(); _ = s.Close() }
		t.Cleanup(end)
		return "ws" + strings.TrimPrefix(web.URL, "http"), end
	}
	a, endA := start()
	b, _ := start()
	c, _ := start()
	conn := connect(t, p.url)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const count = 600
	type result struct {
		name  string
		got   []string
		place limpet.Position // before the last messages
	}
	results := make(chan result, 3)
	for name, urls := range map[string][2]string{"moves from the one that ends": {a, b}, "stays": {b, c}, "moves, with a wildcard": {a, b}} {
		pattern := map[bool]string{true: "orders/*", false: "orders/eu"}[strings.Contains(name, "wildcard")]
		s, err := dial(t, urls[0], urls[1]).Subscribe(ctx, pattern, &limpet.SubscribeOptions{From: limpet.FromFirst})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			var got []string
			var place limpet.Position
			for m, err := range s.Messages(ctx) {
				if err != nil || m.Kind != limpet.Data {
					got = append(got, fmt.Sprintf("%v %v", m.Kind, err))
					break
				}
				if got = append(got, string(m.Payload)+m.Header["H"]); string(m.Payload) == "last" {
					break
				}
				if string(m.Payload) == fmt.Sprint(count/2+2) { // what follows is refused
					place = m.Position
				}
			}
			results <- result{name, got, place}
		}()
	}
	want := []string{}
	for n := range count {
		text, id := fmt.Sprint(n), fmt.Sprint("id ", n)
		switch n % 4 {
		case 0:
			if err := conn.Publish("backend.m.@in.orders.eu", []byte(text)); err != nil {
				t.Fatal(err)
			}
		case 1:
			ask(t, conn, plainMsg("backend.m.@in.orders.eu", text, "Nats-Msg-Id", id, "H", "h"))
			if _, duplicate := ask(t, conn, plainMsg("backend.m.@in.orders.eu", text, "Nats-Msg-Id", id, "H", "h")); !duplicate {
				t.Errorf("message %d was taken twice", n)
			}
			text += "h"
		case 2:
			ask(t, conn, plainMsg("backend.m.@in.orders.eu", text, "Nats-Msg-Id", uuid.NewString()))
		default:
			ask(t, conn, plainMsg("backend.m.@in.%", text))
			text = ""
		}
		if text != "" {
			want = append(want, text)
		}
		if n == count/3 {
			endA()
		}
	}
	ask(t, conn, plainMsg("backend.m.@in.orders.eu", "last"))
	want = append(want, "last")
	d, _ := start() // knows nothing but the stream
	for range 3 {
		r := <-results
		if !slices.Equal(r.got, want) {
			t.Errorf("%s: %d messages, want %d: %q", r.name, len(r.got), len(want), r.got)
			continue
		}
		s, err := dial(t, d).Subscribe(ctx, "orders/*", &limpet.SubscribeOptions{From: limpet.FromResume, Position: r.place})
		if err != nil {
			t.Fatal(err)
		}
		rest := want[slices.Index(want, fmt.Sprint(count/2+2))+1:]
		for m, err := range s.Messages(ctx) {
			if err != nil || m.Kind != limpet.Data || string(m.Payload)+m.Header["H"] != rest[0] {
				t.Fatalf("%s: %v %q after the position, want %q: %v", r.name, m.Kind, m.Payload, rest[0], err)
			}
			if rest = rest[1:]; len(rest) == 0 {
				break
			}
		}
	}
}
