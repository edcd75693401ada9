package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/codec"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/raw"
)

type quote struct {
	Symbol string  `json:"symbol"`
	Price  float64 `json:"price"`
}

// messages is a stream of ms that ends with end if it is not nil.
func messages(end error, ms ...limpet.Message) iter.Seq2[limpet.Message, error] {
	return func(yield func(limpet.Message, error) bool) {
		for _, m := range ms {
			if !yield(m, nil) {
				return
			}
		}
		if end != nil {
			yield(limpet.Message{Topic: "end"}, end)
		}
	}
}

// troubled is a codec whose methods do what its fields say.
type troubled struct {
	types  func() []string
	decode func([]byte) (quote, error)
	encode func(quote) ([]byte, error)
}

func (c troubled) ContentTypes() []string         { return c.types() }
func (c troubled) Decode(p []byte) (quote, error) { return c.decode(p) }
func (c troubled) Encode(q quote) ([]byte, error) { return c.encode(q) }
func csv() []string                               { return []string{"text/csv", "text/x-csv"} }
func anyType() []string                           { return nil }
func partial([]byte) (quote, error)               { return quote{Symbol: "half"}, errPartial }
func whole([]byte) (quote, error)                 { return quote{Symbol: "whole"}, nil }
func panics([]byte) (quote, error)                { panic("broken codec") }
func long([]byte) (quote, error)                  { return quote{}, errors.New(strings.Repeat("x", 1000) + "\n") }
func errorPanics([]byte) (quote, error)           { return quote{}, (*nilError)(nil) }
func typesPanic() []string                        { panic("broken list") }
func failsToEncode(quote) ([]byte, error)         { return []byte("part"), errPartial }
func panicsToEncode(quote) ([]byte, error)        { panic(errPartial) }
func toCSV(q quote) ([]byte, error)               { return fmt.Appendf(nil, "%s,%g", q.Symbol, q.Price), nil }

var errPartial = errors.New("half of it was read")

// nilError panics as any method that uses a nil pointer.
type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestDecodePayloads(t *testing.T) {
	plain := codec.JSON[quote]()
	good := quote{"AB", 1.5}
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	var panicked *limpet.PanicError
	for _, c := range []struct {
		name, typ, payload string
		codec              codec.Codec[quote]
		want               quote
		is                 error // wrapped by Err; nil: no Err
		as                 any
		class              limpet.ErrorClass
		says               []string
	}{
		{name: "no type", payload: `{"symbol":"AB","price":1.5,"unknown":[]}`, codec: plain, want: good},
		{name: "type", typ: "application/json", payload: `{"symbol":"AB","price":1.5}`, codec: plain, want: good},
		{name: "charset", typ: "Application/JSON; charset=utf-8", payload: `{"symbol":"AB","price":1.5}`, codec: plain, want: good},
		{name: "text", typ: raw.TypeText, payload: `{"symbol":"AB","price":1.5}`, codec: plain, want: good},
		{name: "bytes", typ: raw.TypeBinary, payload: `{"symbol":"AB","price":1.5}`, codec: plain, want: good},
		{name: "a kind of message", typ: "trade", payload: `{"symbol":"AB","price":1.5}`, codec: plain, want: good},
		{name: "another type", typ: "text/csv", payload: `{"symbol":"AB"}`, codec: plain,
			is: limpet.ErrContentType, class: limpet.ClassInput, says: []string{"Decode: Message.Type: ", `"text/csv"`, `"application/json"`}},
		{name: "another type, hostile", typ: "x/" + strings.Repeat("\x00", 1000), payload: `{}`, codec: plain,
			is: limpet.ErrContentType, class: limpet.ClassInput, says: []string{`"x/\x00\x00`, "…", `"application/json"`}},
		{name: "second type of the codec", typ: "text/x-csv", codec: troubled{types: csv, decode: whole}, want: quote{Symbol: "whole"}},
		{name: "codec without types", typ: "text/html", codec: troubled{types: anyType, decode: whole}, want: quote{Symbol: "whole"}},
		{name: "not JSON", payload: `{"symbol"`, codec: plain, as: &syntax, class: limpet.ClassUser, says: []string{"Decode: Message.Payload: unexpected end of JSON input"}},
		{name: "empty", codec: plain, as: &syntax, class: limpet.ClassUser},
		{name: "value of another type", payload: `{"symbol":"AB","price":"1.5"}`, codec: plain, as: &wrongType, class: limpet.ClassUser},
		{name: "error with half a value", codec: troubled{types: csv, decode: partial}, is: errPartial, class: limpet.ClassUser},
		{name: "error with a long text", codec: troubled{types: csv, decode: long}, class: limpet.ClassUser, says: []string{"xxx"}, as: new(*limpet.Error)},
		{name: "panic", codec: troubled{types: csv, decode: panics}, is: limpet.ErrPanic, as: &panicked, class: limpet.ClassUser, says: []string{"broken codec"}},
		{name: "panic of the list", typ: "text/csv", codec: troubled{types: typesPanic, decode: whole}, is: limpet.ErrPanic, as: &panicked, class: limpet.ClassUser},
		{name: "panic of the error", codec: troubled{types: csv, decode: errorPanics}, is: limpet.ErrPanic, as: &panicked, class: limpet.ClassUser},
		{name: "codec that is a nil pointer", codec: (*troubled)(nil), is: limpet.ErrPanic, as: &panicked, class: limpet.ClassUser},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := limpet.Message{Kind: limpet.Data, Topic: "t", Type: c.typ, Payload: []byte(c.payload)}
			n := 0
			for got, err := range limpet.Decode(messages(nil, m, m), c.codec) { // twice: an accepted type is remembered
				if n++; err != nil {
					t.Fatalf("the stream ended: %v", err)
				}
				if got.Topic != "t" || got.Type != c.typ || string(got.Payload) != c.payload || got.Value != c.want {
					t.Errorf("%+v", got)
				}
				if c.class == "" {
					if got.Err != nil {
						t.Errorf("Err: %v", got.Err)
					}
					continue
				}
				checkTypedError(t, got.Err, c.is, c.as, c.class, c.says)
			}
			if n != 2 {
				t.Errorf("%d messages", n)
			}
		})
	}
}

func checkTypedError(t *testing.T, err, is error, as any, class limpet.ErrorClass, says []string) {
	t.Helper()
	var typed *limpet.Error
	if !errors.As(err, &typed) || limpet.ClassOf(err) != class || is != nil && !errors.Is(err, is) || as != nil && !errors.As(err, as) {
		t.Fatalf("%#v: %v", err, err)
	}
	if text := err.Error(); len(text) > 1300 || strings.ContainsAny(text, "\x00\n") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
	for _, part := range says {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("no %q in %v", part, err)
		}
	}
}

// One message that cannot be decoded costs its value, no other message and no crash. A
// type that is refused is refused each time, also between others.
func TestDecodeGoesOn(t *testing.T) {
	of := func(typ, payload string) limpet.Message {
		return limpet.Message{Kind: limpet.Data, Type: typ, Payload: []byte(payload)}
	}
	loss := &limpet.Loss{Count: 7, Cause: limpet.CauseOverflow}
	gap := limpet.Message{Kind: limpet.Gap, Topic: "t", Type: "text/html", Payload: []byte("{}"), Loss: loss}
	reset := limpet.Message{Kind: limpet.Reset, Topic: "t", Loss: loss}
	end := errors.New("end")
	var got []string
	for m, err := range limpet.Decode(messages(end, of("text/csv", "1"), of("", "1"), gap, of("text/csv", "2"), of("", "x"),
		of("application/json; charset=utf-8", "3"), reset, of("application/json", "4"), of("text/csv", "5")), codec.JSON[int]()) {
		switch {
		case err != nil:
			if err != end || m.Topic != "end" || m.Err != nil {
				t.Errorf("%v: %+v", err, m)
			}
			got = append(got, "end")
		case m.Loss != nil:
			if m.Err != nil || m.Loss != loss || m.Value != 0 || m.Topic != "t" {
				t.Errorf("%+v", m)
			}
			got = append(got, m.Kind.String())
		case m.Err != nil:
			got = append(got, "!")
		default:
			got = append(got, fmt.Sprint(m.Value))
		}
	}
	if text := strings.Join(got, " "); text != "! 1 gap ! ! 3 reset 4 ! end" {
		t.Errorf("got %s", text)
	}
}

func TestDecodeRefusesNil(t *testing.T) {
	for _, seq := range []iter.Seq2[limpet.Typed[int], error]{
		limpet.Decode(nil, codec.JSON[int]()),
		limpet.Decode[int](messages(nil, limpet.Message{}), nil),
	} {
		n := 0
		for m, err := range seq {
			if n++; limpet.ClassOf(err) != limpet.ClassInput || m.Err != nil || !strings.Contains(err.Error(), "Decode") {
				t.Errorf("%v: %+v", err, m)
			}
		}
		if n != 1 {
			t.Errorf("%d pairs", n)
		}
	}
}

// What a loop over Decode acknowledges is what a loop over Messages does.
func TestDecodeAcknowledges(t *testing.T) {
	for _, manual := range []bool{false, true} {
		for _, merged := range []bool{false, true} {
			t.Run(fmt.Sprintf("manual=%v merge=%v", manual, merged), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { decodeAcknowledges(t, manual, merged) })
			})
		}
	}
}

func decodeAcknowledges(t *testing.T, manual, merged bool) {
	srv := limpettest.NewServer(t, nil)
	s := subscribeLive(t, dial(t, srv, nil), "t", &limpet.SubscribeOptions{ManualAck: manual})
	stream := func(ctx context.Context) iter.Seq2[limpet.Typed[int], error] {
		if merged {
			return limpet.Decode(limpet.Merge(ctx, s), codec.JSON[int]())
		}
		return limpet.Decode(s.Messages(ctx), codec.JSON[int]())
	}
	// committed checks the last position, with ManualAck that of the last call of Ack.
	committed := func(after string, processed, acked uint64) {
		t.Helper()
		synctest.Wait()
		if manual {
			processed = acked
		}
		if got := s.Committed().Offset; got != processed {
			t.Errorf("after %s: committed %d, want %d", after, got, processed)
		}
	}
	publish(t, srv, "t", "1", "not JSON", "3", "4", "5", "6")
	var kept []limpet.Typed[int]
	for m := range stream(t.Context()) {
		if kept = append(kept, m); len(kept) == 3 {
			break // 1 and the one that could not be decoded are processed, 3 is not
		}
	}
	committed("break", 2, 0)
	if kept[0].Value != 1 || kept[1].Err == nil || kept[2].Value != 3 {
		t.Errorf("got %+v", kept)
	}
	for _, m := range kept {
		m.Ack()
	}
	committed("Ack", 3, 3)
	func() {
		for range stream(t.Context()) {
			return // 4
		}
	}()
	committed("return", 3, 3)
	func() {
		defer func() {
			if p := recover(); p != "in the body" {
				t.Errorf("recovered %v", p)
			}
		}()
		for range stream(t.Context()) {
			panic("in the body") // 5
		}
	}()
	committed("panic", 3, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var end error
	for m, err := range stream(ctx) {
		if end = err; err != nil {
			break
		}
		if m.Value != 6 {
			t.Errorf("got %+v", m)
		}
		cancel() // the body of 6 ends normally, then the stream
	}
	if !errors.Is(end, context.Canceled) {
		t.Errorf("ended with %v", end)
	}
	if st := s.Stats(); st.Delivered != 6 || st.Waiting != 0 || st.Unacked != map[bool]uint64{false: 2, true: 3}[manual] {
		t.Errorf("%+v", st)
	}
}

// The error of one subscription of a Merge comes with its topic, and the others go on.
func TestDecodeOfMergeGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authorize: func(_ server.Principal, _ server.Verb, topic string) error {
				if topic == "refused" {
					return errors.New("not for you")
				}
				return nil
			},
		}}})
		c := dial(t, srv, nil)
		refused, err := c.Subscribe(t.Context(), "refused", nil)
		if err != nil {
			t.Fatal(err)
		}
		open := subscribeLive(t, c, "open", nil)
		publish(t, srv, "open", "1", "2")
		synctest.Wait()
		var got []string
		for m, err := range limpet.Decode(limpet.Merge(within(t, time.Minute), refused, open), codec.JSON[int]()) {
			if err != nil {
				if m.Topic != "refused" || !errors.Is(err, limpet.ErrRejected) || m.Err != nil {
					t.Errorf("%v: %+v", err, m)
				}
				got = append(got, "error")
			} else if got = append(got, fmt.Sprint(m.Value)); m.Value == 2 {
				open.Close()
			}
		}
		if slices.Sort(got); strings.Join(got, " ") != "1 2 error" {
			t.Errorf("got %q", got)
		}
	})
}

// A value reaches a subscriber with its content type. What cannot be encoded is refused
// before anything is sent.
func TestEncodePublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "t", nil)
		o := &limpet.PublishOptions{Header: map[string]string{"k": "v"}, TTL: time.Minute}
		ack, err := limpet.Encode(c.Send, codec.JSON[quote]())(t.Context(), "t", quote{"AB", 1.5}, o)
		if err != nil || ack.Outcome != limpet.Acked || o.Type != "" {
			t.Fatalf("%+v, %v; the caller's options: %+v", ack, err, o)
		}
		r, err := limpet.Encode(c.Publish, codec.Codec[quote](troubled{types: csv, encode: toCSV}))(t.Context(), "t", quote{"CD", 2}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := collect(t, s, 2)
		if m := got[0]; string(m.Payload) != `{"symbol":"AB","price":1.5}` || m.Type != "application/json" || m.Header["k"] != "v" {
			t.Errorf("%+v", m)
		}
		if m := got[1]; string(m.Payload) != "CD,2" || m.Type != "text/csv" {
			t.Errorf("%+v", m)
		}
	})
}

func TestEncodeTypes(t *testing.T) {
	// collect is publish for a batch.
	collect := func(_ context.Context, topic string, payload []byte, o *limpet.PublishOptions) (limpet.Outgoing, error) {
		return limpet.Outgoing{Topic: topic, Payload: payload, PublishOptions: *o}, nil
	}
	plain := codec.JSON[quote]()
	for _, c := range []struct {
		name, typ, want string
		codec           codec.Codec[quote]
		is              error // nil: published
		class           limpet.ErrorClass
		says            []string
	}{
		{name: "sets it", codec: plain, want: "application/json"},
		{name: "keeps parameters", codec: plain, typ: "application/json; charset=utf-8", want: "application/json; charset=utf-8"},
		{name: "keeps another of the codec", codec: plain, typ: raw.TypeBinary, want: raw.TypeBinary},
		{name: "a codec without types", codec: troubled{types: anyType, encode: toCSV}},
		{name: "a type for a codec without types", typ: "text/html", want: "text/html", codec: troubled{types: anyType, encode: toCSV}},
		{name: "another type", codec: plain, typ: "text/csv", is: limpet.ErrContentType, class: limpet.ClassInput,
			says: []string{"Publish: PublishOptions.Type: ", `"text/csv"`, `"application/json"`}},
		{name: "fails", codec: troubled{types: csv, encode: failsToEncode}, is: errPartial, class: limpet.ClassUser, says: []string{"Publish: value: "}},
		{name: "panics", codec: troubled{types: csv, encode: panicsToEncode}, is: limpet.ErrPanic, class: limpet.ClassUser, says: []string{"Publish: value: "}},
		{name: "a list that panics", codec: troubled{types: typesPanic, encode: toCSV}, is: limpet.ErrPanic, class: limpet.ClassUser},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := limpet.Encode(collect, c.codec)(t.Context(), "t", quote{"AB", 1.5}, &limpet.PublishOptions{Type: c.typ, TTL: time.Hour})
			if c.is == nil {
				if err != nil || m.Topic != "t" || len(m.Payload) == 0 || m.Type != c.want || m.TTL != time.Hour {
					t.Errorf("%+v, %v", m, err)
				}
				return
			}
			checkTypedError(t, err, c.is, nil, c.class, c.says)
			if m.Topic != "" || !limpet.SafeToRetry(err) || limpet.Retryable(err) {
				t.Errorf("%+v; safe %v, retryable %v", m, limpet.SafeToRetry(err), limpet.Retryable(err))
			}
		})
	}
	for _, encoded := range []func(context.Context, string, quote, *limpet.PublishOptions) (limpet.Outgoing, error){
		limpet.Encode(collect, codec.Codec[quote](nil)),
		limpet.Encode[quote, limpet.Outgoing](nil, plain),
	} {
		if _, err := encoded(t.Context(), "t", quote{}, nil); limpet.ClassOf(err) != limpet.ClassInput {
			t.Errorf("nil: %v", err)
		}
	}
}

// quotes is a stream of n messages, without a client. As with a client, the compiler
// cannot see through the iteration.
//
//go:noinline
func quotes(n int) iter.Seq2[limpet.Message, error] {
	m := limpet.Message{Kind: limpet.Data, Topic: "prices", Type: "application/json", Payload: []byte(`{"symbol":"AB","price":1.5}`)}
	return func(yield func(limpet.Message, error) bool) {
		for range n {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// byHand is the loop that Decode replaces.
func byHand(fail func(...any), n int, decode func([]byte) (quote, error)) {
	for m, err := range quotes(n) {
		if err != nil {
			fail(err)
		}
		if q, err := decode(m.Payload); err != nil || q.Price != 1.5 {
			fail(q, err)
		}
	}
}

func byDecode(fail func(...any), n int, c codec.Codec[quote]) {
	for m, err := range limpet.Decode(quotes(n), c) {
		if err != nil {
			fail(err)
		}
		if m.Err != nil || m.Value.Price != 1.5 {
			fail(m.Value, m.Err)
		}
	}
}

func unmarshal(p []byte) (q quote, err error) {
	err = json.Unmarshal(p, &q)
	return q, err
}

// inNoTime is a codec that does nothing, so that what is left is the cost of Decode itself.
type inNoTime struct{ codec.Codec[quote] }

func (inNoTime) Decode([]byte) (quote, error) { return quote{Price: 1.5}, nil }

// Decode allocates nothing for a message that a loop with json.Unmarshal does not.
func TestDecodeAllocates(t *testing.T) {
	const n = 1000
	plain := testing.AllocsPerRun(10, func() { byHand(t.Fatal, n, unmarshal) })
	typed := testing.AllocsPerRun(10, func() { byDecode(t.Fatal, n, codec.JSON[quote]()) })
	if plain < n || typed > plain+10 { // the iteration itself may have some
		t.Errorf("%.0f allocations for %d messages, %.0f with json.Unmarshal in the loop", typed, n, plain)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name   string
		decode func([]byte) (quote, error)
		codec  codec.Codec[quote]
	}{
		{"JSON", unmarshal, codec.JSON[quote]()},
		{"in no time", inNoTime{}.Decode, inNoTime{codec.JSON[quote]()}},
	} {
		b.Run(c.name+"/by hand", func(b *testing.B) { b.ReportAllocs(); byHand(b.Fatal, b.N, c.decode) })
		b.Run(c.name+"/Decode", func(b *testing.B) { b.ReportAllocs(); byDecode(b.Fatal, b.N, c.codec) })
	}
}
