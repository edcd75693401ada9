package test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/native"
)

// A loop that retries while Retryable is true ends or gets through.
func TestRetryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 2, FailFast: true}})
		ctx := context.Background()
		srv.Stop()
		synctest.Wait()
		expires, err := c.Publish(ctx, "a", nil, &limpet.PublishOptions{TTL: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		unsent, err := c.Publish(ctx, "a", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, full := c.Publish(ctx, "a", nil, nil)
		_, expired := expires.Wait(ctx)
		_, waited := unsent.Wait(expiredContext())
		c.Close()
		_, neverSent := unsent.Wait(ctx)
		_, closed := c.Publish(ctx, "a", nil, nil)
		for _, tc := range []struct {
			name            string
			err             error
			safe, retryable bool
		}{
			{"nil", nil, false, false}, {"full", full, true, true}, {"expired", expired, true, true}, {"unsent", neverSent, true, true},
			{"closed", closed, true, false}, {"ctx of Wait", waited, false, false}, {"another's", errors.New("x"), false, false},
		} {
			if limpet.SafeToRetry(tc.err) != tc.safe || limpet.Retryable(tc.err) != tc.retryable {
				t.Errorf("%s: SafeToRetry %v, Retryable %v: %v", tc.name, limpet.SafeToRetry(tc.err), limpet.Retryable(tc.err), tc.err)
			}
		}
	})
}

func expiredContext() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), -1)
	cancel()
	return ctx
}

// The caller's deadline and the timeout of an attempt do not read alike.
func TestDeadlinesSayWhose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := limpet.New("ws://localhost", options(&limpet.Options{DialTimeout: time.Second,
			HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})}}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		if err := c.WaitReady(expiredContext()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "caller's context ended before the client was ready") {
			t.Errorf("WaitReady: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 1400*time.Millisecond)
		defer cancel()
		err = c.WaitReady(ctx)
		cause := c.State().Cause
		if cause == nil || limpet.ClassOf(cause) != limpet.ClassTimeout || !strings.Contains(cause.Error(), "Options.DialTimeout (1s") {
			t.Errorf("the attempt: %q, %v", limpet.ClassOf(cause), cause)
		}
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, cause) || !strings.Contains(err.Error(), "caller's context") {
			t.Errorf("the caller: %v", err)
		}
		sub, err := c.Subscribe(context.Background(), "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := sub.WaitLive(expiredContext()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "caller's context ended before the subscription was live") {
			t.Errorf("WaitLive: %v", err)
		}
	})
}

// A header of a credential that cannot be sent fails the attempt, with the name of
// the option and without the value.
func TestBadCredentialHeaderIsNamed(t *testing.T) {
	for _, header := range []http.Header{{"Authorization": {"canary\n"}}, {"Bearer canary": {""}}, {"Upgrade": {"canary"}}} {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			c := newClient(t, limpettest.NewServer(t, nil), limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				if asked++; asked > 1 {
					return limpet.Credential{}, nil
				}
				return limpet.Credential{Header: header}, nil
			}})
			synctest.Wait()
			cause := c.State().Cause
			if limpet.ClassOf(cause) != limpet.ClassUser || !strings.Contains(cause.Error(), "Options.Auth: Credential.Header") || strings.Contains(cause.Error(), "canary") {
				t.Errorf("%v", cause)
			}
			if err := c.WaitReady(context.Background()); err != nil || asked != 2 {
				t.Errorf("%d calls of Auth: %v", asked, err)
			}
		})
	}
}

// A peer that dropped the connection does not read as if this side had closed it.
func TestFailedWriteIsTheCause(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			good := srv.HTTPClient().Transport.(*http.Transport)
			var failing atomic.Bool
			transport := good.Clone()
			transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := good.DialContext(ctx, network, addr)
				return failingWrites{nc, &failing}, err
			}
			c, err := limpet.Dial(context.Background(), srv.URL(), options(&limpet.Options{HTTPClient: &http.Client{Transport: transport}, PlainFrames: plain}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			failing.Store(true)
			if _, err := c.Publish(context.Background(), "a", nil, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			cause := c.State().Cause
			if !errors.Is(cause, syscall.EPIPE) || strings.Contains(cause.Error(), "use of closed") || !strings.Contains(cause.Error(), "a write failed") {
				t.Errorf("plain=%v: %v", plain, cause)
			}
		})
	}
}

// failingWrites is a connection whose peer has gone, as a write sees it.
type failingWrites struct {
	net.Conn
	failing *atomic.Bool
}

func (c failingWrites) Write(p []byte) (int, error) {
	if c.failing.Load() {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

// A write can fail before the reader has come to the close frame that the peer sent
// before. The close frame decides. The library closes the connection itself.
func TestCloseFrameDecidesOverAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			time.Sleep(time.Second)
			p.ws.Close(4003, "")
		})
		good := s.host.HTTPClient().Transport.(*http.Transport)
		var failing atomic.Bool
		transport := good.Clone()
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := good.DialContext(ctx, network, addr)
			return failingWrites{nc, &failing}, err
		}
		c, err := limpet.Dial(t.Context(), s.host.URL(), options(&limpet.Options{HTTPClient: &http.Client{Transport: transport}, Heartbeat: rareHeartbeats}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		time.Sleep(990 * time.Millisecond)
		failing.Store(true)
		if _, err := c.Publish(t.Context(), "a", nil, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if st := c.State(); !*plainFlag && (st.Phase != limpet.Ended || limpet.ClassOf(st.Cause) != limpet.ClassAuth) {
			t.Errorf("%v: %v", st.Phase, st.Cause)
		}
	})
}

// A subscription that the server refuses has a class of its own.
func TestRefusedSubscriptionHasAClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(p.welcome(), native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: 1, Code: 16, Msg: "no"}})
		})
		_, sub := s.start(limpet.Options{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := sub.WaitLive(ctx)
		if !errors.Is(err, limpet.ErrRejected) || limpet.ClassOf(err) != limpet.ClassRejected {
			t.Errorf("%q: %v", limpet.ClassOf(err), err)
		}
	})
}
