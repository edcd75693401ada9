package test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
)

// byValue is a store that can be compared without being a pointer; neverEqual is one that cannot.
type (
	byValue    struct{ outbox.Store }
	neverEqual struct {
		outbox.Store
		_ []byte
	}
)

// wantInUse fails unless a client on store is refused because another one has it.
func wantInUse(t *testing.T, name string, srv *limpettest.Server, store outbox.Store) {
	t.Helper()
	c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(), Outbox: store}))
	var e *limpet.Error
	if !errors.Is(err, outbox.ErrInUse) || !errors.Is(err, limpet.ErrOutbox) || !errors.As(err, &e) || e.Field != "Options.Outbox" || e.Class != limpet.ClassLocal {
		t.Errorf("%s: a second client on the store: %v", name, err)
	}
	if c != nil {
		closeAndWait(t, c)
	}
}

// One client at a time has a Store of the process, whatever it is: a second one is refused and changes nothing. Once the
// first has ended, or could not begin, the next one goes on.
func TestOutboxOneClientAtATime(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) outbox.Store{
		"memory":   func(*testing.T) outbox.Store { return outbox.Memory() },
		"a custom": func(*testing.T) outbox.Store { return newFaultyStore() },
		"a value":  func(*testing.T) outbox.Store { return byValue{outbox.Memory()} },
		"files": func(t *testing.T) outbox.Store {
			store, err := file.Open(t.TempDir(), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			return store
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, store := limpettest.NewServer(t, nil), open(t)
			if _, err := limpet.New("http://wrong", options(&limpet.Options{Outbox: store})); err == nil || errors.Is(err, outbox.ErrInUse) {
				t.Fatalf("%s: %v", name, err)
			}
			for _, number := range numbers(1, 4) {
				c := start(t, srv, store, limpet.Options{})
				wantInUse(t, name, srv, store)
				publishAll(t, c, "a", number)
				wantInUse(t, name, srv, store)
				if number != "3" { // which the next one sends
					flushed(t, c)
				}
				closeAndWait(t, c)
			}
			if got := strings.Join(logged(t, srv), " "); got != "1 2 3 4" {
				t.Errorf("%s: the server has %s", name, got)
			}
		})
	}
}

// Stores that are different, or cannot be compared, are those of different clients.
func TestOutboxStoresThatDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, shared := limpettest.NewServer(t, nil), outbox.Memory()
		for _, store := range []outbox.Store{shared, outbox.Memory(), neverEqual{Store: outbox.Memory()}, neverEqual{Store: outbox.Memory()}} {
			c := start(t, srv, store, limpet.Options{})
			publishAll(t, c, "a", "1")
			flushed(t, c)
		}
	})
}

// A store that could not be loaded is free again. One whose Commit has not returned is in use until it has, although its
// client has ended.
func TestOutboxIsFreeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, store := limpettest.NewServer(t, nil), newFaultyStore()
		refuse := errors.New("not now")
		store.fault(func(*outbox.Change) error { return refuse })
		for range 2 {
			if _, err := limpet.New(srv.URL(), options(&limpet.Options{Outbox: store})); !errors.Is(err, refuse) {
				t.Fatal(err)
			}
		}
		store.fault(nil)
		c := start(t, srv, store, limpet.Options{})
		hang := make(chan struct{})
		store.fault(func(*outbox.Change) error {
			<-hang
			return nil
		})
		go c.Publish(context.Background(), "a", []byte("1"), nil)
		time.Sleep(time.Second)
		closeAndWait(t, c)
		wantInUse(t, "while Commit hangs", srv, store)
		store.fault(nil)
		close(hang)
		synctest.Wait()
		publishAll(t, start(t, srv, store, limpet.Options{}), "a", "2")
	})
}
