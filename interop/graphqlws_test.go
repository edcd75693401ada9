package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire/graphqlws"
)

// graphQLServer starts the server of servers/graphqlws.mjs. It records every message to
// the file in LIMPET_RECORD, if that is set. Port 0 is any free one.
func graphQLServer(t *testing.T, port string) *peer {
	t.Helper()
	command := []string{"node", "servers/graphqlws.mjs", port}
	if file := os.Getenv("LIMPET_RECORD"); file != "" {
		command = append(command, file)
	}
	return startPeer(t, command...)
}

var graphQLOperations = map[string]graphqlws.Operation{
	"ticks": {
		Query:  `subscription($after: Int) { ticks(after: $after) { seq px } }`,
		Cursor: &graphqlws.Cursor{Variable: "after", Path: "ticks.seq", Number: true},
	},
	"events": {
		Query:  `subscription($after: String) { events(after: $after) { cursor big } }`,
		Cursor: &graphqlws.Cursor{Variable: "after", Path: "events.cursor", Exact: true, Expired: []string{"CURSOR_EXPIRED"}},
	},
	"from": {
		Query:  `subscription($at: String) { from(at: $at) { cursor } }`,
		Cursor: &graphqlws.Cursor{Variable: "at", Path: "from.cursor", Inclusive: true},
	},
	"count":   {Query: `subscription($to: Int!) { count(to: $to) }`},
	"publish": {Query: `mutation($px: Float!) { publish(px: $px) { seq } }`},
	"slow":    {Query: `mutation($px: Float!) { slow(px: $px) { seq } }`},
	"partly":  {Query: `mutation($px: Float!) { partly(px: $px) { seq note } }`},
	"fail":    {Query: `mutation { fail { seq } }`},
	"drop":    {Query: `mutation($n: Int!) { drop(n: $n) }`},
	"wait":    {Query: `mutation($streams: Int, $pings: Int) { wait(streams: $streams, pings: $pings) }`},
}

func graphQLClient(t *testing.T, url string, tokens ...string) *limpet.Client {
	t.Helper()
	asked := 0
	client, err := limpet.New(url+"/graphql", &limpet.Options{
		Dialect: graphqlws.New(graphqlws.Options{Operations: graphQLOperations}),
		Backoff: limpet.Backoff{First: -1, Initial: 50 * time.Millisecond, Max: 200 * time.Millisecond},
		// Every quarter of a second a ping, which the server must answer.
		Heartbeat: limpet.Heartbeat{Interval: 250 * time.Millisecond},
		Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			asked++
			return limpet.Credential{Token: limpet.Secret(tokens[min(asked, len(tokens))-1])}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); <-client.Done() })
	return client
}

// graphQLTake takes n messages; a loss shows as its kind and cause.
func graphQLTake(ctx context.Context, t *testing.T, sub *limpet.Subscription, n int) string {
	t.Helper()
	var got []string
	for m, err := range sub.Messages(ctx) {
		switch {
		case err != nil:
			t.Fatalf("%s: after %q: %v", sub, got, err)
		case m.Loss != nil:
			got = append(got, fmt.Sprintf("%v(%v)", m.Kind, m.Loss.Cause))
		default:
			got = append(got, string(m.Payload))
		}
		if n--; n == 0 {
			break
		}
	}
	return strings.Join(got, " ")
}

func graphQLCheck(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s\n got %s\nwant %s", what, got, want)
	}
}

// TestGraphQL: streams with each sort of cursor through a link that is cut, refusals
// and ends, mutations with each outcome, against graphql-ws.
func TestGraphQL(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	server := graphQLServer(t, "0")
	link := newLink(t, server.Addr)
	client := graphQLClient(t, link.URL, "t")
	subscribe := func(topic string) *limpet.Subscription {
		t.Helper()
		sub, err := client.Subscribe(ctx, topic, nil)
		if err == nil {
			err = sub.WaitLive(ctx)
		}
		if err != nil {
			t.Fatalf("%s: %v", topic, err)
		}
		return sub
	}
	send := func(topic, variables string) (limpet.Ack, error) {
		return client.Send(ctx, topic, []byte(variables), nil)
	}
	publish := func(px int) {
		t.Helper()
		ack, err := send("publish", fmt.Sprintf(`{"px":%d.5}`, px))
		if err != nil || ack.Outcome != limpet.Acked || string(ack.Reply) != fmt.Sprintf(`{"data":{"publish":{"seq":%d}}}`, px) {
			t.Fatalf("%v, %s, %v", ack.Outcome, ack.Reply, err)
		}
	}
	direct := graphQLClient(t, server.URL, "t")
	besides := func(topic, variables string) { // not through the link
		t.Helper()
		if ack, err := direct.Send(ctx, topic, []byte(variables), nil); err != nil || ack.Outcome != limpet.Acked {
			t.Fatalf("%s: %v, %v", topic, ack.Outcome, err)
		}
	}
	ticks, events, from := subscribe("ticks"), subscribe("events"), subscribe("from")
	publish(1)
	publish(2)
	tick := func(seq int) string { return fmt.Sprintf(`{"data":{"ticks":{"seq":%d,"px":%d.5}}}`, seq, seq) }
	event := func(seq int) string {
		return fmt.Sprintf(`{"data":{"events":{"cursor":"c%d","big":"9007199254740993"}}}`, seq)
	}
	at := func(seq int) string { return fmt.Sprintf(`{"data":{"from":{"cursor":"c%d"}}}`, seq) }
	graphQLCheck(t, "number", graphQLTake(ctx, t, ticks, 2), tick(1)+" "+tick(2))
	graphQLCheck(t, "exact cursor", graphQLTake(ctx, t, events, 2), event(1)+" "+event(2))
	graphQLCheck(t, "inclusive cursor", graphQLTake(ctx, t, from, 2), at(1)+" "+at(2))

	for _, row := range []struct {
		topic, got, says string
		code             int
	}{
		{`count:{"to":2}`, `{"data":{"count":1}} {"data":{"count":2}}`, "", 0},
		{`query { last { seq } }`, `{"data":{"last":{"seq":2}}}`, "", 0},
		{`subscription { boom }`, `{"data":{"boom":1}}`, "kaboom", 400},
		{`subscription { nosuch }`, ``, "Cannot query field", 400},
		{`subscription { secret }`, `*`, "not for you (FORBIDDEN)", 403},
	} {
		sub, err := client.Subscribe(ctx, row.topic, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for m, err := range sub.Messages(ctx) {
			if err == nil {
				got = append(got, string(m.Payload))
			}
		}
		var e *limpet.Error
		failed := errors.As(sub.Err(), &e)
		if text := strings.Join(got, " "); row.got != "*" && text != row.got || failed != (row.says != "") ||
			failed && (!errors.Is(e, limpet.ErrRejected) || e.Code != row.code || !strings.Contains(e.Error(), row.says)) {
			t.Errorf("%s: %s, then %v", row.topic, text, sub.Err())
		}
	}

	for topic, want := range map[string]limpet.Outcome{"fail": limpet.Rejected, "partly": limpet.Unknown} {
		variables := map[string]string{"fail": "", "partly": `{"px":3.5}`}[topic]
		if ack, err := send(topic, variables); ack.Outcome != want || err == nil {
			t.Errorf("%s: %v, %v", topic, ack.Outcome, err)
		} else {
			t.Log(err)
		}
	}
	graphQLTake(ctx, t, ticks, 1)
	graphQLTake(ctx, t, events, 1)
	graphQLTake(ctx, t, from, 1)

	// The link is cut while a mutation is executed, and the server goes on.
	slow, err := client.Publish(ctx, "slow", []byte(`{"px":4.5}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	graphQLCheck(t, "the mutation is executed", graphQLTake(ctx, t, ticks, 1), tick(4))
	graphQLTake(ctx, t, events, 1)
	graphQLTake(ctx, t, from, 1)
	link.Cut(true)
	if ack, err := slow.Wait(ctx); ack.Outcome != limpet.Unknown || !errors.Is(err, limpet.ErrOutcomeUnknown) {
		t.Errorf("%v, %v", ack.Outcome, err)
	}
	besides("publish", `{"px":5.5}`)
	besides("publish", `{"px":6.5}`)
	link.Cut(false)
	graphQLCheck(t, "number after a cut", graphQLTake(ctx, t, ticks, 2), tick(5)+" "+tick(6))
	graphQLCheck(t, "exact cursor after a cut", graphQLTake(ctx, t, events, 2), event(5)+" "+event(6))
	graphQLCheck(t, "inclusive cursor after a cut", graphQLTake(ctx, t, from, 2), at(5)+" "+at(6))

	// What the cursors need is forgotten while the link is down.
	link.Cut(true)
	besides("publish", `{"px":7.5}`)
	besides("publish", `{"px":8.5}`)
	besides("drop", `{"n":7}`)
	link.Cut(false)
	graphQLCheck(t, "a hole by number", graphQLTake(ctx, t, ticks, 2), "gap(lost) "+tick(8))
	var e *limpet.Error
	for range from.Messages(ctx) {
	}
	if !errors.As(from.Err(), &e) || !errors.Is(e, limpet.ErrRejected) {
		t.Errorf("a refused cursor without Expired: %v", from.Err())
	}
	besides("wait", `{"streams":2}`) // ticks, and the second request for events
	publish(9)
	graphQLCheck(t, "a refused cursor", graphQLTake(ctx, t, events, 2), "reset(expired) "+event(9))
	if err := ticks.Close(); err != nil {
		t.Fatal(err)
	}
	besides("wait", `{"pings":6}`) // of two clients: longer than one keeps a silent server
	if client.State().Generation != 3 || link.Made() != 3 {
		t.Errorf("%d connections of %d made, want 3", client.State().Generation, link.Made())
	}
}

// TestGraphQLEnds: refused credentials and close codes of the server.
func TestGraphQLEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	server := graphQLServer(t, "0")
	refused := graphQLClient(t, server.URL, "bad")
	var permanent *limpet.PermanentError
	if err := refused.WaitReady(ctx); !errors.As(err, &permanent) || permanent.Class != limpet.ClassAuth {
		t.Errorf("a bad token: %v", err)
	}
	if err := graphQLClient(t, server.URL, "bad", "t").WaitReady(ctx); err != nil {
		t.Errorf("a token that is refreshed: %v", err)
	}
	client := graphQLClient(t, server.URL, "t")
	if err := client.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"4500", "4408", "4429", "1001"} {
		before := client.State().Generation
		if err := server.Tell("close " + code); err != nil {
			t.Fatal(err)
		}
		if _, err := client.WaitState(ctx, func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation > before }); err != nil {
			t.Fatalf("after %s: %v", code, err)
		}
	}
	if err := server.Tell("close 4400"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-client.Done():
	case <-ctx.Done():
		t.Fatal("the client outlived 4400")
	}
	if !errors.As(client.Err(), &permanent) || permanent.Class != limpet.ClassProtocol {
		t.Errorf("after 4400: %v", client.Err())
	}
}

// TestGraphQLRestart: a server that is killed and started again.
func TestGraphQLRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	first := graphQLServer(t, "0")
	link := newLink(t, first.Addr)
	client := graphQLClient(t, link.URL, "t")
	sub, err := client.Subscribe(ctx, "ticks", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.WaitLive(ctx); err != nil {
		t.Fatal(err)
	}
	for _, px := range []string{"1", "2"} {
		if _, err := client.Send(ctx, "publish", []byte(`{"px":`+px+`}`), nil); err != nil {
			t.Fatal(err)
		}
	}
	graphQLCheck(t, "before", graphQLTake(ctx, t, sub, 2), `{"data":{"ticks":{"seq":1,"px":1}}} {"data":{"ticks":{"seq":2,"px":2}}}`)
	link.Cut(true)
	first.Kill()
	_, port, _ := strings.Cut(first.Addr, ":")
	graphQLServer(t, port)
	link.Cut(false)
	for range 3 { // its first two numbers are behind the cursor
		if _, err := client.Send(ctx, "publish", []byte(`{"px":9}`), nil); err != nil {
			t.Fatal(err)
		}
	}
	graphQLCheck(t, "the third number of the new server follows", graphQLTake(ctx, t, sub, 1), `{"data":{"ticks":{"seq":3,"px":9}}}`)
	if link.Made() != 2 {
		t.Errorf("%d connections", link.Made())
	}
}
