package test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	outboxfile "github.com/limpet-go/limpet/outbox/file"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
)

// fileStore is a store in files that is opened again for each server.
type fileStore struct{ *file.Store }

func (s *fileStore) open(t *testing.T, dir string) {
	t.Helper()
	store, err := file.Open(dir, &file.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	s.Store = store
}

// restart ends the server, and the next one begins in dir.
func (s *fileStore) restart(t *testing.T, srv *limpettest.Server, dir string, between func()) {
	t.Helper()
	srv.Stop()
	_ = srv.Server.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if between != nil {
		between()
	}
	s.open(t, dir)
	srv.Reboot(nil)
}

// A client goes on with the next server on the directory: its session is resumed, and nothing is lost or doubled.
func TestServersInOneDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, dir := &fileStore{}, t.TempDir()
		store.open(t, dir)
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Store: store}})
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{From: limpet.FromFirst})
		for n := range 5 {
			for _, text := range numbers(4*n+1, 4*n+4) {
				if _, err := c.Send(context.Background(), "a", []byte(text), nil); err != nil {
					t.Fatal(err)
				}
			}
			store.restart(t, srv, dir, nil)
		}
		var got []string
		for _, m := range collect(t, s, 20) {
			got = append(got, m.Kind.String()+string(m.Payload))
		}
		want := numbers(1, 20)
		for i := range want {
			want[i] = limpet.Data.String() + want[i]
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		synctest.Wait() // the client has noticed the last restart
		if err := c.WaitReady(context.Background()); err != nil {
			t.Fatal(err)
		}
		if n := c.Stats().Resumes; n != 5 {
			t.Errorf("%d resumes of 5", n)
		}
		if st := srv.Server.Stats(); st.IDs != 20 || st.Sessions != 1 {
			t.Errorf("%d ids, %d sessions", st.IDs, st.Sessions)
		}
		closeAndWait(t, c)
		srv.Stop()
		_ = srv.Server.Close()
		if v := store.View(); v.Head != 20 {
			t.Errorf("head %d", v.Head)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A directory that was restored from a backup has lost messages. The subscriber gets a Reset and what is there, and
// what the client publishes then is accepted.
func TestRestoredDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, dir, backup := &fileStore{}, filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
		store.open(t, dir)
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Store: store}})
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{From: limpet.FromFirst})
		publish(t, srv, "a", numbers(1, 6)...)
		collect(t, s, 6)
		store.restart(t, srv, dir, func() {
			if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		})
		if err := c.WaitReady(context.Background()); err != nil {
			t.Fatal(err)
		}
		publish(t, srv, "a", numbers(7, 10)...)
		collect(t, s, 4)
		store.restart(t, srv, backup, nil)
		if _, err := c.Send(context.Background(), "a", []byte("next"), nil); err != nil {
			t.Fatal(err)
		}
		ms := collect(t, s, 8)
		if ms[0].Kind != limpet.Reset {
			t.Errorf("first %v", ms[0])
		}
		for i, want := range append(numbers(1, 6), "next") {
			if string(ms[i+1].Payload) != want {
				t.Errorf("message %d is %q, want %q", i, ms[i+1].Payload, want)
			}
		}
		closeAndWait(t, c)
		srv.Stop()
		_ = srv.Server.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A server is restored from a snapshot that was made while the client was connected: it has lost messages that it had
// acknowledged. It counts them as missing, and accepts what the client has sent and not sent since.
func TestRestoredSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, dir, snapshot := &fileStore{}, filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
		store.open(t, dir)
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Store: store}})
		kept, err := outboxfile.Open(t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		c := start(t, srv, kept, limpet.Options{})
		publishAll(t, c, "a", numbers(1, 3)...)
		flushed(t, c)
		time.Sleep(2 * time.Second)
		if err := os.CopyFS(snapshot, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		publishAll(t, c, "a", numbers(4, 6)...)
		flushed(t, c)
		srv.Stop()
		publishAll(t, c, "a", "next")
		store.restart(t, srv, snapshot, nil)
		flushed(t, c)
		entries, has := make([]*server.Entry, 10), []string(nil)
		n, _, err := store.Read(t.Context(), 1, entries)
		for _, e := range entries[:n] {
			has = append(has, string(e.Payload))
		}
		if got := strings.Join(has, " "); got != "1 2 3 next" || err != nil || srv.Server.Stats().UplinkGaps != 3 {
			t.Errorf("the server has %s, %v; %d messages are missing", got, err, srv.Server.Stats().UplinkGaps)
		}
		closeAndWait(t, c)
		srv.Stop()
		_ = srv.Server.Close()
		if err := errors.Join(store.Close(), kept.Close()); err != nil {
			t.Error(err)
		}
	})
}
