package feed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
)

// The limits of the ready tables, with sources in the README of the shapes. What
// is not known is zero.
func TestLimitsOfTheTables(t *testing.T) {
	day := 24 * time.Hour
	for _, test := range []struct {
		table Table
		want  wire.ConnectionLimits
	}{
		{Binance(), wire.ConnectionLimits{Messages: 5, Subscriptions: 1024, Age: day, Dials: 300, DialsPer: 5 * time.Minute}},
		{BinanceFutures(), wire.ConnectionLimits{Messages: 10, Subscriptions: 1024, Age: day}},
		{Coinbase(), wire.ConnectionLimits{Messages: 8, Burst: 20}},
		{OKX(), wire.ConnectionLimits{Messages: 480, Per: time.Hour, Dials: 3, DialsPer: time.Second}},
		{Kraken(), wire.ConnectionLimits{Dials: 150, DialsPer: 10 * time.Minute}},
		{Bybit(), wire.ConnectionLimits{Dials: 500, DialsPer: 5 * time.Minute}},
		{Bitstamp(), wire.ConnectionLimits{}},
	} {
		d, err := New(test.table)
		assert.NoError(t, err)
		traits := d.Traits()
		assert.Equal(t, traits.Connection, test.want)
		if test.want.Messages > 0 && traits.StartSubs != 0 {
			t.Errorf("%s: the first requests leave all at once", test.table.Name)
		}
	}
	assert.Equal(t, Bybit().Subscribe.Max, 10)
}

// A limit that means nothing is refused by its name.
func TestLimitsAreChecked(t *testing.T) {
	table := Kraken()
	table.Limits.Messages = -1
	_, err := New(table)
	assert.Equal(t, assert.ErrorAs[*TableError](t, err).Field, "Limits.Messages")
	f := Funcs{Name: "x", Read: func([]byte, func(Item)) error { return nil }, Subscribe: func(Ask) ([]byte, error) { return nil, nil }}
	f.Limits.Age = 24
	_, err = NewFuncs(f)
	assert.Equal(t, assert.ErrorAs[*FuncsError](t, err).Field, "Limits.Age")
	f.Limits = wire.ConnectionLimits{Messages: 3, Subscriptions: 4}
	d, err := NewFuncs(f)
	assert.NoError(t, err)
	assert.Equal(t, d.Traits().Connection, f.Limits)
}

// CountFrames counts what Encode makes, for any operations of any table.
func TestCountFrames(t *testing.T) {
	tables := []Table{Binance(), Coinbase(), Kraken(), OKX(), Bybit(), Bitstamp()}
	channels := [][]string{
		{"trade", "kline_1m", "depth@100ms"}, {"matches", "level2", "ticker"}, {"trade", "book", "ohlc-5"},
		{"trades", "books", "candle1m"}, {"orderbook.50", "publicTrade"}, {"live_trades", "order_book"},
	}
	for i, table := range tables {
		table.Subscribe.Max, table.Unsubscribe.Max = 7, 5
		d, err := New(table)
		assert.NoError(t, err)
		for seed := range uint64(200) {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			k, err := d.Open(wire.Resume{Conn: 1})
			assert.NoError(t, err)
			var ops []wire.Op
			for key := range uint64(r.IntN(60)) {
				topic := fmt.Sprintf("%s/P%d", channels[i][r.IntN(len(channels[i]))], r.IntN(30))
				op := wire.Op{Kind: wire.OpSubscribe, Key: key, Topic: topic, Subscribe: &wire.Subscribe{Key: key, Topic: topic}}
				switch r.IntN(12) {
				case 0:
					op = wire.Op{Kind: wire.OpPing}
				case 1, 2, 3:
					op = wire.Op{Kind: wire.OpUnsubscribe, Name: topic, Topic: topic}
				}
				if op.Kind != wire.OpPing || table.PingText != "" {
					ops = append(ops, op)
				}
			}
			counted := k.(wire.Packer).CountFrames(ops)
			var out wire.Frames
			assert.NoError(t, k.Encode(ops, &out))
			if counted != len(out.List) {
				t.Fatalf("%s, seed %d: %d frames counted, %d made", table.Name, seed, counted, len(out.List))
			}
		}
	}
}

// What Encode asks for has the position of earlier connections, as what Start asks for has:
// a book that begins again is a Reset, and a number that goes back is one.
func TestPositionsOfRequests(t *testing.T) {
	for _, atStart := range []bool{false, true} {
		d, err := New(OKX())
		assert.NoError(t, err)
		sub := wire.Subscribe{Key: 1, Topic: "books/BTC-USDT", Position: wire.Position{Offset: 40}}
		resume := wire.Resume{Conn: 2}
		if atStart {
			resume.Subs = []wire.Subscribe{sub}
		}
		k, err := d.Open(resume)
		assert.NoError(t, err)
		var out wire.Frames
		if err = k.Start(&out); !atStart {
			err = errors.Join(err, k.Encode([]wire.Op{{Kind: wire.OpSubscribe, Key: 1, Topic: sub.Topic, Subscribe: &sub}}, &out))
		}
		assert.NoError(t, err)
		assert.Equal(t, len(out.List), 1)
		var events wire.Events
		snapshot := `{"arg":{"channel":"books","instId":"BTC-USDT"},"action":"snapshot","data":[{"seqId":90,"prevSeqId":-1}]}`
		assert.NoError(t, k.Decode(wire.Frame{Type: wire.Text, Data: []byte(snapshot)}, &events))
		if len(events.List) != 2 || events.List[0].Kind != wire.EventReset || events.List[0].Cause != wire.CauseUnverifiable {
			t.Errorf("at the start=%v: %+v", atStart, events.List)
		}
	}
}
