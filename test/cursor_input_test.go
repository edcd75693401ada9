package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// loads is a store whose Load is that of a test.
type loads struct {
	cursor.Store
	load func(ctx context.Context) (cursor.Cursor, error)
}

func (l loads) Load(ctx context.Context, _ string) (cursor.Cursor, error) { return l.load(ctx) }

// paces is a store whose Pace is that of a test.
type paces struct {
	cursor.Store
	pace func() (messages int, interval time.Duration)
}

func (p paces) Pace() (messages int, interval time.Duration) { return p.pace() }

// Every bad cursor is an error of Subscribe of its own kind, which names the option, and
// the name is free again.
func TestBadCursors(t *testing.T) {
	broken := errors.New("broken")
	feed := func(epoch string) cursor.Cursor {
		return cursor.Cursor{Feed: cursor.Feed{Dialect: "limpet", Host: "elsewhere", Topic: "q"}, Position: wire.Position{Epoch: epoch, Offset: 7}}
	}
	otherTopic, otherDialect := feed("e"), feed("e")
	otherTopic.Feed.Topic, otherDialect.Feed.Dialect = "p", "feed"
	var hang chan struct{} // of the bubble
	store := func(load func(ctx context.Context) (cursor.Cursor, error)) cursor.Store {
		return loads{cursor.Memory(), load}
	}
	holds := func(c cursor.Cursor) cursor.Store {
		return store(func(context.Context) (cursor.Cursor, error) { return c, nil })
	}
	for _, row := range []struct {
		name  string
		store cursor.Store
		label string // SubscribeOptions.Name; empty: "name"
		class limpet.ErrorClass
		want  error
		field string
	}{
		{"fails", store(func(context.Context) (cursor.Cursor, error) { return cursor.Cursor{}, broken }), "", limpet.ClassLocal, broken, "Cursor"},
		{"panics", store(func(context.Context) (cursor.Cursor, error) { panic("no") }), "", limpet.ClassUser, limpet.ErrPanic, "Cursor"},
		{"fails with a nil pointer", store(func(context.Context) (cursor.Cursor, error) { return cursor.Cursor{}, (*brokenError)(nil) }), "",
			limpet.ClassUser, limpet.ErrPanic, "Cursor"},
		{"ends its goroutine", store(func(context.Context) (cursor.Cursor, error) { runtime.Goexit(); return cursor.Cursor{}, nil }), "", limpet.ClassUser, nil, "Cursor"},
		{"hangs", store(func(context.Context) (cursor.Cursor, error) { <-hang; return cursor.Cursor{}, nil }), "",
			limpet.ClassTimeout, context.DeadlineExceeded, ""},
		{"damaged", store(func(context.Context) (cursor.Cursor, error) { return cursor.Cursor{}, cursor.ErrCorrupt }), "", limpet.ClassLocal, cursor.ErrCorrupt, "Cursor"},
		{"another topic", holds(otherTopic), "", limpet.ClassInput, cursor.ErrOtherFeed, "Cursor"},
		{"another dialect", holds(otherDialect), "", limpet.ClassInput, cursor.ErrOtherFeed, "Cursor"},
		{"another host, no epoch", holds(feed("")), "", limpet.ClassInput, cursor.ErrOtherFeed, "Cursor"},
		{"another host, an epoch", holds(feed("e")), "", "", nil, ""},
		{"nil in an interface", (*cursor.FileStore)(nil), "", limpet.ClassUser, limpet.ErrPanic, "Cursor"},
		{"no name", cursor.Memory(), "-", limpet.ClassInput, cursor.ErrName, "Name"},
		{"a name of 4 KiB", cursor.Memory(), strings.Repeat("n", 4<<10), limpet.ClassInput, cursor.ErrName, "Name"},
		{"a control character", cursor.Memory(), "a\nb", limpet.ClassInput, cursor.ErrName, "Name"},
		{"a slash", cursor.Memory(), "../a", "", nil, ""},
		{"no store", nil, "", limpet.ClassInput, nil, "Name"},
		{"no pace", cursor.Every(cursor.Memory(), 0, 0), "", limpet.ClassInput, nil, "Cursor"},
		{"a pace that panics", paces{cursor.Memory(), func() (int, time.Duration) { panic("no") }}, "", limpet.ClassUser, limpet.ErrPanic, "Cursor"},
		{"a negative pace", cursor.Every(cursor.Memory(), -1, time.Second), "", limpet.ClassInput, nil, "Cursor"},
		{"a negative interval", cursor.Every(cursor.Memory(), 1, -time.Second), "", limpet.ClassInput, nil, "Cursor"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hang = make(chan struct{})
				defer close(hang)
				c := dial(t, limpettest.NewServer(t, nil), nil)
				label := map[string]string{"": "name", "-": ""}[row.label]
				if len(row.label) > 1 {
					label = row.label
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := c.Subscribe(ctx, "q", &limpet.SubscribeOptions{Cursor: row.store, Name: label})
				if limpet.ClassOf(err) != row.class || row.want != nil && !errors.Is(err, row.want) {
					t.Errorf("class %s, %v", limpet.ClassOf(err), err)
				}
				if row.field != "" && !strings.Contains(fmt.Sprint(err), "SubscribeOptions."+row.field) {
					t.Errorf("no SubscribeOptions.%s in: %v", row.field, err)
				}
				if len(fmt.Sprint(err)) > 500 {
					t.Errorf("%d bytes of error", len(fmt.Sprint(err)))
				}
				_, again := c.Subscribe(t.Context(), "q", &limpet.SubscribeOptions{Cursor: cursor.Memory(), Name: "name"})
				if (again == nil) != (err != nil || label != "name") {
					t.Errorf("the name then: %v", again)
				}
			})
		})
	}
}

// A dialect without the trait Resume cannot start after a position.
func TestCursorNeedsResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(int, func(string), func() string) {})
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: eventDialect{wire.Traits{Confirms: true}}}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		_, err = c.Subscribe(t.Context(), "q", &limpet.SubscribeOptions{Cursor: cursor.Memory(), Name: "name"})
		if !errors.Is(err, limpet.ErrUnsupported) || !strings.Contains(err.Error(), "SubscribeOptions.Cursor") || !strings.Contains(err.Error(), "Resume") {
			t.Errorf("got %v", err)
		}
	})
}

// The errors of real files come through Subscribe and leave the cursor as it is, and a store
// that was repaired is used.
func TestBadCursorFiles(t *testing.T) {
	dir := t.TempDir()
	first := cursor.File(dir)
	defer first.Close()
	second := cursor.File(dir)
	defer second.Close()
	at := cursor.Cursor{Feed: cursor.Feed{Dialect: "limpet", Topic: "q"}, Position: wire.Position{Epoch: "e", Offset: 7}}
	if err := first.Save(t.Context(), "name", at); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, limpettest.NewServer(t, nil), nil)
		try := func(store cursor.Store, topic string, want error) {
			t.Helper()
			s, err := c.Subscribe(t.Context(), topic, &limpet.SubscribeOptions{Cursor: store, Name: "name"})
			if !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), "SubscribeOptions.Cursor") {
				t.Errorf("got %v, want %v", err, want)
			}
			if s != nil {
				s.Close()
			}
		}
		try(second, "q", cursor.ErrLocked)
		try(first, "p", cursor.ErrOtherFeed)
		if c, err := first.Load(t.Context(), "name"); err != nil || c != at {
			t.Errorf("the cursor is %+v now, %v", c, err)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*.cursor"))
		if err := os.Truncate(files[0], 20); err != nil {
			t.Fatal(err)
		}
		try(first, "q", cursor.ErrCorrupt)
		if err := os.Remove(files[0]); err != nil {
			t.Fatal(err)
		}
		try(first, "q", nil)
		plain := filepath.Join(dir, "plain")
		if err := os.WriteFile(plain, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		try(cursor.File(plain), "q", cursor.ErrDirectory)
	})
}
