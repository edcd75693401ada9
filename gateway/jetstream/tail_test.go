package jetstream

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// delivered returns a message as a consumer delivers it.
func delivered(number, seq uint64) *nats.Msg {
	m := encodeEntry("log", "who", &server.Entry{ID: wire.ID{byte(seq)}, Topic: "t", Hash: 1})
	m.Reply = fmt.Sprintf("$JS.ACK.log.consumer.1.%d.%d.1796098812488147211.0", seq, number)
	return m
}

func beat(last string) *nats.Msg {
	m := nats.NewMsg("inbox")
	m.Header.Set("Status", "100")
	if last != "" {
		m.Header.Set("Nats-Last-Consumer", last)
	}
	return m
}

// The tail ends as soon as a message may be missing, and shows nothing after it.
func TestReceive(t *testing.T) {
	for _, c := range []struct {
		name string
		all  []*nats.Msg
		want error
		head uint64
	}{
		{"a message is missing", []*nats.Msg{delivered(1, 1), delivered(2, 3), delivered(4, 7)}, errHole, 3},
		{"a message comes twice", []*nats.Msg{delivered(1, 1), delivered(1, 1)}, errHole, 1},
		{"the first ones are missing", []*nats.Msg{delivered(3, 9)}, errHole, 0},
		{"the newest one is missing", []*nats.Msg{delivered(1, 1), beat("1"), beat("2")}, errHole, 1},
		{"nothing comes", []*nats.Msg{delivered(1, 1), beat("1")}, errSilent, 1},
		{"not from a consumer", []*nats.Msg{delivered(1, 1), encodeEntry("log", "who", &server.Entry{})}, errDamaged, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(Options{Log: "log", RingBytes: 1 << 20, MaxIDs: 10, Dedup: time.Hour})
				s.epoch = "epoch"
				arriving := make(chan *nats.Msg, len(c.all))
				for _, m := range c.all {
					arriving <- m
				}
				began := time.Now()
				if _, err := s.receive(arriving, "epoch"); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if c.want == errSilent && time.Since(began) != waitTime {
					t.Errorf("it has waited %v", time.Since(began))
				}
				if head := s.View().Head; head != c.head {
					t.Errorf("head %d, want %d", head, c.head)
				}
			})
		})
	}
}

// What an old consumer delivers does not get into a new epoch.
func TestReceiveInAnotherEpoch(t *testing.T) {
	s := newStore(Options{Log: "log", RingBytes: 1 << 20, MaxIDs: 10, Dedup: time.Hour})
	s.epoch = "new"
	arriving := make(chan *nats.Msg, 1)
	arriving <- delivered(1, 1)
	if _, err := s.receive(arriving, "old"); !errors.Is(err, errMoved) || s.View().Head != 0 {
		t.Errorf("%v, head %d", err, s.View().Head)
	}
}

// Subjects and names are the same after both ways.
func TestNames(t *testing.T) {
	for _, topic := range []string{"t", "a/b", "ä/b c/%", "a//b", "", "*/>", "a.b", "\x00\n", "%/%41"} {
		subject := subjectOf("log", topic)
		back, err := topicOf("log", subject)
		if err != nil || back != topic {
			t.Errorf("%q is %q, and back %q, %v", topic, subject, back, err)
		}
	}
	seen := map[string]string{}
	for _, id := range []string{"a", "A", "%41", "a.b", "a%2Eb", "*", ">", "", "%"} {
		subject := session("log", id)
		if other, ok := seen[subject]; ok {
			t.Errorf("%q and %q have the subject %q", id, other, subject)
		}
		seen[subject] = id
	}
}

// FuzzOutcome: whatever others publish to the subjects, decoding it ends with an error or a value.
func FuzzOutcome(f *testing.F) {
	good := encodeEntry("log", "who", &server.Entry{ID: wire.ID{1}, Topic: "t/a", Hash: 1, Type: "x", Header: map[string]string{"k": "v"}})
	f.Add(good.Subject, good.Header.Get(headerID), good.Header.Get(headerEntry), []byte("data"))
	f.Add("log.r.x", good.Header.Get(headerID), "", []byte{1, 2})
	f.Add("log.m.%4", "x:y", "####", []byte{})
	f.Add("log.m.@in.t.%4F", "id", "text/plain", []byte("data"))
	f.Add("log.m.@in.%", "", "", []byte{})
	f.Fuzz(func(t *testing.T, subject, id, entry string, data []byte) {
		h := nats.Header{}
		h.Set(headerID, id)
		h.Set(headerEntry, entry)
		h.Set(headerRecord, entry)
		h.Set(headerType, entry)
		h.Set(id, entry)
		m := &stored{subject: subject, header: h, data: data}
		o := &Options{Log: "log", MaxPayload: 9}
		key, _, e, err := m.outcome(o)
		if err == nil && e != nil && len(e.Header) > len(entry)+1 {
			t.Errorf("%d headers", len(e.Header))
		}
		if !m.plain("log") {
			return
		}
		again, _, other, failed := m.outcome(o)
		if key != again || !reflect.DeepEqual(e, other) || fmt.Sprint(err) != fmt.Sprint(failed) {
			t.Errorf("%v, %+v, %v, and then %v, %+v, %v", key, e, err, again, other, failed)
		}
		if err == nil && (native.CheckTopic(wire.UsePublish, e.Topic) != nil || len(e.Payload) > o.MaxPayload || e.ID == wire.ID{}) {
			t.Errorf("%+v", e)
		}
		_, _ = m.record(time.Now())
	})
}

// What has the same place in another history of the stream has another id, so that its tag differs. Its Nats-Msg-Id is the same message.
func TestPlainIDs(t *testing.T) {
	at := time.Unix(1, 2)
	one := &stored{subject: "log.m.@in.t", seq: 7, at: at, data: []byte("x")}
	for name, other := range map[string]*stored{
		"place":   {subject: one.subject, seq: 8, at: at, data: one.data},
		"time":    {subject: one.subject, seq: 7, at: at.Add(1), data: one.data},
		"subject": {subject: "log.m.@in.u", seq: 7, at: at, data: one.data},
		"payload": {subject: one.subject, seq: 7, at: at, data: []byte("y")},
	} {
		if one.plainID() == other.plainID() {
			t.Errorf("another %s, and the same id", name)
		}
		one.header, other.header = nats.Header{headerID: {"k"}}, nats.Header{headerID: {"k"}}
		if one.plainID() != other.plainID() {
			t.Errorf("another %s, and another id although Nats-Msg-Id is the same", name)
		}
		one.header = nil
	}
}

// A version of a time before the stream has lost something fits no record, even if a record has that sequence again.
func TestVersionOfAnotherEpoch(t *testing.T) {
	s := newStore(Options{Log: "log", RingBytes: 1 << 20, MaxIDs: 10, Dedup: time.Hour, Retention: server.Retention{Age: time.Hour}, Timeout: time.Second})
	s.version = 2 << generationShift
	for _, version := range []uint64{5, 1<<generationShift | 5, 3<<generationShift | 5} {
		if _, err := s.Commit(t.Context(), &server.Change{Session: "s", Version: version, Record: []byte("r")}); !errors.Is(err, server.ErrConflict) {
			t.Errorf("version %x: %v", version, err)
		}
	}
}
