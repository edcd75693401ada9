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
	"github.com/limpet-go/limpet/wire/jsonrpc"
)

// The client receives from the first message on, also one that comes before the answer to
// its request. After a lost connection it asks again, the id is another one, and numbers
// show what is missing. What comes under the old id is counted.
func TestJSONRPCSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newRPCServer(t, func(conn int, r rpcRequest) []string {
			if conn == 1 && r.Method == "eth_subscribe" {
				return []string{ethHead("0x11", 4, "a", "a"), ethNode(conn, r)[0], ethHead("0x11", 5, "a", "a")}
			}
			return ethNode(conn, r)
		})
		c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
		heads := subscribeLive(t, c, "newHeads", nil)
		got := collect(t, heads, 2)
		srv.cut(t, c)
		assert.NoError(t, heads.WaitLive(t.Context()))
		srv.say(ethHead("0x11", 6, "a", "a"), ethHead("0x21", 8, "a", "a"), ethHead("0x21", 9, "a", "a"))
		got = append(got, collect(t, heads, 3)...)
		if text := story(got); text != "4 5 gap(5,7]x2:lost 8 9" {
			t.Error(text)
		}
		if st := c.Stats(); st.Unrequested != 1 || st.Malformed != 0 {
			t.Errorf("%d unrequested, %d malformed", st.Unrequested, st.Malformed)
		}
		if got[0].Position.Tag != "a4" || string(got[0].Payload) != `{"number":"0x4","hash":"a4","parentHash":"a3"}` || got[0].Topic != "newHeads" {
			t.Errorf("%+v, %s", got[0], got[0].Payload)
		}
		// Nothing is missing where the next number follows.
		srv.cut(t, c)
		assert.NoError(t, heads.WaitLive(t.Context()))
		srv.say(ethHead("0x31", 10, "a", "a"))
		if text := story(collect(t, heads, 1)); text != "10" {
			t.Error(text)
		}
		if n := srv.count(`3 eth_subscribe ["newHeads"]`); n != 1 {
			t.Errorf("asked %d times on connection 3", n)
		}
	})
}

// A reorganisation is a Reset, on one connection and across two.
func TestJSONRPCReorganisation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newRPCServer(t, ethNode)
		c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
		heads := subscribeLive(t, c, "newHeads", nil)
		srv.say(ethHead("0x11", 8, "a", "a"), ethHead("0x11", 9, "a", "a"), ethHead("0x11", 9, "a", "a"), ethHead("0x11", 9, "b", "a"))
		got := collect(t, heads, 4)
		srv.cut(t, c)
		assert.NoError(t, heads.WaitLive(t.Context()))
		srv.say(ethHead("0x21", 9, "c", "a"), ethHead("0x21", 10, "d", "d"))
		got = append(got, collect(t, heads, 4)...)
		if text := story(got); text != "8 9 reset(9,8]x0:diverged 9 reset(9,8]x0:diverged 9 reset(9,9]x0:diverged 10" {
			t.Error(text)
		}
		if n := heads.Stats().Duplicates; n != 1 {
			t.Errorf("%d duplicates", n)
		}
	})
}

// A stream without numbers begins with a Reset on each later connection, before any
// message: JSON-RPC has no resume.
func TestJSONRPCReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newRPCServer(t, ethNode)
		c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
		logs := subscribeLive(t, c, `logs:{"topics":[]}`, nil)
		srv.cut(t, c)
		if text := story(collect(t, logs, 1)); text != "reset(0,0]x0:unverifiable" {
			t.Error(text)
		}
		if n := srv.count(`2 eth_subscribe ["logs",{"topics":[]}]`); n != 1 {
			t.Errorf("asked %d times: %q", n, srv.heard)
		}
		if _, err := c.Subscribe(t.Context(), "newHeads", &limpet.SubscribeOptions{From: limpet.FromResume, Position: limpet.Position{Offset: 3}}); !errors.Is(err, limpet.ErrUnsupported) {
			t.Errorf("a position to resume from: %v", err)
		}
	})
}

// A refusal ends its subscription and no other. A rate limit postpones one.
func TestJSONRPCRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limited := 0
		srv := newRPCServer(t, func(conn int, r rpcRequest) []string {
			if string(r.Params) == `["logs"]` && limited < 2 {
				limited++
				return []string{rpcError(r.ID, -32005, "limit exceeded")}
			}
			return ethNode(conn, r)
		})
		c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
		heads := subscribeLive(t, c, "newHeads", nil)
		nope, err := c.Subscribe(t.Context(), "nope", nil)
		assert.NoError(t, err)
		var e *limpet.Error
		if err := nope.WaitLive(t.Context()); !errors.Is(err, limpet.ErrRejected) || !errors.As(err, &e) || e.Code != 32601 || !strings.Contains(e.Detail, "-32601: no such subscription") || e.Class != limpet.ClassRejected {
			t.Errorf("%v", err)
		}
		began := time.Now()
		subscribeLive(t, c, "logs", nil)
		if took := time.Since(began); limited != 2 || took < 20*time.Second || took > time.Minute {
			t.Errorf("live after %v and %d refusals", took, limited)
		}
		srv.say(ethHead("0x11", 1, "a", "a"))
		if text := story(collect(t, heads, 1)); text != "1" || c.State().Generation != 1 {
			t.Errorf("%s on connection %d", text, c.State().Generation)
		}
	})
}

// A subscription that is closed ends at the server, also one that was closed before the
// answer. The next one to the same topic has its own messages only.
func TestJSONRPCUnsubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var held []string
		srv := newRPCServer(t, func(conn int, r rpcRequest) []string {
			if string(r.Params) == `["logs"]` {
				held = ethNode(conn, r)
				return nil
			}
			return ethNode(conn, r)
		})
		c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
		heads := subscribeLive(t, c, "newHeads", nil)
		heads.Close()
		again := subscribeLive(t, c, "newHeads", nil)
		srv.say(ethHead("0x11", 1, "a", "a"), ethHead("0x13", 7, "a", "a"))
		if text := story(collect(t, again, 1)); text != "7" || srv.count(`1 eth_unsubscribe ["0x11"]`) != 1 {
			t.Errorf("%s, the server heard %q", text, srv.heard)
		}
		logs, err := c.Subscribe(t.Context(), "logs", nil)
		assert.NoError(t, err)
		synctest.Wait()
		logs.Close()
		synctest.Wait()
		if n := srv.count(`1 eth_unsubscribe ["0x14"]`); n != 0 || len(held) != 1 {
			t.Fatalf("ended %d times before the answer", n)
		}
		srv.say(held...)
		synctest.Wait()
		if n := srv.count(`1 eth_unsubscribe ["0x14"]`); n != 1 {
			t.Errorf("ended %d times after the answer: %q", n, srv.heard)
		}
	})
}

// A request ends as Acked with its result, or as Rejected with the code and the text. If the connection is lost before the answer, nothing is known, unless the
// caller allows twice.
func TestJSONRPCPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newRPCServer(t, ethNode)
		c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
		if ack, err := c.Send(t.Context(), "eth_blockNumber", nil, nil); err != nil || ack.Outcome != limpet.Acked || string(ack.Reply) != `{"of":"eth_blockNumber"}` {
			t.Errorf("%v, %v, %s", ack.Outcome, err, ack.Reply)
		}
		var e *limpet.Error
		if ack, err := c.Send(t.Context(), "eth_nope", []byte(`["a"]`), nil); ack.Outcome != limpet.Rejected || !errors.As(err, &e) || e.Code != 32000 || !strings.Contains(e.Detail, "nonce too low") {
			t.Errorf("%v, %v", ack.Outcome, err)
		}
		if ack, err := c.Send(t.Context(), "eth_call", []byte(`[1`), nil); ack.Outcome != limpet.Rejected || !strings.Contains(err.Error(), "JSON array") {
			t.Errorf("params that are not JSON: %v, %v", ack.Outcome, err)
		}
		unknown, err := c.Publish(t.Context(), "mute", []byte(`[1]`), nil)
		assert.NoError(t, err)
		twice, err := c.Publish(t.Context(), "mute", []byte(`[2]`), &limpet.PublishOptions{Resend: limpet.AtLeastOnce})
		assert.NoError(t, err)
		synctest.Wait()
		if unknown.Outcome() != limpet.Pending {
			t.Errorf("without an answer: %v", unknown.Outcome())
		}
		srv.cut(t, c)
		synctest.Wait()
		if unknown.Outcome() != limpet.Unknown || twice.Outcome() != limpet.Pending || srv.count("1 mute [1]") != 1 || srv.count("2 mute [1]") != 0 || srv.count("2 mute [2]") != 1 {
			t.Errorf("after the loss: %v, %v, the server heard %q", unknown.Outcome(), twice.Outcome(), srv.heard)
		}
	})
}

// A notification has no answer and ends as Written.
func TestJSONRPCNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newRPCServer(t, func(int, rpcRequest) []string { return []string{`{"jsonrpc":"2.0","method":"tick","params":[1]}`} })
		c := srv.client(t, jsonrpc.Options{Notify: true}, limpet.Options{})
		ticks := subscribeLive(t, c, "tick", nil)
		ack, err := c.Send(t.Context(), "log", []byte(`["a"]`), nil)
		if err != nil || ack.Outcome != limpet.Written {
			t.Errorf("%v, %v", ack.Outcome, err)
		}
		if text := payloads(collect(t, ticks, 1)); text != "[1]" || srv.count(`1 log ["a"]`) != 1 {
			t.Errorf("%s, %q", text, srv.heard)
		}
	})
}

// The token travels as a bearer token. One that is refused is refreshed; if that one is
// refused, too, the client ends.
func TestJSONRPCCredentials(t *testing.T) {
	for _, good := range []string{"t2", "none"} {
		t.Run(good, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newRPCServer(t, ethNode)
				refused := 0
				srv.admit = func(r *http.Request) int {
					if r.Header.Get("Authorization") == "Bearer "+good {
						return 0
					}
					refused++
					return http.StatusUnauthorized
				}
				tokens := 0
				c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
					tokens++
					return limpet.Credential{Token: limpet.Secret(fmt.Sprint("t", tokens))}, nil
				}})
				err := c.WaitReady(within(t, time.Minute))
				if good == "t2" && (err != nil || refused != 1) {
					t.Errorf("%v after %d refusals", err, refused)
				}
				if good == "none" && (limpet.ClassOf(err) != limpet.ClassAuth || c.Err() == nil || refused != 2) {
					t.Errorf("%v after %d refusals", err, refused)
				}
			})
		})
	}
}

// The client calls Options.Ping on a quiet connection, and notices a server that stops
// answering. A request of the server is answered.
func TestJSONRPCKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		srv := newRPCServer(t, func(conn int, r rpcRequest) []string {
			if time.Since(began) > 5*time.Minute {
				return nil
			}
			return ethNode(conn, r)
		})
		srv.host.Inject(limpettest.Stall(time.Millisecond))
		c := srv.client(t, jsonrpc.Options{Ping: "net_version"}, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}})
		assert.NoError(t, c.WaitReady(t.Context()))
		time.Sleep(time.Second)
		srv.say(`{"jsonrpc":"2.0","id":7,"method":"whoami"}`)
		time.Sleep(5*time.Minute - 2*time.Second)
		if n := srv.count("1 net_version"); n < 28 || n > 31 || c.State().Generation != 1 {
			t.Fatalf("%d pings on connection %d", n, c.State().Generation)
		}
		if n := srv.count(`1  {"code":-32601,"message":"method not found"}`); n != 1 {
			t.Errorf("the server heard %q", srv.heard)
		}
		took, cause := noticed(t, c)
		if !errors.Is(cause, limpet.ErrHeartbeat) || took > 30*time.Second {
			t.Errorf("after %v: %v", took, cause)
		}
	})
}

// What cannot be read or placed is counted, and the connection goes on.
func TestJSONRPCHostileServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newRPCServer(t, ethNode)
		c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
		heads := subscribeLive(t, c, "newHeads", nil)
		srv.say(ethHead("0x11", 1, "a", "a"), "garbage", "{}", "[]", "7", `{"id":99,"result":1}`, `{"id":1,"result":"0x11"}`, `{"id":null,"error":{"code":-32700}}`,
			ethHead("0x77", 1, "a", "a"), `{"method":"eth_subscription","params":{"subscription":"0x11"}}`, strings.Repeat("[", 20000), ethHead("0x11", 3, "a", "a"))
		if text := story(collect(t, heads, 3)); text != "1 gap(1,2]x1:malformed 3" {
			t.Error(text)
		}
		if st := c.Stats(); st.Malformed != 7 || st.Unrequested != 1 || c.State().Generation != 1 {
			t.Errorf("%d malformed, %d unrequested, connection %d", st.Malformed, st.Unrequested, c.State().Generation)
		}
	})
}

// Options that are wrong are refused by limpet.New, which names the option.
func TestJSONRPCOptionsAreChecked(t *testing.T) {
	_, err := limpet.New("ws://127.0.0.1", options(&limpet.Options{Dialect: jsonrpc.New(jsonrpc.Options{Batch: -1})}))
	if oe := (*jsonrpc.OptionError)(nil); !errors.As(err, &oe) || oe.Field != "Batch" {
		t.Errorf("%v", err)
	}
}

// A refusal has the server's own code or none, and the server's words, whatever the error
// is: an object without a code, one that no uint16 holds, or a text.
func TestJSONRPCErrorCodes(t *testing.T) {
	for answer, want := range map[string]string{
		`"error":{"code":-32601,"message":"a"}`: `32601 "-32601: a"`,
		`"error":{"code":100000,"message":"b"}`: `100000 "100000: b"`,
		`"error":{"code":0,"message":"c"}`:      `0 "c"`,
		`"error":{"message":"d"}`:               `0 "d"`,
		`"error":"e"`:                           `0 "e"`,
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := newRPCServer(t, func(_ int, r rpcRequest) []string {
				return []string{fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,%s}`, r.ID, answer)}
			})
			c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
			s := subscribe(t, c, "newHeads")
			_, rejected := c.Send(t.Context(), "eth_call", nil, nil)
			for _, err := range []error{s.WaitLive(within(t, time.Minute)), rejected} {
				e := assert.ErrorAs[*limpet.Error](t, err)
				if got := fmt.Sprint(e.Code, " ", e.Detail); got != want {
					t.Errorf("%s: %s, want %s", answer, got, want)
				}
			}
		})
	}
}
