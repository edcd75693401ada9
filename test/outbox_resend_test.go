package test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

// resendRow is a kind of server, and what becomes of a message that it has not answered when the
// connection is lost or the process has crashed, for Exact, AtLeastOnce and Never: its outcome then, and
// how often it was sent in all. docs/guarantees.md has the same table.
type resendRow struct {
	name     string
	traits   wire.Traits
	resumed  bool // the second connection has the session of the first
	outcomes [3]limpet.Outcome
	sent     [3]int
}

var resendTable = []resendRow{
	{
		"a session that is resumed", wire.Traits{Sessions: true, Acks: true}, true,
		[3]limpet.Outcome{limpet.Pending, limpet.Pending, limpet.Unknown}, [3]int{2, 2, 1},
	},
	{
		"a new session, the server knows ids", wire.Traits{Sessions: true, Acks: true, Dedup: true}, false,
		[3]limpet.Outcome{limpet.Pending, limpet.Pending, limpet.Unknown}, [3]int{2, 2, 1},
	},
	{
		"a new session", wire.Traits{Sessions: true, Acks: true}, false,
		[3]limpet.Outcome{limpet.Unknown, limpet.Pending, limpet.Unknown}, [3]int{1, 2, 1},
	},
	{
		"no sessions", wire.Traits{Acks: true}, false,
		[3]limpet.Outcome{limpet.Unknown, limpet.Pending, limpet.Unknown}, [3]int{1, 2, 1},
	},
}

// What Resend promises holds for each kind of server, after a lost connection and after a crash.
func TestResendTable(t *testing.T) {
	for _, row := range resendTable {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, crash %v", row.name, crash), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testResend(t, row, crash) })
			})
		}
	}
}

func testResend(t *testing.T, row resendRow, crash bool) {
	row.traits.Publish, row.traits.Greeting = true, true
	ready := wire.Ready{Ack: wire.Ack{HasCredit: true, Credit: wire.Credit{N: 100, Bytes: 1 << 20}}}
	if row.traits.Sessions {
		ready.Session = wire.Session{ID: "s1", Key: []byte("k1")}
	}
	second := ready
	if second.Resumed = row.resumed; !row.resumed && row.traits.Sessions {
		second.Session.ID = "s2"
	}
	srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
		hear()
		if conn == 1 {
			say(eventText(readyEvent(ready)))
		} else {
			say(eventText(readyEvent(second)))
		}
	})
	store := newFaultyStore()
	o := limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: flexDialect{traits: row.traits}}
	if crash {
		o.Outbox = store
	}
	c, err := limpet.New(srv.host.URL(), options(&o))
	assert.NoError(t, err)
	defer func() { closeAndWait(t, c) }()
	assert.NoError(t, c.WaitReady(context.Background()))
	var receipts []*limpet.Receipt
	for resend := range limpet.Never + 1 {
		r, err := c.Publish(context.Background(), "a", fmt.Appendf(nil, "m%d", resend), &limpet.PublishOptions{Resend: resend})
		assert.NoError(t, err)
		receipts = append(receipts, r)
	}
	time.Sleep(time.Second)
	if crash {
		o.Outbox = store.crash(true)
		srv.host.Network.ResetAll()
		closeAndWait(t, c)
		c, err = limpet.New(srv.host.URL(), options(&o))
		assert.NoError(t, err)
		receipts = nil
		for r := range c.Receipts() {
			receipts = append(receipts, r)
		}
	} else {
		srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
	}
	time.Sleep(time.Minute)
	for i, r := range receipts {
		sent := strings.Count(srv.all(), fmt.Sprintf(" m%d", i))
		if r.Outcome() != row.outcomes[i] || sent != row.sent[i] {
			t.Errorf("Resend %d: %v, sent %d times; want %v, %d", i, r.Outcome(), sent, row.outcomes[i], row.sent[i])
		}
	}
	if len(receipts) != 3 {
		t.Errorf("%d messages are left; heard\n%s", len(receipts), srv.all())
	}
}

// What a wall clock says of messages that were kept counts, unless it was set back: then it is not known
// how old they are.
func TestOutboxAges(t *testing.T) {
	for name, row := range map[string]struct {
		added, sent time.Duration // before the start; 0: not sent
		ttl         time.Duration
		want        limpet.Outcome
	}{
		"not sent":                    {time.Hour, 0, 0, limpet.Acked},
		"sent lately":                 {time.Hour, time.Minute, 0, limpet.Acked},
		"sent before the horizon":     {3 * time.Hour, 2 * time.Hour, 0, limpet.Unknown},
		"sent in the future":          {time.Hour, -time.Minute, 0, limpet.Unknown},
		"expired":                     {time.Hour, 0, time.Minute, limpet.Expired},
		"alive":                       {time.Minute, 0, time.Hour, limpet.Acked},
		"published in the future":     {-time.Hour, 0, time.Minute, limpet.Acked},
		"published later than it was": {-time.Hour, time.Minute, 0, limpet.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				time.Sleep(24 * time.Hour) // the server knows all ids of this time
				store := outbox.Memory()
				m := outbox.Message{Seq: 1, ID: uuid.New(), Topic: "a", Payload: []byte("x"), Added: time.Now().Add(-row.added), TTL: row.ttl}
				if row.sent != 0 {
					m.Sent = time.Now().Add(-row.sent)
				}
				assert.NoError(t, store.Commit(context.Background(), &outbox.Change{Messages: []outbox.Message{m}}))
				c := start(t, srv, store, limpet.Options{})
				for r := range c.Receipts() {
					r.Wait(context.Background())
					if r.Outcome() != row.want {
						t.Errorf("outcome %v, want %v", r.Outcome(), row.want)
					}
				}
			})
		})
	}
}
