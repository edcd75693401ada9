package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
)

// newLog is a transaction whose code writes one log.
const newLog = `[{"from":%s,"data":"0x60006000a000","gas":"0x30000"}]`

// TestJSONRPCGanacheStreams: logs and transactions, which have no numbers, beside blocks,
// and a chain that is reorganised while the link is down, against Ganache 7.9.2.
func TestJSONRPCGanacheStreams(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := startPeer(t, "node", "servers/jsonrpc.mjs")
	l := newLink(t, p.Addr)
	n := newNode(t, ctx, l.URL, limpet.Options{})
	other := newNode(t, ctx, p.URL, limpet.Options{}) // its connection is not cut
	heads, logs, pending := n.subscribe("newHeads"), n.subscribe("logs:{}"), n.subscribe("newPendingTransactions")
	one := func(s *limpet.Subscription) (payload string) {
		t.Helper()
		for m, err := range s.Messages(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if m.Loss != nil {
				return fmt.Sprintf("%s:%s", m.Kind, m.Loss.Cause)
			}
			return string(m.Payload)
		}
		return ""
	}
	var accounts []json.RawMessage
	if err := json.Unmarshal([]byte(n.call("eth_accounts", "[]")), &accounts); err != nil || len(accounts) != 1 {
		t.Fatalf("%s, %v", accounts, err)
	}
	transaction := n.call("eth_sendTransaction", fmt.Sprintf(newLog, accounts[0]))
	if got := one(pending); got != transaction {
		t.Errorf("the transaction %s, announced as %s", transaction, got)
	}
	if got := one(logs); !strings.Contains(got, `"transactionHash":`+transaction) {
		t.Errorf("the log of %s: %s", transaction, got)
	}
	if got := n.take(heads, 1); got != "1" {
		t.Errorf("its block: %s", got)
	}

	// The last block is replaced while the link is down. The number of the next one does
	// not show it, its parent does.
	snapshot := other.call("evm_snapshot", "[]")
	other.call("evm_mine", "[]")
	if got := n.take(heads, 1); got != "2" {
		t.Errorf("then %s", got)
	}
	before := n.client.State().Generation
	l.Cut(true)
	other.call("evm_revert", "["+snapshot+"]")
	other.call("evm_increaseTime", "[1000]")
	other.call("evm_mine", "[]")
	l.Cut(false)
	if _, err := n.client.WaitState(ctx, func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation > before }); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*limpet.Subscription{heads, logs, pending} {
		if err := s.WaitLive(ctx); err != nil {
			t.Fatal(err)
		}
	}
	other.call("evm_mine", "[]")
	if got := n.take(heads, 2); got != "reset:diverged(2,2] 3" {
		t.Errorf("a chain that was reorganised meanwhile: %s", got)
	}
	if got := one(logs) + " " + one(pending); got != "reset:unverifiable reset:unverifiable" {
		t.Errorf("streams without numbers: %s", got)
	}
	if st := n.client.Stats(); st.Malformed != 0 || st.Unrequested != 0 || l.Made() != 2 {
		t.Errorf("%d malformed, %d unrequested, %d connections", st.Malformed, st.Unrequested, l.Made())
	}
}

// TestJSONRPCGanacheCredentials: a token that the server refuses, and one that is
// replaced.
func TestJSONRPCGanacheCredentials(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := startPeer(t, "node", "servers/jsonrpc.mjs", "0", "front")
	auth := func(tokens ...string) limpet.Options {
		asked := 0
		return limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			asked++
			return limpet.Credential{Token: limpet.Secret(tokens[min(asked, len(tokens))-1])}, nil
		}}
	}
	var permanent *limpet.PermanentError
	if err := newNode(t, ctx, p.URL, auth("bad")).client.WaitReady(ctx); !errors.As(err, &permanent) || permanent.Class != limpet.ClassAuth {
		t.Errorf("a refused token: %v", err)
	}
	if got := newNode(t, ctx, p.URL, auth("bad", "good")).call("eth_blockNumber", "[]"); got != `"0x0"` {
		t.Errorf("a token that is replaced: %s", got)
	}
}
