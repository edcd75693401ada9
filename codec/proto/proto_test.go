package proto_test

import (
	"fmt"
	"testing"

	pb "google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/codec/proto"
)

func TestRoundTrip(t *testing.T) {
	c := proto.New[pb.Timestamp]()
	for _, seconds := range []int64{0, 1, -1, 1 << 40} {
		payload, err := c.Encode(&pb.Timestamp{Seconds: seconds})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Decode(payload); err != nil || got.GetSeconds() != seconds {
			t.Errorf("%d: %v, %v", seconds, got, err)
		}
	}
	if payload, err := c.Encode(nil); err == nil {
		t.Errorf("nil was encoded as %d bytes", len(payload))
	}
	for _, payload := range []string{"\x08", "\x0a\xff\xff\xff\xff\x0f", "not a message"} {
		if got, err := c.Decode([]byte(payload)); err == nil || got != nil {
			t.Errorf("%q: %v, %v", payload, got, err)
		}
	}
}

// The value of one message is not that of another.
func TestDecodeMakesNewValues(t *testing.T) {
	c := proto.New[wrapperspb.BytesValue]()
	payload, _ := c.Encode(wrapperspb.Bytes([]byte("ab")))
	first, err := c.Decode(payload)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := c.Decode(nil); err != nil || second == first || len(second.GetValue()) != 0 {
		t.Errorf("%v, %v", second, err)
	}
	clear(payload)
	if string(first.GetValue()) != "ab" {
		t.Errorf("the value changed with the payload: %q", first.GetValue())
	}
}

func ExampleNew() {
	c := proto.New[pb.Timestamp]()
	payload, err := c.Encode(&pb.Timestamp{Seconds: 7})
	if err != nil {
		fmt.Println(err)
	}
	// stream is what Subscription.Messages would return.
	stream := func(yield func(limpet.Message, error) bool) {
		_ = yield(limpet.Message{Kind: limpet.Data, Type: "application/x-protobuf", Payload: payload}, nil) &&
			yield(limpet.Message{Kind: limpet.Data, Type: "text/csv", Payload: payload}, nil)
	}
	for m, err := range limpet.Decode(stream, c) {
		if err != nil {
			fmt.Println(err)
		}
		fmt.Println(m.Value.GetSeconds(), m.Err != nil)
	}
	// Output:
	// 7 false
	// 0 true
}
