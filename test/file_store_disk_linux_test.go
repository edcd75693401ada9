package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
)

// While the disk of a server is full nothing is acknowledged, and its clients say that the server cannot accept: they come back
// and wait, with 4203 as the cause. A server that is started on the full disk says ErrFull, or goes on. Once there is room,
// each message is there once, in order.
func TestServerOnAFullDisk(t *testing.T) {
	for _, restart := range []bool{false, true} {
		dir := mount(t, "size=640k")
		at := filepath.Join(dir, "server")
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			store := &fileStore{}
			store.open(t, at)
			srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Store: store}})
			const clients = 3
			var sent [clients][]string
			var acked sync.Map
			var all []*limpet.Client
			for i := range clients {
				c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 8}})
				all = append(all, c)
				for n := range 40 {
					sent[i] = append(sent[i], fmt.Sprintf("%c%d", 'A'+i, n))
				}
			}
			reader := dial(t, srv, nil)
			feed := subscribeLive(t, reader, "a", &limpet.SubscribeOptions{From: limpet.FromFirst})
			other := fill(t, dir)
			var publishers sync.WaitGroup
			for i, c := range all {
				publishers.Go(func() {
					for _, text := range sent[i] {
						r, err := c.Publish(ctx, "a", []byte(text+strings.Repeat("x", 1000)), nil)
						if err != nil {
							t.Errorf("%s: %v", text, err)
							return
						}
						publishers.Go(func() {
							if ack, err := r.Wait(ctx); err != nil || ack.Duplicate {
								t.Errorf("%s: %+v, %v", text, ack, err)
							}
							acked.Store(text, true)
						})
					}
				})
			}
			time.Sleep(10 * time.Minute)
			has := map[string]int{}
			buf := make([]*server.Entry, clients*40)
			n, _, err := store.Read(context.Background(), 1, buf)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range buf[:n] {
				has[strings.TrimRight(string(e.Payload), "x")]++
			}
			acked.Range(func(text, _ any) bool {
				if has[text.(string)] != 1 {
					t.Errorf("%s is acknowledged, and %d times in the log", text, has[text.(string)])
				}
				return true
			})
			if len(has) >= clients*40 {
				t.Error("there was room")
			}
			for i, c := range all {
				if c.Stats().Acked == 40 {
					continue // it was early enough
				}
				st := c.State()
				var e *limpet.Error
				if c.Err() != nil || st.Cause == nil || !errors.As(st.Cause, &e) || e.Code != 4203 {
					t.Errorf("client %d: %v, %v", i, c.Err(), st.Cause)
				}
			}
			if restart {
				srv.Stop()
				_ = srv.Server.Close()
				_ = store.Close()
				if again, err := file.Open(at, nil); err == nil {
					_ = again.Close()
				} else if !errors.Is(err, file.ErrFull) {
					t.Errorf("Open on a full disk: %v", err)
				}
			}
			if err := os.Remove(other); err != nil {
				t.Fatal(err)
			}
			if restart {
				store.open(t, at)
				srv.Reboot(nil)
			}
			publishers.Wait()
			var got [clients][]string
			for _, m := range collect(t, feed, clients*40) {
				text := strings.TrimRight(string(m.Payload), "x")
				got[text[0]-'A'] = append(got[text[0]-'A'], text)
			}
			for i := range got {
				if !slices.Equal(got[i], sent[i]) {
					t.Errorf("restart %v, client %d: the server has %v", restart, i, got[i])
				}
			}
			for _, c := range append(all, reader) {
				closeAndWait(t, c)
			}
			srv.Stop()
			_ = srv.Server.Close()
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
