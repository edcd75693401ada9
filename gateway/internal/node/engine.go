package node

import (
	"context"
	"fmt"

	"github.com/limpet-go/limpet/gateway/internal/config"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
)

// engine is a store that says whether it works.
type engine interface {
	server.Store

	// Health returns why the engine cannot be used at the moment; nil if it can. It does not block.
	Health() error

	Close() error
}

// openEngine opens the engine of the settings. ctx bounds the wait for servers of it.
func openEngine(ctx context.Context, c *config.Config) (engine, error) {
	retention := server.Retention{Count: c.MaxCount, Bytes: c.MaxBytes, Age: c.MaxAge}
	switch c.Engine {
	case config.EngineMemory:
		return memory{server.NewMemoryStore(&server.MemoryStoreOptions{Retention: retention})}, nil
	case config.EngineFile:
		store, err := file.Open(c.Dir, &file.Options{Retention: retention})
		if err != nil {
			return nil, &config.Error{Key: "dir", Reason: err.Error()}
		}
		return local{store}, nil
	}
	return nil, &config.Error{Key: "engine", Reason: fmt.Sprintf("%s is not built yet", c.Engine)}
}

// memory is an engine that cannot fail.
type memory struct{ *server.MemoryStore }

func (memory) Health() error { return nil }
func (memory) Close() error  { return nil }

// local is a directory.
type local struct{ *file.Store }

// Health implements engine. A directory that cannot be written shows in each Commit, and not before.
func (local) Health() error { return nil }
