package test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
	"nhooyr.io/websocket"
)

// eachFrameLayer runs f in a bubble for each frame layer.
func eachFrameLayer(t *testing.T, f func(t *testing.T, plain bool)) {
	for _, plain := range bothFrameLayers() {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, plain) })
		})
	}
}

// TestSendStream: one message in fragments, of whatever size, in whatever pieces the reader
// returns it.
func TestSendStream(t *testing.T) {
	eachFrameLayer(t, func(t *testing.T, plain bool) {
		p := newStreamPeer(t)
		c := p.client(t, raw.Options{}, limpet.Options{PlainFrames: plain})
		id := uuid.New()
		long := strings.Repeat("0123456789é", 20_000)
		var want []string
		for _, row := range []struct {
			r io.Reader
			o *limpet.PublishOptions
			s string
		}{
			{strings.NewReader(""), nil, "text "},
			{strings.NewReader("x"), nil, "text x"},
			{strings.NewReader(long), &limpet.PublishOptions{ID: id}, "text " + long},
			{iotest.OneByteReader(strings.NewReader("été €")), nil, "text été €"},
			{iotest.DataErrReader(strings.NewReader(long)), nil, "text " + long},
			{strings.NewReader("\xff\x00"), &limpet.PublishOptions{Type: raw.TypeBinary}, "binary \xff\x00"},
		} {
			ack, err := c.SendStream(t.Context(), "*", row.r, row.o)
			if err != nil || ack.Outcome != limpet.Written || row.o != nil && row.o.ID != uuid.Nil && ack.ID != row.o.ID || ack.ID == uuid.Nil {
				t.Errorf("%.20q: %+v, %v", row.s, ack, err)
			}
			want = append(want, row.s)
		}
		synctest.Wait()
		_, got := p.seen()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the server got %d messages, or others: %.200q", len(got), got)
		}
		if frames := p.data(); !strings.HasPrefix(frames, "1 text 0 fin, 1 text 1") || strings.Count(frames, "1 text ") != 5 || strings.Count(frames, "fin") != 6 || strings.Count(frames, "cont") < 10 {
			t.Errorf("frames %s", frames)
		}
		if st := c.Stats(); st.Published != 6 || st.Written != 6 || st.BytesWritten != uint64(2*len(long)+1+9+2) {
			t.Errorf("%+v", st)
		}
	})
}

// TestStreamLeavesRoomForControlFrames: while the reader waits, pings pass in both directions, and keep the
// connection. What else is published waits, and so does a heartbeat in texts. A reader may be slow.
func TestStreamLeavesRoomForControlFrames(t *testing.T) {
	for _, ping := range []string{"", "beat"} {
		eachFrameLayer(t, func(t *testing.T, plain bool) {
			p := newStreamPeer(t)
			c := p.client(t, raw.Options{Ping: ping, Pong: ping}, limpet.Options{PlainFrames: plain, Heartbeat: limpet.Heartbeat{Interval: 4 * time.Second}})
			r := newSource()
			call := sendStream(t.Context(), c, r, nil)
			synctest.Wait() // the reader is asked first
			for i := range 10 {
				r.give(fmt.Sprint(i))
				time.Sleep(14 * time.Second)
				p.say(0x89, fmt.Sprint("p", i))
				if i == 0 {
					c.Publish(t.Context(), "*", []byte("waits"), nil)
				}
			}
			synctest.Wait()
			call.running(t, "after 140 s")
			frames, messages := p.seen()
			pings, pongs := 0, 0
			for _, f := range frames {
				pings += strings.Count(f, "ping")
				pongs += strings.Count(f, "pong")
			}
			if pings < 25 || pongs != 10 || len(messages) > 1 { // before the stream there may be one heartbeat
				t.Errorf("%d pings, %d pongs, messages %q", pings, pongs, messages)
			}
			r.end()
			<-call.done
			synctest.Wait()
			_, messages = p.seen()
			if rest := strings.Join(messages, ","); call.err != nil || !strings.Contains(rest, "text 0123456789,") || !strings.HasSuffix(strings.TrimSuffix(rest, ",text beat"), "text waits") {
				t.Errorf("%v, messages %q", call.err, messages)
			}
			if g := c.State().Generation; g != 1 {
				t.Errorf("connection %d: %v", g, c.State().Cause)
			}
		})
	}
}

// reader is a function as an io.Reader.
type reader func(p []byte) (int, error)

func (f reader) Read(p []byte) (int, error) { return f(p) }

// TestReaderThatFails: before anything is sent, a reader that fails is an error and no more. Afterwards it costs
// the connection, and the next one carries what waits.
func TestReaderThatFails(t *testing.T) {
	broken := errors.New("broken")
	for _, row := range []struct {
		name string
		fail reader
		want error
		says string
	}{
		{"an error", func([]byte) (int, error) { return 0, broken }, broken, "broken"},
		{"data and an error", func(p []byte) (int, error) { return 1, broken }, broken, "broken"},
		{"an end too early", func(p []byte) (int, error) { return 0, io.ErrUnexpectedEOF }, io.ErrUnexpectedEOF, ""},
		{"a panic", func([]byte) (int, error) { panic("oops") }, limpet.ErrPanic, "oops"},
		{"Goexit", func([]byte) (int, error) { runtime.Goexit(); return 0, nil }, nil, "runtime.Goexit"},
		{"a negative count", func([]byte) (int, error) { return -1, nil }, nil, "a count of bytes"},
		{"a count beyond the buffer", func(p []byte) (int, error) { return len(p) + 1, nil }, nil, "a count of bytes"},
		{"no progress", func([]byte) (int, error) { return 0, nil }, io.ErrNoProgress, ""},
		{"an error that panics", func([]byte) (int, error) { return 0, (*nilError)(nil) }, limpet.ErrPanic, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachFrameLayer(t, func(t *testing.T, plain bool) {
				p := newStreamPeer(t)
				c := p.client(t, raw.Options{}, limpet.Options{PlainFrames: plain})
				sendStream(t.Context(), c, row.fail, nil).notSent(t, "at first", row.want, row.says)
				synctest.Wait()
				if frames := p.data(); frames != "" || c.State().Generation != 1 {
					t.Errorf("connection %d: %s", c.State().Generation, frames)
				}
				sendStream(t.Context(), c, io.MultiReader(strings.NewReader("begun"), row.fail), nil).unknown(t, "later", row.want, row.says)
				next := sendStream(t.Context(), c, strings.NewReader("next"), nil)
				<-next.done
				synctest.Wait()
				frames := p.data()
				if next.err != nil || !strings.HasPrefix(frames, "1 text 5, 1 close 1011, 2 text 4") && !(plain && strings.HasPrefix(frames, "1 close 1011, 2 text 4")) {
					t.Errorf("%v, frames %s", next.err, frames)
				}
				if cause := c.State().Cause; limpet.ClassOf(cause) != limpet.ClassUser || !strings.Contains(cause.Error(), "SendStream") {
					t.Errorf("%v", cause)
				}
				if st := c.Stats(); st.Published != 2 || st.Unknown != 1 || st.Written != 1 {
					t.Errorf("published %d, unknown %d, written %d", st.Published, st.Unknown, st.Written)
				}
			})
		})
	}
}

// TestReaderThatStalls: before anything is sent a reader may take its time, also while others
// send. Afterwards it has 15 seconds for each part.
func TestReaderThatStalls(t *testing.T) {
	eachFrameLayer(t, func(t *testing.T, plain bool) {
		p := newStreamPeer(t)
		c := p.client(t, raw.Options{}, limpet.Options{PlainFrames: plain})
		r := newSource()
		call := sendStream(t.Context(), c, r, nil)
		time.Sleep(time.Hour)
		if _, err := c.Send(t.Context(), "*", []byte("meanwhile"), nil); err != nil {
			t.Error(err)
		}
		if _, err := c.SendStream(t.Context(), "*", strings.NewReader("overtakes"), nil); err != nil {
			t.Error(err)
		}
		r.give("part")
		time.Sleep(15*time.Second - time.Millisecond)
		r.give("part")
		synctest.Wait()
		began := time.Now()
		call.running(t, "after 15 s less 1 ms")
		call.unknown(t, "after 15 s", nil, "the reader returned nothing for 15s")
		if took := time.Since(began); took != 15*time.Second {
			t.Errorf("after %v", took)
		}
		synctest.Wait()
		if g := c.State().Generation; g != 1 || c.State().Phase == limpet.Ready {
			t.Errorf("%v", c.State())
		}
		r.end()
	})
}

// TestStreamTakesItsTurn: messages that were published before a stream come first, and those
// published later do not hold it up. Streams come one after the other, not before the client is ready.
func TestStreamTakesItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newStreamPeer(t)
		p.host.Inject(limpettest.Stall(time.Second))
		c, err := limpet.New(p.host.URL(), options(&limpet.Options{HTTPClient: p.host.HTTPClient(), Dialect: raw.New(raw.Options{OnOpen: func(wire.Resume) [][]byte { return [][]byte{[]byte("login")} }})}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		long := strings.Repeat("x", 60<<10)
		for _, text := range []string{long, long, long, "last"} { // more than one write
			if _, err := c.Publish(t.Context(), "*", []byte(text), nil); err != nil {
				t.Fatal(err)
			}
		}
		first := sendStream(t.Context(), c, strings.NewReader("stream 1"), nil)
		synctest.Wait()
		second := sendStream(t.Context(), c, strings.NewReader("stream 2"), nil)
		synctest.Wait()
		if _, err := c.Publish(t.Context(), "*", []byte("after"), nil); err != nil {
			t.Fatal(err)
		}
		<-first.done
		<-second.done
		synctest.Wait()
		_, messages := p.seen()
		for i := range messages {
			messages[i] = strings.TrimPrefix(messages[i][:min(len(messages[i]), 13)], "text ")
		}
		got := strings.Join(messages, ",")
		if len(messages) != 8 || !strings.HasPrefix(got, "login,xxxxxxxx,") || strings.Index(got, "last") > strings.Index(got, "stream 1") || strings.Index(got, "stream 1") > strings.Index(got, "stream 2") {
			t.Errorf("%v, %v: %s", first.err, second.err, got)
		}
	})
}

// TestStreamIsOneMessage: for a limit of messages the fragments of a stream count as one.
func TestStreamIsOneMessage(t *testing.T) {
	eachFrameLayer(t, func(t *testing.T, plain bool) {
		p := newStreamPeer(t)
		o := raw.Options{Limits: wire.ConnectionLimits{Messages: 10, Per: 10 * time.Second}} // 2 at once, then 0.8 a second
		c := p.client(t, o, limpet.Options{PlainFrames: plain, Heartbeat: limpet.Heartbeat{Interval: time.Hour}})
		time.Sleep(time.Minute)
		began := time.Now()
		for range 4 {
			if _, err := c.SendStream(t.Context(), "*", strings.NewReader(strings.Repeat("x", 200<<10)), nil); err != nil {
				t.Error(err)
			}
		}
		// The first heartbeat comes at a random moment of the hour, and takes 1.25 s of it.
		if took := time.Since(began); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("four streams took %v, want 2.5 s", took)
		}
	})
}

// TestStreamIsText: a text that is not UTF-8 is not finished. If the first part shows it, nothing is sent.
func TestStreamIsText(t *testing.T) {
	eachFrameLayer(t, func(t *testing.T, plain bool) {
		p := newStreamPeer(t)
		c := p.client(t, raw.Options{}, limpet.Options{PlainFrames: plain})
		send := func(text string) *streamCall { return sendStream(t.Context(), c, strings.NewReader(text), nil) }
		send("ab\xff\xe2").notSent(t, "a byte that is in no text", limpet.ErrRejected, "UTF-8")
		sendStream(t.Context(), c, strings.NewReader("a"), &limpet.PublishOptions{Header: map[string]string{"k": "v"}}).
			notSent(t, "a header", limpet.ErrRejected, "PublishOptions.Header")
		send("fine").written(t, "after a text that is none")
		if g := c.State().Generation; g != 1 {
			t.Errorf("connection %d", g)
		}
		send("\xe2\x82").unknown(t, "the end within a character", nil, "UTF-8")
		synctest.Wait()
		if _, messages := p.seen(); fmt.Sprint(messages) != "[text fine]" {
			t.Errorf("messages %q", messages)
		}
	})
}

// TestStreamIsRefused: what cannot be sent as a stream is refused by name, before the reader is used.
func TestStreamIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unread := iotest.ErrReader(errors.New("must not be read"))
		native := dial(t, limpettest.NewServer(t, nil), nil)
		sendStream(t.Context(), native, unread, nil).notSent(t, "limpet.v1", limpet.ErrUnsupported, "dialect limpet has no messages of unknown size (trait Streams)")
		c := newStreamPeer(t).client(t, raw.Options{}, limpet.Options{})
		for _, row := range []struct {
			r     io.Reader
			o     *limpet.PublishOptions
			class limpet.ErrorClass
			field string
		}{
			{nil, nil, limpet.ClassInput, "r"},
			{unread, &limpet.PublishOptions{TTL: time.Second}, limpet.ClassUnsupported, "PublishOptions.TTL"},
			{unread, &limpet.PublishOptions{Resend: limpet.AtLeastOnce}, limpet.ClassUnsupported, "PublishOptions.Resend"},
			{unread, &limpet.PublishOptions{Done: func(*limpet.Receipt) {}}, limpet.ClassUnsupported, "PublishOptions.Done"},
			{unread, &limpet.PublishOptions{Type: "\xff"}, limpet.ClassInput, "PublishOptions.Type"},
		} {
			call := sendStream(t.Context(), c, row.r, row.o)
			call.notSent(t, row.field, nil, "SendStream: "+row.field)
			if limpet.ClassOf(call.err) != row.class {
				t.Errorf("%v: class %s", call.err, limpet.ClassOf(call.err))
			}
		}
		var none context.Context
		sendStream(none, c, unread, nil).notSent(t, "no ctx", nil, "ctx")
		if _, err := c.SendStream(t.Context(), "orders", unread, nil); !errors.Is(err, limpet.ErrTopic) || !limpet.SafeToRetry(err) {
			t.Error(err)
		}
	})
}

// TestStreamOfABadDialect: a dialect that claims Streams and puts something else into the message is
// found out, and one that panics costs the connection.
func TestStreamOfABadDialect(t *testing.T) {
	for _, panics := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := flexDialect{traits: wire.Traits{Publish: true, Streams: true}}
			if panics {
				d.encode = func(op wire.Op, _ *wire.Frames) error {
					if op.Kind == wire.OpPublish {
						panic("oops")
					}
					return nil
				}
			}
			_, c := flexServer(t, d, nil)
			if err := c.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			call := sendStream(t.Context(), c, strings.NewReader("x"), nil)
			if panics {
				call.notSent(t, "a panic", limpet.ErrPanic, "Options.Dialect")
			} else {
				call.notSent(t, "an envelope", nil, "Encode puts more than the payload into the message")
			}
			synctest.Wait()
			if lost := c.Stats().Lost; (lost[0] > 0 || c.State().Phase != limpet.Ready) != panics {
				t.Errorf("panics %v: %v", panics, c.State())
			}
		})
	}
}

// TestStreamOnRealSockets: a server of the WebSocket library puts the fragments together, with
// other messages before and after.
func TestStreamOnRealSockets(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		got := make(chan string, 10)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer ws.CloseNow()
			ws.SetReadLimit(-1)
			for {
				typ, data, err := ws.Read(r.Context())
				if err != nil {
					return
				}
				got <- fmt.Sprintf("%v %d %x", typ, len(data), sha256.Sum256(data))
			}
		}))
		c, err := limpet.Dial(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http"), options(&limpet.Options{Dialect: raw.New(raw.Options{}), PlainFrames: plain}))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("0123456789abcde€", 500_000)
		for i, payload := range []string{"small", text, "small", text} {
			typ, o := websocket.MessageText, new(limpet.PublishOptions)
			if i > 1 {
				typ, o.Type = websocket.MessageBinary, raw.TypeBinary
			}
			var ack limpet.Ack
			if i%2 == 0 {
				ack, err = c.Send(t.Context(), "*", []byte(payload), o)
			} else {
				ack, err = c.SendStream(t.Context(), "*", strings.NewReader(payload), o)
			}
			if err != nil || ack.Outcome != limpet.Written {
				t.Fatal(ack, err)
			}
			if want := fmt.Sprintf("%v %d %x", typ, len(payload), sha256.Sum256([]byte(payload))); <-got != want {
				t.Errorf("plain=%v: message %d arrives otherwise", plain, i)
			}
		}
		closeAndWait(t, c)
		srv.Close()
	}
}
