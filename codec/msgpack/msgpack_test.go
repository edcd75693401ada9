package msgpack_test

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/codec/msgpack"
)

type price struct {
	Symbol string `msgpack:"symbol"`
	Price  float64
}

func roundTrip[T any](t *testing.T, value T) {
	t.Helper()
	c := msgpack.New[T]()
	payload, err := c.Encode(value)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Decode(payload); err != nil || !reflect.DeepEqual(got, value) {
		t.Errorf("%T: %v, %v", value, got, err)
	}
	for n := range payload {
		if got, err := c.Decode(payload[:n]); err == nil {
			t.Errorf("%T: %d of %d bytes: %v", value, n, len(payload), got)
		}
	}
	if got, err := c.Decode(append(payload, 0xc0)); err == nil {
		t.Errorf("%T: with a byte more: %v", value, got)
	}
}

func TestRoundTrip(t *testing.T) {
	roundTrip(t, price{"AB", 1.5})
	roundTrip(t, true)
	roundTrip(t, time.Unix(7, 9))
	roundTrip(t, time.Unix(1<<40, 9))
	roundTrip(t, map[string][]byte{"": {}, "b": []byte("c")})
	roundTrip(t, float32(1.5))
	for _, n := range []int{0, 15, 16, 31, 32, 255, 256, 65535, 65536} {
		if n < 300 {
			roundTrip(t, make([]bool, n))
			roundTrip(t, strings.Repeat("x", n))
			roundTrip(t, bytes.Repeat([]byte("x"), n))
		}
	}
	for shift := range 64 {
		roundTrip(t, int64(1)<<shift)
		roundTrip(t, -(int64(1) << shift))
		roundTrip(t, uint64(1)<<shift)
	}
	c := msgpack.New[[]bool]()
	payload, err := c.Encode(make([]bool, 65536))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Decode(payload); err != nil || len(got) != 65536 {
		t.Errorf("%d elements, %v", len(got), err)
	}
}

// Payloads of a hostile peer: each of them, or one that is longer, ends a process that
// passes it to msgpack.Unmarshal.
func TestHostilePayloads(t *testing.T) {
	nested := func(level string, n int) string { return strings.Repeat(level, n) + "\xc0" }
	for _, c := range []struct{ payload, says string }{
		{"", "ends within"},
		{"\xdd\xff\xff\xff\xff", "ends within"},
		{"\xdf\xff\xff\xff\xff", "ends within"},
		{"\x92\xdd\x00\x00\x00\x02\xdd\x00\x00\x00\x02\xc0", "ends within"},
		{"\xc6\xff\xff\xff\xff", "ends within"},
		{"\xc9\xff\xff\xff\xff\x01", "ends within"},
		{"\xdb\xff\xff", "ends within"},
		{"\x81\xa1a", "ends within"},
		{"\xc1", "c1"},
		{"\xc0\xc0", "follow"},
		{nested("\x91", 10_000), ""},
		{nested("\x91", 10_001), "10,000"},
		{nested("\x91", 4_000_000), "10,000"},
		{nested("\x81\xa1a", 4_000_000), "10,000"},
	} {
		_, err := msgpack.New[any]().Decode([]byte(c.payload))
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%.20q: %v, want %q", c.payload, err, c.says)
		}
		if c.says == "" {
			continue
		}
		if got, err := msgpack.New[[]price]().Decode([]byte(c.payload)); err == nil {
			t.Errorf("%.20q: %v", c.payload, got)
		}
	}
}

func ExampleNew() {
	c := msgpack.New[price]()
	payload, err := c.Encode(price{"AB", 1.5})
	if err != nil {
		fmt.Println(err)
	}
	// stream is what Subscription.Messages would return.
	stream := func(yield func(limpet.Message, error) bool) {
		_ = yield(limpet.Message{Kind: limpet.Data, Type: "application/x-msgpack", Payload: payload}, nil) &&
			yield(limpet.Message{Kind: limpet.Data, Type: "text/csv", Payload: payload}, nil)
	}
	for m, err := range limpet.Decode(stream, c) {
		if err != nil {
			fmt.Println(err)
		}
		fmt.Println(m.Value, m.Err != nil)
	}
	// Output:
	// {AB 1.5} false
	// { 0} true
}
