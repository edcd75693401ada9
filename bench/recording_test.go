package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const recordedSession = `wss://feed <-> 1
wss://feed <- 1.5: {"type":"subscribe","product_ids":["A","B"],"channels":["matches"]}
2: {"type":"subscriptions","channels":[]}
3: {"type":"last_match","trade_id":99,"product_id":"A","sequence":5}
4: {"type":"snapshot","product_id":"A","asks":[]}
5: {"type":"match","trade_id":100,"product_id":"A","sequence":6}
6: {"type":"heartbeat"}
7: {"type":"l2update","product_id":"B","changes":[]}
8: {"type":"match","trade_id":101,"product_id":"A","sequence":9}
`

// A session as long as wanted repeats what came after the snapshots; its trade ids go on.
func TestStreamOfARecording(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("LIMPET_DATA", dir)
	r := &row{needs: []string{"s.ws"}}
	if got := r.missing(); got != "s.ws" {
		t.Errorf("missing: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "s.ws"), []byte(recordedSession), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := r.missing(); got != "" {
		t.Errorf("missing: %q", got)
	}
	rec, err := readRecording("s.ws")
	if err != nil || fmt.Sprint(rec.products) != "[A B]" {
		t.Fatalf("%v, %+v", err, rec)
	}
	portions := rec.stream(portion + 4)
	all := bytes.Join(portions, nil)
	if n := bytes.Count(all, []byte("product_id")); n != portion+4 || len(portions) != 2 || bytes.Count(portions[0], []byte("product_id")) != portion {
		t.Errorf("%d messages of topics in %d portions", n, len(portions))
	}
	if strings.Count(string(all), "subscriptions") != 1 || strings.Count(string(all), "snapshot") != 1 || strings.Count(string(all), "heartbeat") < portion/3-1 {
		t.Error("the begin of a session is repeated, or what came after it is not")
	}
	next := 99
	for _, m := range regexp.MustCompile(`"trade_id":(\d+)`).FindAllSubmatch(all, -1) {
		if got, _ := strconv.Atoi(string(m[1])); got != next {
			t.Fatalf("trade %d, want %d", got, next)
		}
		next++
	}
	if next < 99+portion/2 {
		t.Errorf("the last trade is %d", next-1)
	}
}
