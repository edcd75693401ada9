package limpet_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

func TestAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const good = "canary-token-b"
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authenticate: func(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
				if token != good {
					return server.Principal{}, errors.New("no")
				}
				return server.Principal{ID: "p"}, nil
			}}}})
		var infos []limpet.AttemptInfo
		c := dial(t, srv, &limpet.Options{Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
			infos = append(infos, info)
			if !info.Refresh {
				return limpet.Credential{Token: "canary-token-a"}, nil
			}
			return limpet.Credential{Token: good}, nil
		}})
		if len(infos) != 2 || infos[0].Refresh || !infos[1].Refresh || limpet.Class(infos[1].Cause) != limpet.ClassAuth {
			t.Errorf("Auth was asked %+v", infos)
		}
		if s := c.State(); s.Phase != limpet.Ready || strings.Contains(fmt.Sprintf("%+v", s), "canary") {
			t.Errorf("%+v", s)
		}
	})
}

func TestRefusedTwiceIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Network.Each(func(int) limpettest.Fault { return limpettest.RefuseUpgrade(401, nil) })
		calls := 0
		_, err := limpet.Dial(context.Background(), srv.URL(), options(&limpet.Options{
			HTTPClient: srv.HTTPClient(),
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				calls++
				return limpet.Credential{Header: http.Header{"Authorization": {"Bearer canary"}}}, nil
			}}))
		var p *limpet.PermanentError
		if !errors.As(err, &p) || p.Class != limpet.ClassAuth || calls != 2 {
			t.Errorf("after %d calls: %v", calls, err)
		}
		if strings.Contains(fmt.Sprintf("%+v %#v", err, err), "canary") {
			t.Errorf("the error holds the credential: %+v", err)
		}
	})
}

func TestHangingAuthHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		release := make(chan struct{})
		var calls atomic.Int32
		c, err := limpet.New(srv.URL(), options(&limpet.Options{
			HTTPClient: srv.HTTPClient(),
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				calls.Add(1)
				<-release // regardless of ctx
				return limpet.Credential{}, nil
			}}))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if n := calls.Load(); n != 1 {
			t.Errorf("Auth runs %d times at once", n)
		}
		at := time.Now()
		closeAndWait(t, c)
		if took := time.Since(at); took > 100*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		close(release)
	})
}
