package server_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

func TestMemoryLogRetention(t *testing.T) {
	cases := []struct {
		name  string
		keep  server.Retention
		bytes int           // of each payload
		every time.Duration // between appends
		first uint64        // after 10 appends
		later uint64        // and a minute
	}{
		{name: "unbounded", keep: server.Retention{Count: -1, Bytes: -1}, bytes: 1 << 10, first: 1, later: 1},
		{name: "count", keep: server.Retention{Count: 4}, first: 7, later: 7},
		{name: "count of one", keep: server.Retention{Count: 1}, first: 10, later: 10},
		{name: "bytes", keep: server.Retention{Bytes: 1000}, bytes: 299, first: 8, later: 8},
		{name: "one entry beyond the bytes", keep: server.Retention{Bytes: 100}, bytes: 299, first: 11, later: 11},
		{name: "age", keep: server.Retention{Age: 10 * time.Second}, every: 3 * time.Second, first: 8, later: 11},
		{name: "age and count", keep: server.Retention{Age: 10 * time.Second, Count: 2}, every: 3 * time.Second, first: 9, later: 11},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := server.NewMemoryLog(tc.keep)
				if v := l.View(); v.First != 1 || v.Head != 0 || v.Epoch == "" || len(v.Base) == 0 || len(v.Base) > 16 || !v.NoRewind {
					t.Fatalf("empty: %+v", v)
				}
				for o := uint64(1); o <= 10; o++ {
					got, err := l.Append(context.Background(), server.Entry{ID: idOf(o), Topic: "t", Payload: make([]byte, tc.bytes)})
					if got != o || err != nil {
						t.Fatalf("append %d: %d, %v", o, got, err)
					}
					time.Sleep(tc.every)
				}
				if _, held := l.Tag(tc.first - 1); held && tc.keep.Age == 0 {
					t.Errorf("entry %d is held until the log is read", tc.first-1)
				}
				check(t, l, tc.first, 10)
				time.Sleep(time.Minute)
				check(t, l, tc.later, 10)
			})
		})
	}
	if a, b := server.NewMemoryLog(server.Retention{}).View(), server.NewMemoryLog(server.Retention{}).View(); a.Epoch == b.Epoch {
		t.Error("two logs share an epoch")
	}
}

func check(t *testing.T, l *server.MemoryLog, first, head uint64) {
	t.Helper()
	buf := make([]*server.Entry, 4)
	next := uint64(0)
	for {
		n, f, err := l.Read(next, buf)
		if err != nil || f != first {
			t.Fatalf("read %d: first %d, want %d, %v", next, f, first, err)
		}
		if n == 0 {
			break
		}
		next = max(next, first)
		for _, e := range buf[:n] {
			if e.Offset != next || e.ID != idOf(next) {
				t.Fatalf("entry %d, want %d", e.Offset, next)
			}
			next++
		}
	}
	if v := l.View(); v.First != first || v.Head != head {
		t.Fatalf("view %+v, want %d to %d", v, first, head)
	}
	for o := uint64(0); o <= head+1; o++ {
		tag, ok := l.Tag(o)
		id := idOf(o)
		if ok != (o >= first && o <= head) || ok && string(tag) != string(id[:]) {
			t.Fatalf("tag of %d: %x, %v", o, tag, ok)
		}
	}
}

func TestMemoryLogChanged(t *testing.T) {
	l := server.NewMemoryLog(server.Retention{})
	l.Append(context.Background(), server.Entry{})
	a, b := l.Changed(), l.Changed()
	select {
	case <-a:
		t.Fatal("nothing changed since the call")
	default:
	}
	l.Append(context.Background(), server.Entry{})
	<-a
	<-b
}

// Whoever waits for the outcome of an id that another is about to store goes on when
// the log refuses it.
func TestSameIDAfterTheLogRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &heldLog{Log: server.NewMemoryLog(server.Retention{}), answers: make(chan error)}
		r := newRig(t, &server.Options{Log: log})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		publish := func() <-chan error {
			result := make(chan error, 1)
			go func() {
				_, err := r.srv.Publish(ctx, "t", nil, &server.PublishOptions{ID: idOf(1)})
				result <- err
			}()
			synctest.Wait()
			return result
		}
		first, second := publish(), publish()
		log.answers <- errDisk
		if err := <-first; !errors.Is(err, errDisk) {
			t.Errorf("the first: %v", err)
		}
		select {
		case log.answers <- nil:
		case <-ctx.Done():
		}
		if err := <-second; err != nil {
			t.Errorf("the second: %v", err)
		}
	})
}

// heldLog appends when the test answers.
type heldLog struct {
	server.Log
	answers chan error
}

func (l *heldLog) Append(ctx context.Context, e server.Entry) (uint64, error) {
	if err := <-l.answers; err != nil {
		return 0, err
	}
	return l.Log.Append(ctx, e)
}

// What the program publishes arrives whole, and as it was when it was published.
func TestPublishedByTheProgram(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		payload, header := []byte("1.5"), map[string]string{"unit": "m", "site": "north"}
		o := &server.PublishOptions{ID: idOf(9), Type: "text/plain", Header: header}
		if _, err := r.srv.Publish(context.Background(), "t", payload, o); err != nil {
			t.Fatal(err)
		}
		copy(payload, "xxx")
		header["unit"] = "x"
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.send(sub(1, "t", native.FromFirst, 10))
		c.next(native.TypeSubOK)
		m := c.next(native.TypeMsg).Msg
		if string(m.Payload) != "1.5" || m.ID != idOf(9) || m.Type != "text/plain" ||
			!maps.Equal(m.Header, map[string]string{"unit": "m", "site": "north"}) {
			t.Errorf("%+v", m)
		}
	})
}
