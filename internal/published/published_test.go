package published

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// What an acknowledgement accepts was sent; what else it names counts only on demand.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		ack  wire.Ack
		all  bool
		good bool
	}{
		{wire.Ack{To: 8, Ranges: []wire.Range{{Lo: 7, Hi: 8}, {Lo: 5, Hi: 5}}}, true, true},
		{wire.Ack{To: 9}, false, false},
		{wire.Ack{Ranges: []wire.Range{{Lo: 7, Hi: 9}, {Lo: 5, Hi: 5}}}, false, false},
		{wire.Ack{Ranges: []wire.Range{{Lo: 8, Hi: 7}}}, false, false},
		{wire.Ack{Rejects: []wire.Reject{{Seq: 9}}}, true, false},
		{wire.Ack{Rejects: []wire.Reject{{Seq: 9}}}, false, true},
		{wire.Ack{Duplicates: []wire.Range{{Lo: 2, Hi: 9}}}, true, false},
		{wire.Ack{Duplicates: []wire.Range{{Lo: 2, Hi: 9}}}, false, true},
	} {
		err := Check(&c.ack, c.all, 8)
		if coded := (*wire.CodeError)(nil); c.good != (err == nil) || err != nil && (!errors.As(err, &coded) || coded.Code != 4000) {
			t.Errorf("%+v, all %v: %v", c.ack, c.all, err)
		}
	}
}

// Messages come in the order of their times, and those of one time in the order in which they were added.
func TestAgain(t *testing.T) {
	var x Again
	origin := time.Now()
	for i, seconds := range []int{5, 2, 3, 5, 2} {
		x.Add(uint64(i), origin.Add(time.Duration(seconds)*time.Second))
	}
	var got []uint64
	for now := origin.Add(2 * time.Second); !x.Next().IsZero(); now = x.Next() {
		if _, ok := x.Take(now.Add(-1)); ok {
			t.Error("taken before its time")
		}
		for seq, ok := x.Take(now); ok; seq, ok = x.Take(now) {
			got = append(got, seq)
		}
	}
	if !slices.Equal(got, []uint64{1, 4, 2, 0, 3}) {
		t.Errorf("%d", got)
	}
}
