package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/graphqlws"
)

// graphQLStreams has a stream with each sort of cursor, and a mutation.
var graphQLStreams = graphqlws.Options{Operations: map[string]graphqlws.Operation{
	"number":    {Query: "subscription($at: Int) { number(at: $at) }", Cursor: &graphqlws.Cursor{Variable: "at", Path: "v", Number: true, Expired: []string{"OLD"}}},
	"exact":     {Query: "subscription($at: ID) { exact(at: $at) }", Cursor: &graphqlws.Cursor{Variable: "at", Path: "v", Exact: true, Expired: []string{"OLD"}}},
	"inclusive": {Query: "subscription($at: ID) { inclusive(at: $at) }", Cursor: &graphqlws.Cursor{Variable: "at", Path: "v", Inclusive: true}},
	"cursor":    {Query: "subscription($at: ID) { cursor(at: $at) }", Cursor: &graphqlws.Cursor{Variable: "at", Path: "v"}},
	"plain":     {Query: "subscription { plain }"},
	"buy":       {Query: "mutation($n: Int) { buy(n: $n) }"},
}}

func graphQLValue(v any) string { return fmt.Sprintf(`{"data":{"v":%v}}`, v) }

// graphQLValues shows what a stream brought: values, errors and losses with their cause.
func graphQLValues(ms []limpet.Message) string {
	var words []string
	for _, m := range ms {
		var result struct{ V any }
		err := graphqlws.Unmarshal(m.Payload, &result)
		switch {
		case m.Loss != nil:
			words = append(words, fmt.Sprintf("%s(%s)", m.Kind, m.Loss.Cause))
		case err != nil:
			words = append(words, err.Error())
		default:
			words = append(words, fmt.Sprint(result.V))
		}
	}
	return strings.Join(words, " ")
}

// graphQLEnd waits for the end of a subscription and returns its values and its error.
func graphQLEnd(t *testing.T, s *limpet.Subscription) (string, *limpet.Error) {
	t.Helper()
	var ms []limpet.Message
	for m, err := range s.Messages(t.Context()) {
		if err == nil {
			ms = append(ms, m)
		}
	}
	var e *limpet.Error
	if err := s.Err(); err != nil && (!errors.As(err, &e) || !errors.Is(err, limpet.ErrRejected)) {
		t.Errorf("%s: %v", s, err)
	}
	return graphQLValues(ms), e
}

// A subscription counts as live once its request is written, since nothing confirms it.
// Each gets its own messages from the first on; one that is refused, fails or ends
// leaves the others alone, and its error has the text of the server.
func TestGraphQLSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newGraphQLPeer(t, func(p *graphQLConn, ask graphQLAsk) {
			switch id := ask.ID; {
			case ask.Type == "complete":
			case strings.Contains(ask.Payload.Query, "plain"): // the first messages come at once
				p.next(id, graphQLValue(1), `{"data":null,"errors":[{"message":"no price"}]}`, graphQLValue(9007199254740993))
			case strings.Contains(ask.Payload.Query, "refused"):
				p.refuse(id, "no such field", "")
			case strings.Contains(ask.Payload.Query, "forbidden"):
				p.next(id, `{"errors":[{"message":"not for you","extensions":{"code":"FORBIDDEN"}}]}`)
				p.complete(id)
			case strings.Contains(ask.Payload.Query, "fails"):
				p.next(id, graphQLValue(1))
				p.refuse(id, "source failed", "E1")
			case strings.Contains(ask.Payload.Query, "ends"):
				p.next(id, graphQLValue(1))
				p.complete(id)
			}
		})
		c := srv.client(t, graphQLStreams, limpet.Options{Resolver: func(context.Context) ([]string, error) {
			<-time.After(time.Second) // there is no connection before
			return []string{srv.host.URL()}, nil
		}})
		plain, err := c.Subscribe(t.Context(), "plain", nil)
		assert.NoError(t, err)
		synctest.Wait()
		if plain.State().Phase != limpet.SubPending {
			t.Error("live before there is a connection")
		}
		quiet := subscribeLive(t, c, "subscription { quiet }", nil) // it is never answered
		synctest.Wait()
		if _, id := srv.last("quiet"); id == "" || quiet.State().Phase != limpet.SubLive {
			t.Error("live, and the server does not know it")
		}
		for _, row := range []struct {
			topic, values, says string
			code                int
		}{
			{"subscription { refused }", "", "no such field", 400},
			{"subscription { forbidden }", "graphqlws: not for you", "not for you (FORBIDDEN)", 403},
			{"subscription { fails }", "1", "source failed (E1)", 400},
			{"subscription { ends }", "1", "", 0},
		} {
			s, err := c.Subscribe(t.Context(), row.topic, nil)
			assert.NoError(t, err)
			values, e := graphQLEnd(t, s)
			if values != row.values || (e == nil) != (row.says == "") || e != nil && (e.Code != row.code || !strings.Contains(e.Error(), row.says)) {
				t.Errorf("%s: %s, %v", row.topic, values, e)
			}
		}
		got := collect(t, plain, 3)
		if text := graphQLValues(got); text != "1 graphqlws: no price 9.007199254740992e+15" || string(got[2].Payload) != graphQLValue(9007199254740993) {
			t.Errorf("%s, %s", text, got[2].Payload)
		}
		p, id := srv.last("plain")
		assert.NoError(t, plain.Close())
		synctest.Wait()
		p.next(id, graphQLValue(4)) // it crossed the end
		p.next("4001", graphQLValue(5))
		p.next("x", graphQLValue(6))
		p.say("{", `{"type":"ka"}`)
		_, quietID := srv.last("quiet")
		p.next(quietID, `"no result"`, graphQLValue(7))
		if text := graphQLValues(collect(t, quiet, 2)); text != "gap(malformed) 7" {
			t.Error(text)
		}
		if st := c.Stats(); st.Unrequested != 1 || st.Malformed != 4 || c.State().Generation != 1 {
			t.Errorf("%d unrequested, %d malformed, connection %d", st.Unrequested, st.Malformed, c.State().Generation)
		}
		if ends := srv.asked(`"complete"`); len(ends) != 1 || ends[0] != fmt.Sprintf(`1 {"id":%q,"type":"complete"}`, id) {
			t.Errorf("ended %q", ends)
		}
	})
}

// What a reconnect costs with each sort of cursor. The server continues as its sort
// says, or leaves out messages.
func TestGraphQLResume(t *testing.T) {
	for _, row := range []struct {
		topic, sent string   // the cursor that the second connection sends
		second      []string // the values that it brings
		want        string
	}{
		{"number", `{"at":2}`, []string{"3", "4"}, "1 2 3 4"},
		{"number", `{"at":2}`, []string{"2", "3"}, "1 2 3"},
		{"number", `{"at":2}`, []string{"5"}, "1 2 gap(lost) 5"},
		{"number", `{"at":2}`, []string{"1"}, "1 2 reset(restarted) 1"},
		{"number", `{"at":2}`, []string{"null", "3"}, "1 2 reset(unverifiable) <nil> 3"},
		{"exact", `{"at":2}`, []string{"3", "4"}, "1 2 3 4"},
		{"inclusive", `{"at":2}`, []string{"2", "3", "4"}, "1 2 3 4"},
		{"inclusive", `{"at":2}`, []string{"3", "4"}, "1 2 reset(unverifiable) 3 4"},
		{"cursor", `{"at":2}`, []string{"3"}, "1 2 reset(unverifiable) 3"},
		{"plain", ``, []string{"3"}, "1 2 reset(unverifiable) 3"},
	} {
		t.Run(row.topic+" "+row.second[0], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newGraphQLPeer(t, func(p *graphQLConn, ask graphQLAsk) {
					values := []string{"1", "2"}
					if p.number == 2 {
						values = row.second
					}
					for _, v := range values {
						p.next(ask.ID, graphQLValue(v))
					}
				})
				c := srv.client(t, graphQLStreams, limpet.Options{})
				s := subscribeLive(t, c, row.topic, nil)
				got := collect(t, s, 2)
				srv.cut(t, c)
				got = append(got, waiting(t, s)...)
				if text := graphQLValues(got); text != row.want {
					t.Errorf("got %s, want %s", text, row.want)
				}
				asked := srv.asked(`"subscribe"`)
				if len(asked) != 2 || strings.Contains(asked[0], `"variables"`) || strings.Contains(asked[1], `"variables"`) != (row.sent != "") || !strings.Contains(asked[1], row.sent) {
					t.Errorf("asked %q", asked)
				}
				// Another process goes on from the same place.
				if at := s.Committed(); row.topic == "exact" {
					next := srv.client(t, graphQLStreams, limpet.Options{})
					other := subscribeLive(t, next, "exact", &limpet.SubscribeOptions{From: limpet.FromResume, Position: at})
					collect(t, other, 1)
					if asked := srv.asked(`"subscribe"`); len(asked) != 3 || !strings.Contains(asked[2], `{"at":`+at.Tag+`}`) || at.Tag != "3" { // 4 was taken last and is not acknowledged
						t.Errorf("from %v: %q", at, asked)
					}
				}
			})
		})
	}
}

// The number 0 is a place to go on from, as every other.
func TestGraphQLResumeFromZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newGraphQLPeer(t, func(p *graphQLConn, ask graphQLAsk) {
			p.next(ask.ID, graphQLValue(p.number-1))
		})
		c := srv.client(t, graphQLStreams, limpet.Options{})
		s := subscribeLive(t, c, "number", nil)
		got := collect(t, s, 1)
		srv.cut(t, c)
		got = append(got, collect(t, s, 1)...)
		srv.cut(t, c)
		got = append(got, collect(t, s, 1)...)
		asked := srv.asked(`"subscribe"`)
		if text := graphQLValues(got); text != "0 1 2" || len(asked) != 3 || !strings.Contains(asked[1], `"variables":{"at":0}`) || !strings.Contains(asked[2], `"variables":{"at":1}`) {
			t.Errorf("got %s, asked %q", text, asked)
		}
	})
}

// A cursor that the server does not hold any more, with a code in Cursor.Expired, costs a
// Reset: the operation is requested again, without it and under a new id. Any other
// refusal ends the subscription.
func TestGraphQLRefusedResume(t *testing.T) {
	for _, row := range []struct {
		topic, code string
		asNext      bool // as graphql-ws refuses a cursor: errors alone, then the end
		want        string
		ends        bool
	}{
		{"number", "OLD", false, "1 2 reset(expired) 8 9", false},
		{"number", "OLD", true, "1 2 reset(expired) 8 9", false},
		{"exact", "OLD", false, "1 2 reset(expired) 8 9", false},
		{"exact", "OLD", true, "1 2 reset(expired) 8 9", false},
		{"exact", "OTHER", false, "1 2", true},
		{"inclusive", "OLD", false, "1 2", true},
	} {
		t.Run(fmt.Sprint(row.topic, row.code, row.asNext), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refused := 0
				srv := newGraphQLPeer(t, func(p *graphQLConn, ask graphQLAsk) {
					switch {
					case p.number == 1:
						p.next(ask.ID, graphQLValue(1), graphQLValue(2))
					case len(ask.Payload.Variables) > 0:
						refused++
						if row.asNext {
							p.next(ask.ID, fmt.Sprintf(`{"data":null,"errors":[{"message":"too old","extensions":{"code":%q}}]}`, row.code))
							p.complete(ask.ID)
						} else {
							p.refuse(ask.ID, "too old", row.code)
						}
					default:
						p.next(ask.ID, graphQLValue(8), graphQLValue(9))
					}
				})
				c := srv.client(t, graphQLStreams, limpet.Options{})
				s := subscribeLive(t, c, row.topic, nil)
				got := collect(t, s, 2)
				srv.cut(t, c)
				if row.ends {
					values, e := graphQLEnd(t, s)
					if values != "" || e == nil || !strings.Contains(e.Error(), "too old") {
						t.Errorf("%s, %v", values, e)
					}
				} else {
					got = append(got, collect(t, s, 3)...)
				}
				if text := graphQLValues(got); text != row.want || refused != 1 {
					t.Errorf("got %s, refused %d times", text, refused)
				}
				if c.State().Generation != 2 {
					t.Errorf("connection %d", c.State().Generation)
				}
			})
		})
	}
}

// No id is used twice on a connection, over subscriptions that come and go, mutations,
// refused cursors and reconnects: the server would close with 4409.
func TestGraphQLIdsAreUnique(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newGraphQLPeer(t, func(p *graphQLConn, ask graphQLAsk) {
			switch {
			case ask.Type != "subscribe":
			case strings.HasPrefix(ask.Payload.Query, "mutation"):
				p.next(ask.ID, graphQLValue(1))
				p.complete(ask.ID)
			case len(ask.Payload.Variables) > 0:
				p.refuse(ask.ID, "too old", "OLD")
			default:
				p.next(ask.ID, graphQLValue(p.number))
			}
		})
		c := srv.client(t, graphQLStreams, limpet.Options{})
		stays := subscribeLive(t, c, "number", nil)
		for n := range 5 {
			for range 10 {
				s := subscribeLive(t, c, "plain", nil)
				_, err := c.Send(t.Context(), "buy", nil, nil)
				assert.NoError(t, err)
				assert.NoError(t, s.Close())
			}
			time.Sleep(time.Second)
			if text := graphQLValues(waiting(t, stays)); !strings.HasSuffix(text, fmt.Sprint(n+1)) {
				t.Errorf("connection %d: %s", n+1, text)
			}
			if n < 4 {
				srv.cut(t, c)
			}
		}
		if srv.ids != 5*20+1+4*2 || c.State().Generation != 5 {
			t.Errorf("%d ids on %d connections, the last ended with %v", srv.ids, c.State().Generation, c.State().Cause)
		}
	})
}
