package file_test

import (
	"testing"

	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
	"github.com/limpet-go/limpet/outbox/outboxtest"
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
	o := &file.Options{SegmentSize: 64 << 10}
	outboxtest.Run(t, func(t *testing.T) (outbox.Store, func() outbox.Store) {
		dir := t.TempDir()
		s := open(t, dir, o)
		return s, func() outbox.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, o)
			return s
		}
	})
}
