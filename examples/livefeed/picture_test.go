package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLagSteps(t *testing.T) {
	got := lagSteps([]time.Duration{1, 2, 5}, []time.Duration{2, 4, 6})
	want := []step{{1, 1}, {2, 2}, {2, 1}, {4, 0}, {5, 1}, {6, 0}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := lagSteps(nil, []time.Duration{1}); !slices.Equal(got, []step{{1, 0}}) {
		t.Errorf("delivered before it was recorded as published: %v", got)
	}
}

func TestRecordConnected(t *testing.T) {
	r := newRecord()
	for _, yes := range []bool{false, false, true, true, false} {
		r.connected(yes)
	}
	if len(r.away) != 2 || r.away[0].open || !r.away[1].open || r.away[0].to < r.away[0].from {
		t.Errorf("%+v", r.away)
	}
}

func TestPicture(t *testing.T) {
	r := newRecord()
	for i := range 1000 {
		at := time.Duration(i) * 10 * time.Millisecond
		r.published = append(r.published, at)
		if i%100 < 30 {
			at = time.Duration(i-i%100+30) * 10 * time.Millisecond
		}
		r.delivered = append(r.delivered, at)
	}
	slices.Sort(r.delivered)
	var faults []mark
	for i := range 10 {
		at := time.Duration(i) * time.Second
		r.away = append(r.away, span{from: at, to: at + 300*time.Millisecond})
		r.acked = append(r.acked, at)
		faults = append(faults, mark{kind(i) % kinds, r.start.Add(at - 100*time.Millisecond), r.start.Add(at)})
	}
	svg := picture(r, faults, 1000, `harsh <&> "seed 1"`)
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"3 × cut", "3 × reset", "2 × black hole", "2 × refused", "10 alerts", "harsh &lt;&amp;&gt;"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %q in the picture", want)
		}
	}
	if n := strings.Count(svg, awayColour); n != 11 {
		t.Errorf("%d grey stretches, want 10 and the legend", n)
	}
	if len(svg) > 64<<10 {
		t.Errorf("the picture has %d bytes", len(svg))
	}
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Error("a coordinate is not a number")
	}
	picture(newRecord(), nil, 0, "") // a run that never began must not panic
}
