package limpet_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// Close codes, by what the client does: come back or stop, and under which
// class (docs/reconnect.md, section 3; docs/protocol.md, section 7).
func TestCloseCodeVerdicts(t *testing.T) {
	for _, tc := range []struct {
		code  uint16
		class limpet.ErrorClass
		final bool
	}{
		{1000, limpet.ClassNetwork, false}, {1001, limpet.ClassNetwork, false}, {1003, limpet.ClassProtocol, true},
		{1002, limpet.ClassProtocol, false}, {1007, limpet.ClassProtocol, false}, {1008, limpet.ClassAuth, false},
		{1009, limpet.ClassProtocol, false}, {1010, limpet.ClassProtocol, true}, {1011, limpet.ClassNetwork, false},
		{1012, limpet.ClassNetwork, false}, {1013, limpet.ClassOverload, false}, {1014, limpet.ClassNetwork, false},
		{3000, limpet.ClassNetwork, false}, {4000, limpet.ClassProtocol, true}, {4003, limpet.ClassAuth, true},
		{4006, limpet.ClassSession, true}, {4007, limpet.ClassSession, true}, {4099, limpet.ClassProtocol, true},
		{4100, limpet.ClassAuth, true}, {4200, limpet.ClassOverload, false}, {4207, limpet.ClassProtocol, false},
		{4299, limpet.ClassOverload, false}, {4300, "going_away", false}, {4400, limpet.ClassSession, false},
		{4402, limpet.ClassSession, false}, {4500, limpet.ClassNetwork, false},
	} {
		t.Run(fmt.Sprint(tc.code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				srv.Network.Strike(limpettest.CloseWith(tc.code, "because \x1b[31m", 0))
				s, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil })
				if err != nil {
					t.Fatal(err)
				}
				var e *limpet.Error
				if !errors.As(s.Cause, &e) || e.Code != int(tc.code) || strings.Contains(s.Cause.Error(), "\x1b") {
					t.Errorf("cause %q", s.Cause)
				}
				if got := limpet.ClassOf(s.Cause); got != tc.class {
					t.Errorf("class %q, want %q", got, tc.class)
				}
				err = c.WaitReady(context.Background())
				var p *limpet.PermanentError
				if final := errors.As(err, &p); final != tc.final {
					t.Errorf("final = %v, want %v: %v", final, tc.final, err)
				}
			})
		})
	}
}

func TestStatusVerdicts(t *testing.T) {
	for _, tc := range []struct {
		status int
		class  limpet.ErrorClass
		final  bool
	}{
		{400, limpet.ClassHTTP, true}, {401, limpet.ClassAuth, true}, {403, limpet.ClassAuth, true},
		{404, limpet.ClassHTTP, true}, {405, limpet.ClassHTTP, true}, {407, limpet.ClassProxy, true},
		{408, limpet.ClassHTTP, false}, {410, limpet.ClassHTTP, true}, {421, limpet.ClassHTTP, false},
		{425, limpet.ClassHTTP, false}, {426, limpet.ClassHTTP, true}, {429, limpet.ClassOverload, false},
		{431, limpet.ClassHTTP, true}, {500, limpet.ClassHTTP, false}, {501, limpet.ClassHTTP, true},
		{502, limpet.ClassHTTP, false}, {503, limpet.ClassOverload, false}, {504, limpet.ClassHTTP, false},
		{520, limpet.ClassHTTP, false}, {200, limpet.ClassNotWebSocket, false}, {302, limpet.ClassNotWebSocket, false},
	} {
		t.Run(http.StatusText(tc.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				srv.Inject(limpettest.RefuseUpgrade(tc.status, http.Header{"Location": {"http://127.0.0.1:1/"}}))
				c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
				if err != nil {
					t.Fatal(err)
				}
				defer closeAndWait(t, c)
				s, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil })
				if got := limpet.ClassOf(s.Cause); got != tc.class {
					t.Errorf("class %q, want %q: %v", got, tc.class, s.Cause)
				}
				var e *limpet.Error
				if !errors.As(s.Cause, &e) || e.Code != tc.status {
					t.Errorf("cause does not name the status: %v", s.Cause)
				}
				if hint := strings.Contains(s.Cause.Error(), "docs/fallback.md"); hint != (tc.status == http.StatusUpgradeRequired) {
					t.Errorf("the fallback is named: %v: %v", hint, s.Cause) // 426 says that no upgrade has arrived
				}
				err = c.WaitReady(context.Background())
				var p *limpet.PermanentError
				if final := errors.As(err, &p); final != tc.final {
					t.Errorf("final = %v, want %v: %v", final, tc.final, err)
				}
			})
		})
	}
}
