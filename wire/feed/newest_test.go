package feed

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// tape is a feed of trades whose lists begin with the newest one.
func tape() Table {
	return Table{
		Name: "tape", Type: "type", Product: "trades[].s", Entries: "trades", Channel: "c",
		Subscribe: Request{JSON: `{"c":"$channel","s":"$product"}`},
		Channels:  []Channel{{Name: "trades", Number: "trades[].n", Snapshots: []string{"snapshot"}, NewestFirst: true}},
	}
}

// A list that begins with the newest message is delivered from its end, and what follows goes
// on from the newest number.
func TestNewestFirst(t *testing.T) {
	c := open(t, mustNew(t, tape()))
	expect(t, c, `{"type":"snapshot","c":"trades","trades":[{"s":"A","n":9}, {"s":"B","n":3} ,{"s":"A","n":8},{"s":"A","n":7}]}`,
		`data trades/A (6,7] snapshot {"s":"A","n":7}`, `data trades/A (7,8] snapshot {"s":"A","n":8}`,
		`data trades/B (2,3] snapshot {"s":"B","n":3}`, `data trades/A (8,9] snapshot snapshot {"s":"A","n":9}`)
	expect(t, c, `{"type":"new","c":"trades","trades":[{"s":"A","n":10}]}`, `data trades/A (9,10] new {"s":"A","n":10}`)
	expect(t, c, `{"type":"new","c":"trades","trades":[]}`)
	// What follows the list is read.
	expect(t, c, `{"type":"new","trades":[{"s":"A","n":12},{"s":"A","n":11}],"c":"trades"}`,
		`data trades/A (10,11] new {"s":"A","n":11}`, `data trades/A (11,12] new {"s":"A","n":12}`)
	// An entry that cannot be read holds up no other.
	expect(t, c, `{"type":"new","c":"trades","trades":[{"s":"A","n":14},{"s":"A","n":-1}]}`,
		`malformed 1 member "trades[].n" is not a whole number below 2^64`, "gap trades/A malformed 1", `data trades/A (13,14] new {"s":"A","n":14}`)
	// After a reconnect the list repeats what was received, and no more: nothing is a restart.
	c = resume(t, tape(), "trades/A", 7)
	expect(t, c, `{"type":"snapshot","c":"trades","trades":[{"s":"A","n":8},{"s":"A","n":7}]}`,
		`data trades/A (6,7] snapshot {"s":"A","n":7}`, `data trades/A (7,8] snapshot snapshot {"s":"A","n":8}`)
	// Of too many the oldest are skipped.
	var list strings.Builder
	for n := maxEntries + 5; n > 1; n-- {
		fmt.Fprintf(&list, `{"s":"A","n":%d},`, n)
	}
	got, err := decode(open(t, mustNew(t, tape())), `{"type":"snapshot","c":"trades","trades":[`+list.String()+`{"s":"A","n":1}]}`)
	lines := strings.Split(got, "\n")
	if err != nil || len(lines) != maxEntries+1 || !strings.HasPrefix(lines[0], "malformed 1 a message with more") ||
		lines[1] != `data trades/A (5,6] snapshot {"s":"A","n":6}` {
		t.Errorf("%v, %d events, first %q", err, len(lines), lines[:2])
	}
}

// An error may say when to ask again, in seconds or another unit.
func TestRetryOfAnError(t *testing.T) {
	table := exchange()
	table.Error.Retry = "again"
	for _, c := range []struct {
		again string
		unit  time.Duration
		want  time.Duration
	}{
		{"3", 0, 3 * time.Second}, {`"3"`, 0, 3 * time.Second}, {"0.5", 0, 500 * time.Millisecond}, {"1500", time.Millisecond, 1500 * time.Millisecond},
		{"2", time.Minute, 2 * time.Minute}, {"1e30", 0, maxRetry}, {`"Inf"`, 0, maxRetry},
		{"-3", 0, 0}, {"0", 0, 0}, {"null", 0, 0}, {`"soon"`, 0, 0}, {`"NaN"`, 0, 0}, {"{}", 0, 0},
	} {
		table.Error.RetryUnit = c.unit
		d := open(t, mustNew(t, table), "book/A")
		for _, names := range []string{"", `"ch":"book","sym":"A",`} {
			var out wire.Events
			if err := d.Decode(frameOf(`{"kind":"fail",`+names+`"why":"no","again":`+c.again+`}`), &out); err != nil {
				t.Fatal(err)
			}
			if e := &out.List[0]; e.Code != wire.CodeRefused || e.Retry != c.want {
				t.Errorf("%s %v: %s, after %v; want %v", c.again, c.unit, show(e), e.Retry, c.want)
			}
		}
	}
	// A login that is refused for now is no refused credential.
	table.Login = Login{Message: func(string, []byte) ([]byte, error) { return nil, nil }, Accepted: "in"}
	table.Error.RetryUnit = 0
	d := mustNew(t, table)
	var out wire.Events
	if err := open(t, d).Decode(frameOf(`{"kind":"fail","why":"busy","again":3}`), &out); err != nil {
		t.Fatal(err)
	}
	f := wire.Failure{Stage: wire.StageHandshake, Code: wire.CodeRefused, Retry: out.List[0].Retry}
	if v := d.Verdict(f); !out.List[0].Fatal || f.Retry != 3*time.Second || v.Action != wire.ActionBackOff {
		t.Errorf("%s: %+v, %v", show(&out.List[0]), v, f.Retry)
	}
	f.Retry = 0
	if v := d.Verdict(f); v.Action != wire.ActionRefresh {
		t.Errorf("%+v", v)
	}
}
