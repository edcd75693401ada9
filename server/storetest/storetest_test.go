package storetest_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/storetest"
)

func TestMemoryStore(t *testing.T) {
	open := func(keep server.Retention) func(*testing.T) server.Store {
		return func(*testing.T) server.Store {
			return &remote{Store: server.NewMemoryStore(&server.MemoryStoreOptions{Retention: keep})}
		}
	}
	storetest.Run(t, open(server.Retention{}), &storetest.Options{
		Small: open(server.Retention{Count: 5}),
		Cut:   func(s server.Store) { s.(*remote).cut.Store(true) },
	})
}

// remote is a store of which the log can be out of reach.
type remote struct {
	server.Store
	cut atomic.Bool
}

// Commit takes longer than the shortest life of a record that is tried.
func (s *remote) Commit(ctx context.Context, c *server.Change) (server.Committed, error) {
	done, err := s.Store.Commit(ctx, c)
	if c.TTL > 0 && c.TTL <= 20*time.Millisecond {
		<-time.After(c.TTL)
	}
	return done, err
}

var errCut = errors.New("out of reach")

func (s *remote) Read(ctx context.Context, from uint64, dst []*server.Entry) (int, uint64, error) {
	if s.cut.Load() {
		return 0, 0, errCut
	}
	return s.Store.Read(ctx, from, dst)
}

func (s *remote) Tag(ctx context.Context, offset uint64) ([]byte, bool, error) {
	if s.cut.Load() {
		return nil, false, errCut
	}
	return s.Store.Tag(ctx, offset)
}
