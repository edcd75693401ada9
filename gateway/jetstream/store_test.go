package jetstream_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/storetest"
)

var (
	logs  atomic.Uint64
	names sync.Map // opened of each store
)

// opened is how a store was opened.
type opened struct {
	t *testing.T
	o jetstream.Options
}

// tries returns the options of storetest for a log of its own for each store.
func tries(urls string, o jetstream.Options) (openNew func(*testing.T) server.Store, opt *storetest.Options) {
	openWith := func(keep server.Retention) func(t *testing.T) server.Store {
		return func(t *testing.T) server.Store {
			one := o
			one.Log, one.Retention = fmt.Sprint("log", logs.Add(1)), keep
			s := open(t, urls, &one)
			names.Store(s, opened{t, one})
			return s
		}
	}
	return openWith(server.Retention{}), &storetest.Options{
		Small: openWith(server.Retention{Count: 5}),
		Beside: func(t *testing.T, store server.Store) server.Store {
			one, _ := names.Load(store)
			beside := one.(opened).o
			return open(t, urls, &beside)
		},
	}
}

func TestStore(t *testing.T) {
	p := single(t)
	openNew, o := tries(p.url, jetstream.Options{Memory: true})
	o.Rounds = 200
	o.Cut = func(s server.Store) {
		one, _ := names.Load(s)
		one.(opened).t.Cleanup(func() { p.signal(syscall.SIGCONT) })
		p.signal(syscall.SIGSTOP)
	}
	storetest.Run(t, openNew, o)
}

func TestStoreOnThreeServers(t *testing.T) {
	_, urls := cluster(t)
	openNew, o := tries(urls, jetstream.Options{})
	o.Rounds = 50
	storetest.Run(t, openNew, o)
}
