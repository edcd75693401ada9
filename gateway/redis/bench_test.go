package redis_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/redis"
	"github.com/limpet-go/limpet/server"
)

// figure returns a number that Redis says of itself.
func (e *engine) figure(section, name string) float64 {
	for line := range strings.Lines(fmt.Sprint(e.do("INFO", section))) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), ":"); key == name {
			n, _ := strconv.ParseFloat(value, 64)
			return n
		}
	}
	e.t.Fatalf("INFO has no %s", name)
	return 0
}

func (e *engine) cpu() time.Duration {
	return time.Duration((e.figure("cpu", "used_cpu_user") + e.figure("cpu", "used_cpu_sys")) * 1e9)
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A message of 128 bytes, in Commits of several sizes and of several sessions at a time. CPU time counts, of Redis and of this process:
// the machine may do other things.
func BenchmarkCommit(b *testing.B) {
	for _, c := range []struct{ sessions, messages int }{{1, 1}, {50, 1}, {1, 64}, {20, 64}} {
		b.Run(fmt.Sprintf("sessions=%d/messages=%d", c.sessions, c.messages), func(b *testing.B) {
			e := start(b)
			s, err := redis.Open(b.Context(), e.url(), &redis.Options{MaxLen: -1})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			mine, theirs := ownCPU(), e.cpu()
			b.ResetTimer()
			var all sync.WaitGroup
			for i := range c.sessions {
				all.Go(func() {
					version := uint64(0)
					for n := 0; n < b.N; n += c.sessions * c.messages {
						ch := &server.Change{Session: fmt.Sprint(i), Version: version, Record: make([]byte, 200), TTL: time.Hour, Who: "who", Keep: time.Hour}
						for k := range c.messages {
							ch.Entries = append(ch.Entries, server.Entry{ID: messageID(i, uint64(n+k)), Topic: "t/a", Payload: make([]byte, 128), Hash: 1})
						}
						done, err := s.Commit(context.Background(), ch)
						if err != nil {
							b.Error(err)
							return
						}
						version = done.Version
					}
				})
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64(e.cpu()-theirs)/float64(b.N)/1e3, "redis-cpu-us/op")
			b.ReportMetric(float64(ownCPU()-mine)/float64(b.N)/1e3, "own-cpu-us/op")
		})
	}
}

// What Redis keeps for a session with one message of 128 bytes, for a message more, and for an id.
func BenchmarkMemory(b *testing.B) {
	for name, c := range map[string]struct{ sessions, messages, refused int }{"session": {b.N, 0, 0}, "message-with-id": {0, b.N, 0}, "id": {0, 0, b.N}} {
		b.Run(name, func(b *testing.B) {
			e := start(b)
			s, err := redis.Open(b.Context(), e.url(), &redis.Options{MaxLen: -1})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			before := e.figure("memory", "used_memory")
			for n := range b.N {
				ch := &server.Change{Session: "0123456789abcdef0123456789abcdef", Record: make([]byte, 200), TTL: time.Hour, Who: "who", Keep: time.Hour}
				ch.Session += fmt.Sprint(n)
				if c.sessions == 0 {
					ch.Session = ""
				}
				if c.messages > 0 {
					ch.Entries = []server.Entry{{ID: messageID(1, uint64(n)), Topic: "t/a", Payload: make([]byte, 128), Hash: 1}}
				}
				if c.refused > 0 {
					ch.Refused = []server.Refusal{{ID: messageID(1, uint64(n)), Hash: 1, Code: 7}}
				}
				if _, err := s.Commit(context.Background(), ch); err != nil {
					b.Fatal(err)
				}
			}
			if c.sessions == 0 { // what recognises a Commit without a session goes soon
				for _, key := range e.do("KEYS", "{limpet}:p:*").([]any) {
					e.do("DEL", key)
				}
			}
			b.ReportMetric((e.figure("memory", "used_memory")-before)/float64(b.N), "bytes/op")
		})
	}
}
