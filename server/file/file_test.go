package file_test

import (
	"testing"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
	"github.com/limpet-go/limpet/server/storetest"
)

func open(t *testing.T, dir string, o *file.Options) *file.Store {
	t.Helper()
	s, err := file.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	openWith := func(o *file.Options) func(*testing.T) server.Store {
		return func(t *testing.T) server.Store { return open(t, t.TempDir(), o) }
	}
	storetest.Run(t, openWith(&file.Options{SegmentSize: 64 << 10}), &storetest.Options{
		Rounds: 200, Small: openWith(&file.Options{Retention: server.Retention{Count: 5}}),
	})
}
