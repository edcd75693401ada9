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
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/socketio"
)

// A published event is Acked when its callback was called, Rejected when what it got says
// so, and what it got is the reply. Without acknowledgements it is Written.
func TestSocketIOPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, func(s *sioPeer) {
			s.events = func(p *plainConn, id, arguments string) {
				if id != "" {
					p.text("43" + id + "[" + strings.TrimPrefix(arguments, `["do",`))
				}
			}
		})
		rejected := func(_ string, arguments []byte) string {
			if string(arguments) == `["full"]` {
				return "no room"
			}
			return ""
		}
		c, _ := srv.client(t, socketio.Options{Rejected: rejected}, limpet.Options{})
		for _, row := range []struct {
			payload string
			o       limpet.PublishOptions
			want    limpet.Outcome
			says    string
		}{
			{`{"a":1}`, limpet.PublishOptions{}, limpet.Acked, ""},
			{`"full"`, limpet.PublishOptions{}, limpet.Rejected, "no room"},
			{`{`, limpet.PublishOptions{}, limpet.Rejected, "not JSON"},
			{`1`, limpet.PublishOptions{Header: map[string]string{"k": "v"}}, limpet.Rejected, "PublishOptions.Header"},
			{fmt.Sprintf("%q", strings.Repeat("x", 999_990)), limpet.PublishOptions{}, limpet.Rejected, "limit of 1000000"},
		} {
			r, err := c.Publish(t.Context(), "do", []byte(row.payload), &row.o)
			assert.NoError(t, err)
			ack, err := r.Wait(t.Context())
			if ack.Outcome != row.want || row.says == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), row.says) {
				t.Errorf("%.20q: %v, %v", row.payload, ack.Outcome, err)
			}
			if err == nil && string(ack.Reply) != "["+row.payload+"]" || err != nil && ack.Reply != nil {
				t.Errorf("%.20q: the reply is %s", row.payload, ack.Reply)
			}
		}
		if _, err := c.Publish(t.Context(), "connect", nil, nil); !errors.Is(err, limpet.ErrTopic) {
			t.Error(err)
		}
		other := newSioPeer(t, nil)
		w, _ := other.client(t, socketio.Options{NoAcks: true}, limpet.Options{})
		ack, err := w.Send(t.Context(), "do", []byte("\x00\xff"), &limpet.PublishOptions{Type: socketio.TypeBinary})
		synctest.Wait()
		if want := "1 text 40\n1 text 451-[\"do\",{\"_placeholder\":true,\"num\":0}]\n1 binary \x00\xff"; err != nil || ack.Outcome != limpet.Written || other.all() != want {
			t.Errorf("%v, %v, %q", ack.Outcome, err, other.all())
		}
	})
}

// When the connection is lost, what was answered is Acked, what was sent and not answered is
// Unknown or, if the caller allows it, sent again, and what was not sent goes out later.
func TestSocketIOPublishCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, func(s *sioPeer) {
			s.events = func(p *plainConn, id, arguments string) {
				if p.number > 1 || strings.Contains(arguments, "first") {
					p.text("43" + id + "[]")
				}
			}
		})
		c, _ := srv.client(t, socketio.Options{}, limpet.Options{})
		assert.NoError(t, c.WaitReady(t.Context()))
		publish := func(text string, o *limpet.PublishOptions) *limpet.Receipt {
			r, err := c.Publish(t.Context(), "do", fmt.Appendf(nil, "%q", text), o)
			assert.NoError(t, err)
			return r
		}
		first, unsure, twice := publish("first", nil), publish("unsure", nil), publish("twice", &limpet.PublishOptions{Resend: limpet.AtLeastOnce})
		synctest.Wait()
		srv.host.Network.CutAll()
		synctest.Wait()
		later := publish("later", nil)
		for _, row := range []struct {
			r    *limpet.Receipt
			want limpet.Outcome
		}{{first, limpet.Acked}, {unsure, limpet.Unknown}, {twice, limpet.Acked}, {later, limpet.Acked}} {
			row.r.Wait(t.Context())
			if got := row.r.Outcome(); got != row.want {
				t.Errorf("%v, want %v", got, row.want)
			}
		}
		for text, n := range map[string]int{"first": 1, "unsure": 1, "twice": 2, "later": 1} {
			if got := strings.Count(srv.all(), `"`+text+`"`); got != n {
				t.Errorf("the server heard %s %d times, want %d", text, got, n)
			}
		}
	})
}

// An event for which the server asks is acknowledged once it was processed, in whatever
// order, and never if nothing has processed it or on another connection.
func TestSocketIOProcessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, nil)
		c, _ := srv.client(t, socketio.Options{}, limpet.Options{}, socketio.All)
		jobs, err := c.Subscribe(t.Context(), "job", &limpet.SubscribeOptions{ManualAck: true})
		assert.NoError(t, err)
		assert.NoError(t, c.WaitReady(t.Context()))
		assert.NoError(t, jobs.WaitLive(t.Context()))
		srv.conn.text(`420["job","a"]`, `42["job","plain","o1"]`, `421["job","b"]`, `422["job","c"]`, `423["job","d"]`)
		var ms []limpet.Message
		for m := range jobs.C() {
			if ms = append(ms, m); len(ms) == 4 {
				break
			}
		}
		synctest.Wait()
		acked := func() string {
			synctest.Wait()
			return strings.Join(strings.FieldsFunc(srv.all(), func(r rune) bool { return r == '\n' })[1:], ", ")
		}
		if got := acked(); got != "" {
			t.Errorf("acknowledged on receipt: %s", got)
		}
		ms[2].Ack() // b
		ms[1].Ack() // nothing asked
		ms[2].Ack()
		if got := acked(); got != "1 text 431[]" {
			t.Errorf("b was processed: %s", got)
		}
		ms[0].Ack()
		if got := acked(); got != "1 text 431[], 1 text 430[]" {
			t.Errorf("a, too: %s", got)
		}
		ms[3].Nack()                    // c
		assert.NoError(t, jobs.Close()) // d was not taken
		time.Sleep(20 * time.Second)
		if got := acked(); got != "1 text 431[], 1 text 430[]" {
			t.Errorf("the rest was not: %s", got)
		}
		late, err := c.Subscribe(t.Context(), "late", &limpet.SubscribeOptions{ManualAck: true})
		assert.NoError(t, err)
		assert.NoError(t, late.WaitLive(t.Context()))
		srv.conn.text(`427["late",1]`)
		var m limpet.Message
		for m = range late.C() {
			break
		}
		srv.cut(t, c)
		m.Ack()
		if got := acked(); strings.Contains(got, "2 text 43") {
			t.Errorf("acknowledged on another connection: %s", got)
		}
	})
}

// The server's pings are answered and keep a connection; one that stops is noticed after
// pingInterval and pingTimeout.
func TestSocketIOKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, nil)
		c, _ := srv.client(t, socketio.Options{}, limpet.Options{}, "a")
		assert.NoError(t, c.WaitReady(t.Context()))
		for range 20 {
			time.Sleep(25 * time.Second)
			srv.conn.text("2")
		}
		synctest.Wait()
		if n := strings.Count(srv.all(), "1 text 3"); n != 20 || c.State().Generation != 1 || c.State().Phase != limpet.Ready {
			t.Errorf("%d answers, %+v", n, c.State())
		}
		began := time.Now()
		_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase != limpet.Ready })
		assert.NoError(t, err)
		if took := time.Since(began); took < 45*time.Second || took > 46*time.Second || !errors.Is(c.State().Cause, limpet.ErrHeartbeat) {
			t.Errorf("noticed after %v: %v", took, c.State().Cause)
		}
	})
}

// tokens returns an Auth that gives one token after the other.
func tokens(all ...string) func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
	n := 0
	return func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
		n++
		return limpet.Credential{Token: limpet.Secret(all[min(n, len(all))-1])}, nil
	}
}

// A credential that is refused ends the client, unless another one is taken. A refusal
// with a time is obeyed. The credential does not come back in an error.
func TestSocketIORefusals(t *testing.T) {
	refuses := func(s *sioPeer) {
		s.refuses = func(auth map[string]string) string {
			switch auth["token"] {
			case "good":
				return ""
			case "busy":
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.offsets = append(s.offsets, "refused"); len(s.offsets) > 1 {
					return ""
				}
				return `{"message":"busy","data":{"wait":77}}`
			}
			return fmt.Sprintf(`{"message":"no such user: %s","data":{"code":401}}`, auth["token"])
		}
	}
	refused := func(message string, data []byte) (wire.Action, time.Duration) {
		if message != "busy" || string(data) != `{"wait":77}` {
			return wire.ActionDefault, 0
		}
		return wire.ActionBackOff, 77 * time.Second
	}
	for _, row := range []struct {
		name   string
		auth   func(context.Context, limpet.AttemptInfo) (limpet.Credential, error)
		class  limpet.ErrorClass // empty: it gets ready
		dials  int
		atOnce bool
	}{
		{"without Auth", nil, limpet.ClassAuth, 1, true},
		{"twice", tokens("bad-token"), limpet.ClassAuth, 2, true},
		{"refreshed", tokens("bad-token", "good"), "", 2, true},
		{"with a time", tokens("busy"), "", 2, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newSioPeer(t, refuses)
				began := time.Now()
				c, _ := srv.client(t, socketio.Options{Refused: refused}, limpet.Options{Auth: row.auth})
				err := c.WaitReady(t.Context())
				took := time.Since(began)
				var permanent *limpet.PermanentError
				switch {
				case row.class == "" && err != nil:
					t.Error(err)
				case row.class != "" && (!errors.As(err, &permanent) || permanent.Class != row.class || strings.Contains(err.Error(), "bad-token") || !strings.Contains(err.Error(), "no such user")):
					t.Errorf("%v, want class %s", err, row.class)
				}
				if dials := len(srv.host.Network.Dials()); dials != row.dials || row.atOnce != (took < 10*time.Second) || !row.atOnce && took < 77*time.Second {
					t.Errorf("%d dials in %v", dials, took)
				}
			})
		})
	}
}

// A client that the server has disconnected ends or, with the option Return, comes back
// without the session. One whose connection the server closes comes back in any case.
func TestSocketIODisconnected(t *testing.T) {
	for _, row := range []struct {
		name, packet string
		returns      bool
		class        limpet.ErrorClass
		offsets      string
	}{
		{"disconnected", "41", false, limpet.ClassSession, ""},
		{"disconnected, and returns", "41", true, "", " "},
		{"closed", "1", false, "", " o1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newSioPeer(t, nil)
				c, subs := srv.client(t, socketio.Options{Return: row.returns}, limpet.Options{}, "a")
				assert.NoError(t, c.WaitReady(t.Context()))
				srv.emit(`["a",1]`)
				collect(t, subs[0], 1)
				synctest.Wait()
				srv.conn.text(row.packet)
				time.Sleep(30 * time.Second)
				var permanent *limpet.PermanentError
				if row.class != "" {
					if !errors.As(c.Err(), &permanent) || permanent.Class != row.class {
						t.Error(c.Err())
					}
				} else if c.State().Phase != limpet.Ready || c.State().Generation != 2 {
					t.Errorf("%+v", c.State())
				}
				if got := srv.cameBackWith(); got != row.offsets {
					t.Errorf("the client came with %q, want %q", got, row.offsets)
				}
			})
		})
	}
}

// A server that opens no connection is given up after the time for a handshake.
func TestSocketIOServerThatIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newSioPeer(t, func(s *sioPeer) { s.silent = true })
		c, _ := srv.client(t, socketio.Options{}, limpet.Options{})
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
		if err != nil || !errors.Is(st.Cause, limpet.ErrHeartbeat) || srv.all() != "" {
			t.Errorf("%+v, %v, the server heard %q", st, err, srv.all())
		}
	})
}

// Wrong options are refused by limpet.New, which names the option.
func TestSocketIOOptionsAreChecked(t *testing.T) {
	_, err := limpet.New("ws://127.0.0.1", options(&limpet.Options{Dialect: socketio.New(socketio.Options{Namespace: "x"})}))
	var e *limpet.Error
	var oe *socketio.OptionError
	if !errors.As(err, &e) || e.Field != "Options.Dialect" || e.Class != limpet.ClassInput || !errors.As(err, &oe) || oe.Field != "Namespace" {
		t.Errorf("%v", err)
	}
}
