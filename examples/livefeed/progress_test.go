package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestProgress(t *testing.T) {
	for _, live := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			start := time.Now()
			p := startProgress(&out, live, func() sample {
				d := time.Since(start)
				n := int(d / (10 * time.Millisecond)) // 100 a second
				return sample{elapsed: d, total: 1707, published: n + 7, delivered: n, alerts: 5, acked: 4,
					reconnects: 3, faults: 2, state: "backing off"}
			})
			p.note("a note")
			time.Sleep(3500 * time.Millisecond)
			p.stop()
			text := out.String()
			if strings.Contains(text, "\r") != live || strings.Contains(text, "\x1b") != live {
				t.Errorf("live %v: %q", live, text)
			}
			for _, want := range []string{"a note\n", "350/1707", "100/s", "4/5", "backing off"} {
				if !strings.Contains(text, want) {
					t.Errorf("live %v: no %q in %q", live, want, text)
				}
			}
			if lines := strings.Count(text, "\n"); live && lines != 2 || !live && lines != 5 {
				t.Errorf("live %v: %d lines: %q", live, lines, text)
			}
			if !strings.HasSuffix(text, "\n") {
				t.Errorf("live %v: the last line is not ended", live)
			}
		})
	}
}

func TestLiveLineFits(t *testing.T) {
	s := sample{elapsed: 29 * time.Second, total: 1707, published: 1707, delivered: 708, alerts: 85, acked: 85,
		reconnects: 23, state: "connecting"}
	if n := utf8.RuneCountInString(liveLine(s, 1707)); n > 80 {
		t.Errorf("%d columns: %q", n, liveLine(s, 1707))
	}
}
