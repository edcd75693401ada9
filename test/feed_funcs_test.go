package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// note is a message of a server of one's own, in either direction.
type note struct {
	ID    uint64 `json:"id,omitempty"`
	Op    string `json:"op,omitempty"`
	OK    *bool  `json:"ok,omitempty"`
	Topic string `json:"topic,omitempty"`
	Text  string `json:"text,omitempty"`
	Seq   uint64 `json:"seq,omitempty"`
}

// ownDialect is the dialect of such a server.
func ownDialect(t *testing.T, change func(*feed.Funcs)) wire.Dialect {
	t.Helper()
	f := feed.Funcs{
		Name: "own", Confirms: true, ConfirmsEnd: true, Numbered: true, Acks: true,
		Subscribe: func(a feed.Ask) ([]byte, error) {
			return json.Marshal(note{ID: a.ID, Op: "sub", Topic: a.Topic, Seq: a.After.Offset})
		},
		Unsubscribe: func(a feed.Ask) ([]byte, error) { return json.Marshal(note{ID: a.ID, Op: "unsub", Topic: a.Topic}) },
		Publish: func(cmd uint64, m wire.Message) ([]byte, error) {
			return json.Marshal(note{ID: cmd, Op: "pub", Topic: m.Topic, Text: string(m.Payload)})
		},
		Read: func(data []byte, say func(feed.Item)) error {
			var n note
			switch err := json.Unmarshal(data, &n); {
			case err != nil:
				return err
			case n.OK == nil:
				say(feed.Item{Topic: n.Topic, Payload: []byte(n.Text), Number: n.Seq})
			case *n.OK:
				say(feed.Item{Kind: feed.Answered, ID: n.ID})
			default:
				say(feed.Item{Kind: feed.Refused, ID: n.ID, Code: int64(n.Seq), Reason: n.Text})
			}
			return nil
		},
	}
	if change != nil {
		change(&f)
	}
	d, err := feed.NewFuncs(f)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func noteText(n note) string {
	text, _ := json.Marshal(n)
	return string(text)
}

// ownClient returns a client of a server of one's own that answers as reply says.
func ownClient(t *testing.T, d wire.Dialect, reply func(conn int, n note, say func(note))) (*toyServer, *limpet.Client) {
	t.Helper()
	srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
		for text := hear(); text != ""; text = hear() {
			var n note
			if err := json.Unmarshal([]byte(text), &n); err != nil {
				t.Errorf("%s: %v", text, err)
			}
			reply(conn, n, func(n note) { say(noteText(n)) })
		}
	})
	c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return srv, c
}

var yes, no = true, false

// Each message that is published has one outcome by its id: taken, refused, or, when
// the connection breaks before the answer, unknown, except where it may be sent twice.
func TestOutcomesByID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		cmds := map[string][]uint64{}
		var srv *toyServer
		srv, c := ownClient(t, ownDialect(t, nil), func(conn int, n note, say func(note)) {
			if n.Op != "pub" {
				return
			}
			mu.Lock()
			cmds[n.Text] = append(cmds[n.Text], n.ID)
			mu.Unlock()
			switch {
			case n.Text == "bad":
				say(note{ID: n.ID, OK: &no, Text: "not here", Seq: 70_000})
			case n.Text == "lost" || n.Text == "again" && conn == 1: // no answer
			default:
				say(note{ID: n.ID, OK: &yes})
			}
		})
		receipts := map[string]*limpet.Receipt{}
		for _, text := range []string{"good", "bad", "lost", "again", "late"} {
			o := limpet.PublishOptions{}
			if text == "again" {
				o.Resend = limpet.AtLeastOnce
			}
			r, err := c.Publish(context.Background(), "t", []byte(text), &o)
			if err != nil {
				t.Fatal(err)
			}
			receipts[text] = r
		}
		time.Sleep(time.Second)
		srv.host.Network.ResetAll()
		for text, want := range map[string]error{"good": nil, "bad": limpet.ErrRejected, "lost": limpet.ErrOutcomeUnknown, "again": nil, "late": nil} {
			_, err := receipts[text].Wait(within(t, time.Minute))
			if !errors.Is(err, want) {
				t.Errorf("%s: got %v, want %v", text, err, want)
			}
			if le := (*limpet.Error)(nil); text == "bad" && (!errors.As(err, &le) || le.Code != 70_000) {
				t.Errorf("%v, want the server's code", err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if a := cmds["again"]; len(a) != 2 || a[0] != a[1] || len(cmds["lost"]) != 1 {
			t.Errorf("the server got %v", cmds)
		}
	})
}

// Messages have numbers, so that what is lost between two connections is a Gap and
// what comes twice is dropped; with Resume the server is asked to go on.
func TestOwnServerResumes(t *testing.T) {
	for _, resume := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			asked := make(chan uint64, 10)
			srv, c := ownClient(t, ownDialect(t, func(f *feed.Funcs) { f.Resume = resume }), func(conn int, n note, say func(note)) {
				if n.Op != "sub" {
					return
				}
				asked <- n.Seq
				say(note{ID: n.ID, OK: &yes})
				from, to := uint64(1), uint64(3)
				if conn > 1 {
					from, to = 6, 8
					if resume {
						from = n.Seq + 1
					}
				}
				for seq := from; seq <= to; seq++ {
					say(note{Topic: n.Topic, Text: fmt.Sprint(seq), Seq: seq})
				}
			})
			s := subscribeLive(t, c, "t", nil)
			first := collect(t, s, 3)
			srv.host.Network.ResetAll()
			want, n, after := "1 2 3 gap(3,5] 6 7 8", 4, uint64(0)
			if resume {
				want, n, after = "1 2 3 4 5 6 7 8", 5, 3
			}
			if got := payloads(append(first, collect(t, s, n)...)); got != want {
				t.Errorf("resume %v: got %s, want %s", resume, got, want)
			}
			if a, b := <-asked, <-asked; a != 0 || b != after {
				t.Errorf("resume %v: asked after %d, then %d", resume, a, b)
			}
		})
	}
}

// A function that panics ends the connection, not the program, and a message that Read
// refuses is skipped.
func TestOwnFunctionsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := ownDialect(t, func(f *feed.Funcs) {
			read := f.Read
			f.Read = func(data []byte, say func(feed.Item)) error {
				var n note
				if json.Unmarshal(data, &n) == nil && n.Text == "panic" {
					panic("in Read")
				}
				return read(data, say)
			}
		})
		srv, c := ownClient(t, d, func(conn int, n note, say func(note)) {
			say(note{ID: n.ID, OK: &yes})
			say(note{Topic: "*"})
			if conn == 1 {
				say(note{Topic: n.Topic, Text: "first", Seq: 1})
				time.Sleep(time.Second) // what comes in one read with a panic may be lost
				say(note{Topic: n.Topic, Text: "panic", Seq: 2})
			}
			say(note{Topic: n.Topic, Text: "fine", Seq: 2})
		})
		s := subscribeLive(t, c, "t", nil)
		if got := payloads(collect(t, s, 2)); got != "first fine" {
			t.Errorf("got %s", got)
		}
		srv.mu.Lock()
		defer srv.mu.Unlock()
		if srv.conns != 2 || c.Stats().Malformed != 2 {
			t.Errorf("%d connections, %d malformed messages", srv.conns, c.Stats().Malformed)
		}
	})
}

// What Read says of a message that it refuses, and what the server says, reach the
// observer and the log, escaped once.
func TestReasonsAreEscapedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const said = "want \"a\" or 'b',\tnot \\c"
		d := ownDialect(t, func(f *feed.Funcs) {
			read := f.Read
			f.Read = func(data []byte, say func(feed.Item)) error {
				var n note
				if json.Unmarshal(data, &n) == nil && n.Text == "odd" {
					return errors.New(said)
				}
				if n.Text == "notice" {
					say(feed.Item{Kind: feed.Notice, Reason: said})
					return nil
				}
				return read(data, say)
			}
		})
		var out lockedText
		var mu sync.Mutex
		var reasons []string
		srv := newToyServer(t, func(_ int, say func(string), hear func() string) {
			for _, text := range []string{"odd", "odd", "notice"} {
				say(noteText(note{Topic: "t", Text: text}))
			}
			hear()
		})
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{
			HTTPClient: srv.host.HTTPClient(), Dialect: d, Logger: slog.New(slog.NewJSONHandler(&out, nil)),
			Observer: observer(func(e limpet.Event) {
				if skipped, ok := e.(limpet.MessageSkipped); ok {
					mu.Lock()
					reasons = append(reasons, skipped.Reason)
					mu.Unlock()
				}
			}),
		}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeAndWait(t, c) })
		subscribe(t, c, "t")
		time.Sleep(2 * time.Second)
		const once = `want "a" or 'b',\tnot \c`
		mu.Lock()
		defer mu.Unlock()
		if len(reasons) != 1 || reasons[0] != "a message that Funcs.Read refuses: "+once || c.Stats().Malformed != 2 {
			t.Errorf("%d malformed messages, reasons %q", c.Stats().Malformed, reasons)
		}
		text, err := json.Marshal(once)
		if err != nil {
			t.Fatal(err)
		}
		if n := out.count(string(text[1:])); n != 2 { // of the message that was skipped, and of the notice
			t.Errorf("%d log lines with %s:\n%s", n, text, out.text.String())
		}
	})
}

// What the dialect cannot encode and no caller waits for is reported, with its reason,
// once for each kind on a connection: a ping, the end of a subscription.
func TestUnencodableOperationsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := ownDialect(t, func(f *feed.Funcs) {
			f.Ping = func() ([]byte, error) { return nil, errors.New("no ping today") }
			f.Unsubscribe = func(feed.Ask) ([]byte, error) { return nil, errors.New("no end today") }
		})
		srv := newToyServer(t, func(_ int, say func(string), hear func() string) {
			for text := hear(); text != ""; text = hear() {
				var n note
				json.Unmarshal([]byte(text), &n)
				say(noteText(note{ID: n.ID, OK: &yes}))
			}
		})
		var mu sync.Mutex
		var reported []string
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d, Observer: observer(func(e limpet.Event) {
			if failed, ok := e.(limpet.CallbackFailed); ok {
				mu.Lock()
				defer mu.Unlock()
				reported = append(reported, failed.Err.Error())
			}
		})}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		for _, topic := range []string{"a", "b"} {
			subscribeLive(t, c, topic, nil).Close()
		}
		time.Sleep(45 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		want := []string{
			`limpet: Encode: Options.Dialect: no end today: unsubscribe`,
			`limpet: Encode: Options.Dialect: no ping today: ping`,
		}
		if !slices.Equal(reported, want) {
			t.Errorf("reported %q, want %q", reported, want)
		}
	})
}
