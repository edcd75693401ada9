package test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

var errNoAccount = errors.New("picky: the token names no account")

// picky is a dialect whose Open returns err, until it is nil.
type picky struct {
	bulkDialect
	err     *error
	verdict wire.Verdict
}

func (d picky) Open(r wire.Resume) (wire.Codec, error) {
	if *d.err != nil {
		return nil, *d.err
	}
	return d.bulkDialect.Open(r)
}

func (d picky) Verdict(f wire.Failure) wire.Verdict {
	if errors.Is(f.Err, errNoAccount) {
		return d.verdict
	}
	return wire.Verdict{}
}

// startPicky returns a client with d, and how often Auth was asked.
func startPicky(t *testing.T, d picky) (c *limpet.Client, asked *int) {
	host := limpettest.NewHandler(t, rawServer(drain), nil)
	asked = new(int)
	c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: d, HTTPClient: host.HTTPClient(),
		Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			*asked++
			return limpet.Credential{Token: "t"}, nil
		}}))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c, asked
}

// An error of Open is the dialect's own: the client reports it as it is, waits and tries again.
func TestErrorOfOpenIsTheDialects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := fmt.Errorf("look: %w", errNoAccount)
		c, _ := startPicky(t, picky{err: &err})
		time.Sleep(time.Hour)
		cause, attempts := c.State().Cause, c.Stats().FailedAttempts.Of(limpet.ClassUser)
		if !errors.Is(cause, errNoAccount) || errors.Is(cause, limpet.ErrSubprotocol) || limpet.ClassOf(cause) != limpet.ClassUser ||
			!strings.Contains(cause.Error(), "Options.Dialect: method Open cannot use the connection; correct the options of the dialect or the credential: look: picky") || attempts < 60 {
			t.Errorf("after %d attempts: class %q: %v", attempts, limpet.ClassOf(cause), cause)
		}
		err = nil
		assert.NoError(t, c.WaitReady(t.Context()))
	})
}

// The Verdict of the dialect decides what an error of its Open means.
func TestVerdictOnAnErrorOfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := errNoAccount
		c, _ := startPicky(t, picky{err: &err, verdict: wire.Verdict{Action: wire.ActionStop, Class: "auth"}})
		end := c.WaitReady(t.Context())
		var permanent *limpet.PermanentError
		if !errors.As(end, &permanent) || permanent.Class != limpet.ClassAuth || !errors.Is(end, errNoAccount) {
			t.Errorf("stop: %v", end)
		}
		c, asked := startPicky(t, picky{err: &err, verdict: wire.Verdict{Action: wire.ActionRefresh}})
		if end := c.WaitReady(t.Context()); limpet.ClassOf(end) != limpet.ClassAuth || !errors.Is(end, errNoAccount) || *asked != 2 {
			t.Errorf("refresh: %v, after %d credentials", end, *asked)
		}
	})
}

// A CodeError is a violation of the peer, from Open too.
func TestViolationFoundByOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var err error = &wire.CodeError{Code: 1002, Reason: "an odd subprotocol"}
		c, asked := startPicky(t, picky{err: &err})
		if end := c.WaitReady(t.Context()); limpet.ClassOf(end) != limpet.ClassProtocol || errors.Is(end, limpet.ErrSubprotocol) || *asked != 3 {
			t.Errorf("%v, after %d attempts", end, *asked)
		}
	})
}

// A server must choose a subprotocol if one is offered, whether Open looks at it or not.
func TestSubprotocolMustBeChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, rawServer(drain), nil)
		c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: &http.Client{Transport: host.HTTPClient().Transport},
			Dialect: raw.New(raw.Options{Subprotocols: []string{"prices.v2", "prices.v1"}})}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		end := c.WaitReady(t.Context())
		if !errors.Is(end, limpet.ErrSubprotocol) || !strings.Contains(end.Error(), "it chose none of prices.v2, prices.v1") {
			t.Errorf("%v", end)
		}
	})
}
