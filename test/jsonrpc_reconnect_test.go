package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/jsonrpc"
)

// What a reconnect costs. The server gives the ids of the first connection to other
// subscriptions on the second: what was learned on one connection has no meaning on the
// next.
func TestJSONRPCReconnect(t *testing.T) {
	head := func(number int, branch, parent string) func(id string) string {
		return func(id string) string { return ethHead(id, number, branch, parent) }
	}
	other := func(result string) func(id string) string {
		return func(id string) string {
			return fmt.Sprintf(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":%q,"result":%s}}`, id, result)
		}
	}
	type messages []func(id string) string
	for _, row := range []struct {
		name, topic   string
		first, second messages
		want          string
	}{
		{"the next block", "newHeads", messages{head(1, "a", "a"), head(2, "a", "a")}, messages{head(3, "a", "a")}, "1 2 3"},
		{"the last block again", "newHeads", messages{head(1, "a", "a"), head(2, "a", "a")}, messages{head(2, "a", "a"), head(3, "a", "a")}, "1 2 3"},
		{"blocks are missing", "newHeads", messages{head(1, "a", "a"), head(2, "a", "a")}, messages{head(6, "a", "a")}, "1 2 gap(2,5]x3:lost 6"},
		{"the last block was replaced", "newHeads", messages{head(1, "a", "a"), head(2, "a", "a")}, messages{head(2, "b", "a"), head(3, "b", "b")}, "1 2 reset(2,1]x0:diverged 2 3"},
		{"it was replaced unseen", "newHeads", messages{head(1, "a", "a"), head(2, "a", "a")}, messages{head(3, "b", "b")}, "1 2 reset(2,2]x0:diverged 3"},
		{"another chain", "newHeads", messages{head(1, "a", "a"), head(2, "a", "a")}, messages{head(1, "b", "b")}, "1 2 reset(2,0]x0:restarted 1"},
		{"the first block was replaced", "newHeads", messages{head(0, "a", "a")}, messages{head(0, "b", "b"), head(1, "b", "b")}, "0 reset(0,0]x0:diverged 0 1"},
		{"a block that is pending", "newHeads", messages{head(1, "a", "a"), head(2, "a", "a")}, messages{other(`{"number":null}`)}, "1 2 reset(2,2]x0:unverifiable 2"},
		{"no numbers", "newPendingTransactions", messages{other(`"0x1"`)}, messages{other(`"0x3"`)}, "0 reset(0,0]x0:unverifiable 0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := map[int]int{} // by connection
				srv := newRPCServer(t, func(conn int, r rpcRequest) []string {
					if r.Method != "eth_subscribe" {
						return ethNode(conn, r)
					}
					asked[conn]++
					id := fmt.Sprint("0x", (conn+asked[conn])%2) // 0 and 1, then 1 and 0
					said := []string{rpcResult(r.ID, `"`+id+`"`)}
					if string(r.Params) != `["`+row.topic+`"]` {
						return append(said, other(fmt.Sprintf(`"quiet %d"`, conn))(id))
					}
					for _, message := range map[int]messages{1: row.first, 2: row.second}[conn] {
						said = append(said, message(id))
					}
					return said
				})
				c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
				s := subscribeLive(t, c, row.topic, nil)
				quiet := subscribeLive(t, c, "quiet", nil)
				got := collect(t, s, len(row.first))
				synctest.Wait()
				srv.cut(t, c)
				if text := story(append(got, waiting(t, s)...)); text != row.want {
					t.Errorf("got %s, want %s", text, row.want)
				}
				if text := payloads(waiting(t, quiet)); !strings.Contains(text, "quiet 1") || !strings.Contains(text, "quiet 2") {
					t.Errorf("the other one: %s", text)
				}
				assert.NoError(t, s.Close())
				synctest.Wait()
				if n := srv.count(`2 eth_unsubscribe ["0x1"]`); n != 1 || asked[1] != 2 || asked[2] != 2 {
					t.Errorf("asked %v, heard %q", asked, srv.heard)
				}
				if st := c.Stats(); st.Unrequested+st.Malformed != 0 {
					t.Errorf("%d unrequested, %d malformed", st.Unrequested, st.Malformed)
				}
			})
		})
	}
}

// The numbers of a Gap and the replies to requests are all that it takes to fill it.
func TestJSONRPCFillsAGap(t *testing.T) {
	block := func(n int) string { return fmt.Sprintf(`{"number":"0x%x","hash":"a%d","parentHash":"a%d"}`, n, n, n-1) }
	synctest.Test(t, func(t *testing.T) {
		srv := newRPCServer(t, func(conn int, r rpcRequest) []string {
			if r.Method == "eth_subscribe" {
				return append(ethNode(conn, r), ethHead(fmt.Sprintf("0x%d%s", conn, r.ID), conn*20-10, "a", "a"))
			}
			var params []any
			var n int
			if json.Unmarshal(r.Params, &params) == nil && len(params) == 2 {
				fmt.Sscanf(fmt.Sprint(params[0]), "0x%x", &n)
			}
			return []string{rpcResult(r.ID, block(n))}
		})
		c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
		s := subscribeLive(t, c, "newHeads", nil)
		got := collect(t, s, 1)
		srv.cut(t, c)
		var chain []string
		for _, m := range append(got, collect(t, s, 2)...) {
			if m.Kind != limpet.Gap {
				chain = append(chain, string(m.Payload))
				continue
			}
			for n := m.Loss.After.Offset + 1; n <= m.Loss.To.Offset; n++ {
				ack, err := c.Send(t.Context(), "eth_getBlockByNumber", fmt.Appendf(nil, `["0x%x",false]`, n), nil)
				assert.NoError(t, err)
				chain = append(chain, string(ack.Reply))
			}
		}
		if len(chain) != 21 {
			t.Errorf("%d blocks", len(chain))
		}
		for i, text := range chain {
			if text != block(10+i) {
				t.Errorf("block %d is %s", 10+i, text)
			}
		}
	})
}
