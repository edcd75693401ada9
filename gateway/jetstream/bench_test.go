package jetstream_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/server"
)

// cpu returns the CPU time of this process and of servers.
func cpu(b *testing.B, all []*process) (own, servers time.Duration) {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	own = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	for _, p := range all {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			b.Fatal(err)
		}
		_, after, _ := strings.Cut(string(text), ") ")
		for _, field := range strings.Fields(after)[11:13] { // utime and stime, in 1/100 s
			ticks, err := strconv.Atoi(field)
			if err != nil {
				b.Fatal(err)
			}
			servers += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return own, servers
}

// BenchmarkCommit reports CPU time for each Commit of 32 sessions, in this process and in the servers together.
func BenchmarkCommit(b *testing.B) {
	for _, servers := range []int{1, 3} {
		for _, size := range []int{1, 16} {
			b.Run(fmt.Sprintf("replicas=%d/messages=%d", servers, size), func(b *testing.B) {
				o := &jetstream.Options{Log: "bench"}
				all, urls := []*process(nil), ""
				if servers == 1 {
					all = []*process{single(b)}
					urls, o.Memory = all[0].url, true
				} else {
					all, urls = cluster(b)
				}
				s := open(b, urls, o)
				var sessions sync.WaitGroup
				own, other := cpu(b, all)
				b.ResetTimer()
				for n := range 32 {
					sessions.Go(func() { commits(b, s, n, b.N/32+1, size) })
				}
				sessions.Wait()
				b.StopTimer()
				own2, other2 := cpu(b, all)
				count := float64(32 * (b.N/32 + 1))
				b.ReportMetric(float64((own2-own).Microseconds())/count, "own-us/op")
				b.ReportMetric(float64((other2-other).Microseconds())/count, "servers-us/op")
			})
		}
	}
}

// commits commits count times, size messages of 128 bytes each.
func commits(b *testing.B, s *jetstream.Store, session, count, size int) {
	version, n := uint64(0), uint64(0)
	for range count {
		c := &server.Change{Session: fmt.Sprint(session), Version: version, Record: make([]byte, 400), TTL: time.Hour, Who: "who", Keep: time.Hour}
		for range size {
			n++
			c.Entries = append(c.Entries, server.Entry{ID: messageID(session, n), Topic: "t", Payload: make([]byte, 128), Hash: n})
		}
		done, err := s.Commit(b.Context(), c)
		if err != nil {
			b.Error(err)
			return
		}
		version = done.Version
	}
}
