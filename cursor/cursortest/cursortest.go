// Package cursortest tries implementations of cursor.Store.
package cursortest

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/wire"
)

// Run tries a store that open opens, empty and a new one for each call. It tries what the
// client relies on: what was saved comes back whole, and names do not touch each other.
// What a crash leaves, only a test of the store itself can show.
func Run(t *testing.T, open func(t *testing.T) cursor.Store) {
	t.Run("nothing was saved", func(t *testing.T) {
		expect(t, open(t), "name", cursor.Cursor{})
	})
	t.Run("the last save counts", func(t *testing.T) {
		s := open(t)
		for offset := range uint64(3) {
			save(t, s, "name", example(offset))
			expect(t, s, "name", example(offset))
		}
	})
	t.Run("every byte comes back", func(t *testing.T) {
		s := open(t)
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		c := cursor.Cursor{
			Feed:     cursor.Feed{Dialect: "d\"\n", Host: "h:1", Topic: string(all)},
			Position: wire.Position{Epoch: string(all), Offset: ^uint64(0), Tag: strings.Repeat("t", 8<<10)},
		}
		save(t, s, "name", c)
		expect(t, s, "name", c)
	})
	t.Run("names", func(t *testing.T) {
		s := open(t)
		names := []string{
			"a", "A", "a ", "a/b", "a-b", `a\b`, "..", ".", "../a", "con", "ä", "*", "a.cursor", "lock", "it's; --",
			strings.Repeat("n", 255), strings.Repeat("n", 254),
		}
		for i, name := range names {
			save(t, s, name, example(uint64(i)))
		}
		for i, name := range names {
			expect(t, s, name, example(uint64(i)))
		}
	})
	t.Run("at the same time", func(t *testing.T) {
		s := open(t)
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				name := fmt.Sprint(i)
				for n := range uint64(10) {
					save(t, s, name, example(n))
					expect(t, s, name, example(n))
				}
			})
		}
		all.Wait()
	})
}

func example(offset uint64) cursor.Cursor {
	return cursor.Cursor{
		Feed:     cursor.Feed{Dialect: "limpet", Host: "feed.example:443", Topic: "quakes/*"},
		Position: wire.Position{Epoch: "e1", Offset: offset, Tag: "\x00\xff"},
	}
}

func save(t *testing.T, s cursor.Store, name string, c cursor.Cursor) {
	t.Helper()
	if err := s.Save(t.Context(), name, c); err != nil {
		t.Errorf("Save %q: %v", name, err)
	}
}

func expect(t *testing.T, s cursor.Store, name string, want cursor.Cursor) {
	t.Helper()
	if got, err := s.Load(t.Context(), name); err != nil || got != want {
		t.Errorf("Load %q: %+v, %v; want %+v", name, got, err, want)
	}
}
