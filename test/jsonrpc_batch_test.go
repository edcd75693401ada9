package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/jsonrpc"
)

// A node may refuse an array of requests as a whole: in an answer to the first of them
// (Geth), or to none. Nothing in it was executed: its subscriptions are asked for by
// themselves at once, and later requests go out alone.
func TestRefusedArrayOfRequests(t *testing.T) {
	const refusal = `"error":{"code":-32600,"message":"batch too large"}`
	for _, form := range []string{`[{"jsonrpc":"2.0","id":FIRST,ERROR}]`, `{"jsonrpc":"2.0","id":FIRST,ERROR}`, `{"jsonrpc":"2.0","id":null,ERROR}`} {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				arrays := 0
				host := newToyServer(t, func(_ int, say func(string), hear func() string) {
					for text := hear(); text != ""; text = hear() {
						var asks []rpcRequest
						if json.Unmarshal([]byte(text), &asks) == nil {
							arrays++
							say(strings.NewReplacer("FIRST", string(asks[0].ID), "ERROR", refusal).Replace(form))
							continue
						}
						var ask rpcRequest
						json.Unmarshal([]byte(text), &ask)
						say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":"x%s"}`, ask.ID, ask.ID))
					}
				}).host
				o := jsonrpc.Ethereum()
				o.Batch = 10
				c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: jsonrpc.New(o)}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				assert.NoError(t, c.WaitReady(t.Context()))
				logs := func(i int) *limpet.Subscription { return subscribe(t, c, fmt.Sprintf(`logs:{"address":"0x%d"}`, i)) }
				subs := []*limpet.Subscription{logs(1), logs(2), logs(3)}
				host.Network.CutAll() // they are asked for together on the next connection
				time.Sleep(5 * time.Second)
				synctest.Wait()
				for _, s := range subs {
					if st := s.State(); st.Phase != limpet.SubLive {
						t.Errorf("%s is %s: %v", s.Topic(), st.Phase, st.Err)
					}
				}
				before := arrays
				batch := make([]limpet.Outgoing, 3)
				for i := range batch {
					batch[i].Topic = "eth_call"
				}
				rs, err := c.PublishBatch(t.Context(), batch)
				assert.NoError(t, err)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				for _, r := range rs {
					if r.Outcome() != limpet.Acked {
						t.Errorf("%s", r.Outcome())
					}
				}
				if before == 0 || arrays != before {
					t.Errorf("%d arrays, then %d", before, arrays)
				}
			})
		})
	}
}

// Messages in an array that the node refuses as a whole are Rejected, all of them.
func TestRefusedArrayOfMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := 0
		srv := newRPCServer(t, func(_ int, r rpcRequest) []string {
			if strings.HasPrefix(r.Method, "not JSON: [") { // an array
				refused++
				return []string{`{"jsonrpc":"2.0","id":null,"error":{"code":-32005,"message":"Batched requests are not supported by this server"}}`}
			}
			return []string{fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":1}`, r.ID)}
		})
		o := jsonrpc.Ethereum()
		o.Batch = 10
		c := srv.client(t, o, limpet.Options{})
		assert.NoError(t, c.WaitReady(t.Context()))
		batch := make([]limpet.Outgoing, 3)
		for i := range batch {
			batch[i].Topic = "eth_call"
		}
		rs, err := c.PublishBatch(t.Context(), batch)
		assert.NoError(t, err)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if refused != 1 {
			t.Fatalf("%d arrays: the fault had no effect", refused)
		}
		for _, r := range rs {
			if r.Outcome() != limpet.Rejected {
				t.Errorf("%s", r.Outcome())
			}
		}
		if ack, err := c.Send(t.Context(), "eth_call", nil, nil); err != nil {
			t.Errorf("%s: %v", ack.Outcome, err)
		}
	})
}
