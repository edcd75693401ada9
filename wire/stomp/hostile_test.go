package stomp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// Receipts that a server invents before they are asked for change nothing: what is asked
// for later is found when an ERROR comes.
func TestInventedReceipts(t *testing.T) {
	c := connect(t, Options{})
	if got := said(t, c, "RECEIPT|receipt-id:1||$RECEIPT|receipt-id:2||$"); got != "malformed x2 "+badReceipt {
		t.Fatal(got)
	}
	if n := c.(*codec).oldest; n != 1 {
		t.Fatalf("no receipt before %d is open: a search for the first one would not end", n)
	}
	encoded(t, c, subscribeOp(1, "/queue/a"))
	if got := said(t, c, "ERROR|message:no||x$"); got != "refused 1 code 400 retry 0s: no: x\nerror 400 fatal true: no: x" {
		t.Error(got)
	}
}

// A number of a receipt is not used twice, also if a frame could not be made.
func TestReceiptOfAFrameThatWasNotMade(t *testing.T) {
	c := connect(t, Options{})
	bad := publishOp(1, wire.Message{Topic: "/q", Header: map[string]string{"a\x00": "b"}})
	if got := encoded(t, c, bad); !strings.HasPrefix(got, "error ") {
		t.Fatal(got)
	}
	if n := c.(*codec).requests.Len(); n != 0 {
		t.Errorf("%d receipts are open", n)
	}
	if got := encoded(t, c, publishOp(2, wire.Message{Topic: "/q"})) + said(t, c, "RECEIPT|receipt-id:1||$"); !strings.HasSuffix(got, "acked 11") {
		t.Error(got)
	}
}

// Short frames that cannot be read make few events, whatever is wrong with them.
func TestFloodOfMalformedFrames(t *testing.T) {
	c := connect(t, Options{})
	const n = 20_000
	var events wire.Events
	if err := c.Decode(frameOf(strings.Repeat("$A||$RECEIPT||$CONNECTED||$X|y||$", n)), &events); err != nil {
		t.Fatal(err)
	}
	counted := uint64(0)
	for i := range events.List {
		counted += events.List[i].Count
	}
	if len(events.List) > 8 || counted != 5*n {
		t.Errorf("%d events for %d frames", len(events.List), counted)
	}
}

// The number of headers of a frame is bounded: each takes far more memory than its bytes.
// What is beyond is skipped as a whole, its body included, with a Gap and a NACK.
func TestManyHeaders(t *testing.T) {
	c := connect(t, Options{})
	many := func(n int) string {
		text := "MESSAGE"
		for i := range n {
			text += fmt.Sprint("|", i, ":")
		}
		return text + "|subscription:1|ack:T_1|content-length:3||a$b$"
	}
	if got := said(t, c, many(1000)); got != `data 1  "a\x00b" tag T_1` {
		t.Errorf("%.200s", got)
	}
	if got := said(t, c, many(2000)+"MESSAGE|subscription:1|ack:T_2||c$"); got != "malformed x1 "+badNumber+"\ngap 1 x1 malformed\nstep {key:1 tag:T_1}\ndata 1  \"c\" tag T_2" {
		t.Errorf("%.400s", got)
	}
}
