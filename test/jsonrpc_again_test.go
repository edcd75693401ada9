package test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/jsonrpc"
)

// A request that a node has refused because of its rate is sent again when the node says,
// with Options.Again. Others are not held up, and another error is final.
func TestJSONRPCAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := 0
		srv := newRPCServer(t, func(conn int, r rpcRequest) []string {
			if r.Method == "eth_call" && refused < 2 {
				refused++
				return []string{strings.Replace(rpcError(r.ID, -32005, "rate exceeded"), `"}}`, `","data":{"rate":{"backoff_seconds":30}}}}`, 1)}
			}
			return ethNode(conn, r)
		})
		o := jsonrpc.Ethereum()
		o.Again = o.Retry
		c := srv.client(t, o, limpet.Options{})
		assert.NoError(t, c.WaitReady(t.Context()))
		began := time.Now()
		call, err := c.Publish(t.Context(), "eth_call", []byte(`[{}]`), nil)
		assert.NoError(t, err)
		if ack, err := c.Send(t.Context(), "eth_blockNumber", nil, nil); err != nil || ack.Outcome != limpet.Acked || time.Since(began) > time.Second {
			t.Errorf("another request: %v, %v", ack.Outcome, err)
		}
		if _, err := c.Send(t.Context(), "eth_nope", nil, nil); !errors.Is(err, limpet.ErrRejected) {
			t.Errorf("another error: %v", err)
		}
		ack, err := call.Wait(t.Context())
		if took := time.Since(began); err != nil || string(ack.Reply) != `{"of":"eth_call"}` || took < time.Minute || took > 61*time.Second {
			t.Errorf("%s after %v: %v", ack.Reply, took, err)
		}
		if n := srv.count(`1 eth_call [{}]`); n != 3 {
			t.Errorf("the node heard it %d times", n)
		}
	})
}

// Without Again the caller decides.
func TestJSONRPCRefusedForItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newRPCServer(t, func(conn int, r rpcRequest) []string { return []string{rpcError(r.ID, -32005, "rate exceeded")} })
		c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
		var e *limpet.Error
		if _, err := c.Send(t.Context(), "eth_call", nil, nil); !errors.Is(err, limpet.ErrRejected) || !errors.As(err, &e) || e.Code != 32005 {
			t.Error(err)
		}
	})
}
