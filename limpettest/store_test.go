package limpettest_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// With a store a server that crashes loses no session, and Held reads the store.
func TestServerOnAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Store: server.NewMemoryStore(nil)}})
		c, err := limpet.Dial(t.Context(), srv.URL(), &limpet.Options{HTTPClient: srv.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := c.Send(context.Background(), "t", nil, nil); err != nil {
				t.Fatal(err)
			}
			srv.Reboot(nil)
			synctest.Wait()
		}
		if err := c.WaitReady(context.Background()); err != nil || c.Stats().Resumes != 3 {
			t.Errorf("%d resumes, %v", c.Stats().Resumes, err)
		}
		if h := srv.Held("s", "t"); len(h.Entries) != 3 || h.Epoch == "" {
			t.Errorf("held: %+v", h)
		}
		c.Close()
		<-c.Done()
	})
}
