package jetstream_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/server"
)

// fill commits messages of 1 KiB, with a record after every tenth.
func fill(t *testing.T, s *jetstream.Store, from, to uint64) {
	t.Helper()
	for n := from; n < to; n += 10 {
		c := &server.Change{Session: fmt.Sprint("s", n), Record: []byte("r"), TTL: time.Hour, Keep: time.Hour}
		for i := range uint64(10) {
			c.Entries = append(c.Entries, server.Entry{ID: messageID(1, n+i), Topic: "t", Payload: make([]byte, 1<<10)})
		}
		if _, err := s.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

// Messages that are not in memory are read whole and in order, and those who read the same at the same time share the reads.
func TestOlderMessages(t *testing.T) {
	p := single(t)
	o := &jetstream.Options{Log: "older", Memory: true}
	writer := open(t, p.url, o)
	const count = 1900
	fill(t, writer, 0, count)
	small := *o
	small.RingBytes = 2 << 20 // about 1,600 messages; the older ones fit into a quarter of it
	s := open(t, p.url, &small)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			held := readAll(t, s)
			for i, e := range held {
				if e.ID != messageID(1, uint64(i)) {
					t.Errorf("message %d is %x", i, e.ID)
					return
				}
			}
			if len(held) != count {
				t.Errorf("%d messages, want %d", len(held), count)
			}
		})
	}
	all.Wait()
	st := s.Stats()
	t.Logf("%d reads, %d answered from memory", st.Reads, st.Hits)
	if st.Reads == 0 || st.Reads > 24 { // one takes two, and eight may begin at the same time
		t.Errorf("%d reads of the stream", st.Reads)
	}
	for _, n := range []int{0, 10, 100} { // before the ring: the tag comes from the stream
		offset := uint64(n + n/10 + 1)
		if tag, held, err := s.Tag(t.Context(), offset); err != nil || !held || [16]byte(tag) != messageID(1, uint64(n)) {
			t.Errorf("tag of %d: %x, %v, %v", offset, tag, held, err)
		}
	}
	if _, held, err := s.Tag(t.Context(), 11); held || err != nil { // a record
		t.Errorf("tag of a record: %v, %v", held, err)
	}
}

// Many Syncs at the same time are few questions.
func TestSyncsShareOne(t *testing.T) {
	s := open(t, single(t).url, &jetstream.Options{Log: "syncs", Memory: true})
	before := s.Stats()
	var all sync.WaitGroup
	const count = 500
	for range count {
		all.Go(func() {
			if err := s.Sync(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	now := s.Stats()
	if syncs, flights := now.Syncs-before.Syncs, now.Flights-before.Flights; syncs != count || flights == 0 || flights > count/4 {
		t.Errorf("%d Syncs were %d questions", syncs, flights)
	}
}

// A consumer that is lost is replaced, and nothing is missing.
func TestLostConsumer(t *testing.T) {
	p := single(t)
	o := &jetstream.Options{Log: "consumer", Memory: true}
	s, writer := open(t, p.url, o), open(t, p.url, o)
	c := connect(t, p.url)
	fill(t, writer, 0, 100)
	for round := range uint64(3) {
		var names struct{ Consumers []string }
		m, err := c.Request("$JS.API.CONSUMER.NAMES."+o.Log, nil, 5*time.Second)
		if err != nil || json.Unmarshal(m.Data, &names) != nil || len(names.Consumers) == 0 {
			t.Fatalf("%v, %s", err, m.Data)
		}
		for _, name := range names.Consumers {
			if _, err := c.Request("$JS.API.CONSUMER.DELETE."+o.Log+"."+name, nil, 5*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, writer, 100+100*round, 200+100*round)
		if n := len(readAll(t, s)); n != int(200+100*round) {
			t.Fatalf("%d messages after Sync", n)
		}
	}
	if n := s.Stats().Tails; n < 3 {
		t.Errorf("%d consumers have ended: the test has tried nothing", n)
	}
}

// The rights that docs/engines.md lists are enough.
func TestRights(t *testing.T) {
	p := newProcess(t, "rights", freePorts(t, 1)[0], `jetstream { store_dir: "FILES", max_mem: 64MB }
authorization { users = [ { user: node, password: secret, permissions: {
	publish: [
		"$JS.API.INFO", "$JS.API.STREAM.INFO.limpet", "$JS.API.STREAM.CREATE.limpet", "$JS.API.STREAM.UPDATE.limpet",
		"$JS.API.STREAM.MSG.GET.limpet", "$JS.API.DIRECT.GET.limpet", "$JS.API.CONSUMER.CREATE.limpet.>",
		"$JS.API.CONSUMER.DELETE.limpet.>", "$JS.FC.limpet.>", "limpet.>"
	]
	subscribe: [ "_INBOX.>" ]
} } ] }`).start()
	o := &jetstream.Options{Memory: true, RingBytes: 64 << 10, Timeout: 5 * time.Second, NATS: []nats.Option{nats.UserInfo("node", "secret")}}
	s := open(t, p.url, o)
	fill(t, s, 0, 2000)
	if n := len(readAll(t, s)); n != 2000 {
		t.Errorf("%d messages", n)
	}
	if st := s.Stats(); st.Reads == 0 || s.Health() != nil {
		t.Errorf("%+v, %v", st, s.Health())
	}
}
