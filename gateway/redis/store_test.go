package redis_test

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/redis"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/storetest"
)

// One Redis serves all logs of the suite; each server has a Store of its own.
func TestStore(t *testing.T) {
	e := start(t)
	var logs atomic.Int64
	names := map[server.Store]string{}
	openWith := func(url func() string, o redis.Options) func(*testing.T) server.Store {
		return func(t *testing.T) server.Store {
			o := o
			o.Log = fmt.Sprint("log ", logs.Add(1))
			s := open(t, url(), &o)
			names[s] = o.Log
			return s
		}
	}
	url := func() string { return e.url() }
	own := map[server.Store]*engine{}
	t.Run("shared", func(t *testing.T) {
		storetest.Run(t, openWith(url, redis.Options{}), &storetest.Options{
			Rounds: 200, Small: openWith(url, redis.Options{MaxLen: 5}),
			Beside: func(t *testing.T, s server.Store) server.Store {
				return open(t, e.url(), &redis.Options{Log: names[s]})
			},
		})
	})
	t.Run("cut", func(t *testing.T) { // the ring is too small to have anything
		storetest.Run(t, func(t *testing.T) server.Store {
			mine := start(t)
			s := open(t, mine.url(), &redis.Options{RingCount: 1, RingBytes: 1, Timeout: time.Second})
			own[s] = mine
			return s
		}, &storetest.Options{Rounds: 10, Cut: func(s server.Store) { _ = own[s].cmd.Process.Signal(syscall.SIGSTOP) }})
	})
}
