package wiretest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// checkDialect: the methods of a Dialect give the same answers whenever they are asked,
// and answer every question.
func checkDialect(s *Subject, r *report) {
	d := s.Dialect
	if c, ok := d.(wire.Checker); ok {
		if err := c.Check(); err != nil {
			r.add("Check refuses the dialect under test: %v", err)
		}
	}
	name := d.Name()
	if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, " \t\n") {
		r.add("Name returns %q: want a short lower-case word", name)
	}
	if d.Name() != name || !reflect.DeepEqual(d.Traits(), d.Traits()) {
		r.add("Name or Traits change from call to call")
	}
	for _, topic := range append(s.Topics[:], s.Publish, "", "x", "a b", "\x00", "\xff", strings.Repeat("t", 70000)) {
		for _, use := range []wire.Use{wire.UseSubscribe, wire.UsePublish} {
			first, second := d.CheckTopic(use, topic), d.CheckTopic(use, topic)
			if (first == nil) != (second == nil) {
				r.add("CheckTopic of %q changes from call to call", cut([]byte(topic)))
			}
			if first != nil && len(first.Error()) > 1024 {
				r.add("the error of CheckTopic has %d bytes; cut the topic", len(first.Error()))
			}
		}
	}
	for _, topic := range s.Topics {
		if topic != "" && d.CheckTopic(wire.UseSubscribe, topic) != nil {
			r.add("CheckTopic refuses Subject.Topics: %v", d.CheckTopic(wire.UseSubscribe, topic))
		}
	}
	if err := d.CheckTopic(wire.UsePublish, s.Publish); d.Traits().Publish && err != nil {
		r.add("CheckTopic refuses Subject.Publish: %v", err)
	}
	for stage := wire.StageDial; stage <= wire.StageOpen; stage++ {
		for code := 0; code < 5100; code++ {
			f := wire.Failure{Stage: stage, Attempt: 1 + code%7, Code: uint16(code), CloseCode: uint16(code), Reason: "reason", Err: errors.New("error")}
			if stage == wire.StageUpgrade {
				f.Code, f.CloseCode, f.Status = 0, 0, code%600
			}
			v := d.Verdict(f)
			if v.Action > wire.ActionStop || v.After < 0 || v.Spread < 0 {
				r.add("Verdict of code %d in stage %s is %+v", code, stage, v)
			}
		}
	}
}

// checkMemory: events keep nothing of the frame, and frames nothing of the ops.
func checkMemory(s *Subject, r *report) {
	k := s.usual(r)
	if k == nil {
		return
	}
	k.check(r)
	if !k.traits.Publish {
		return
	}
	op := k.publishOp(payloadOf(9))
	var out wire.Frames
	if err := k.codec.Encode([]wire.Op{op}, &out); err != nil {
		r.add("Encode of a publish: %v", err)
		return
	}
	var before [][]byte
	for _, f := range out.List {
		before = append(before, bytes.Clone(f.Data))
	}
	for i := range op.Message.Payload {
		op.Message.Payload[i] = 'X'
	}
	for i, f := range out.List {
		if !bytes.Equal(f.Data, before[i]) {
			r.add("a frame keeps the memory of the payload that it was made from: %q became %q", cut(before[i]), cut(f.Data))
		}
	}
	odd := k.publishOp([]byte("{\"n\":1}\xff\xfe"))
	out.Reset()
	err := k.codec.Encode([]wire.Op{odd}, &out)
	for _, f := range out.List {
		if err == nil && f.Type == wire.Text && !utf8.Valid(f.Data) {
			r.add("Encode puts a payload that is not UTF-8 into a text frame: refuse it with an OpError, or use a binary frame")
		}
	}
	var refused *wire.OpError
	if err != nil && !errors.As(err, &refused) {
		r.add("Encode refuses a payload with %T: want *wire.OpError, which costs only that message: %v", err, err)
	}
}

// check reports events that lack what their kind and the traits owe the client.
func (k *talk) check(r *report) {
	for _, text := range k.kept {
		r.add("%s", text)
	}
	for _, e := range k.events {
		if text := k.fault(e); text != "" {
			r.add("%s: %s", text, snapshot(e))
		}
	}
	kinds := map[wire.EventKind]bool{}
	for _, e := range k.events {
		kinds[e.Kind] = true
	}
	if !kinds[wire.EventData] {
		r.add("no EventData for the messages of the server")
	}
	if k.traits.Greeting && !kinds[wire.EventReady] {
		r.add("the trait Greeting is set, and no EventReady comes")
	}
	if !k.traits.Greeting && kinds[wire.EventReady] {
		r.add("an EventReady comes, and the trait Greeting is not set")
	}
	if k.traits.Acks && !kinds[wire.EventAck] {
		r.add("the trait Acks is set, and no EventAck comes for a publish that the server has taken")
	}
	if k.traits.Ping == wire.PingOp && !kinds[wire.EventPong] && !kinds[wire.EventData] {
		r.add("the trait Ping is PingOp, and no EventPong comes")
	}
}

// fault says what is wrong with an event, or nothing.
func (k *talk) fault(e wire.Event) string {
	switch {
	case e.Kind == 0 || e.Kind > wire.EventReply:
		return "an event of no kind"
	case e.Kind.OfSubscription() && k.traits.ByKey && e.Key == 0 && e.Name == "":
		return "an event of a subscription has neither Key nor Name"
	case e.Kind.OfSubscription() && !k.traits.ByKey && e.Name == "":
		return "an event of a subscription has no Name, and the trait ByKey is not set"
	case (e.Kind == wire.EventReady || e.Kind == wire.EventSession) && e.Ready == nil:
		return "an event has no Ready"
	case e.Kind == wire.EventAck && e.Ack == nil:
		return "an EventAck has no Ack"
	case e.Kind == wire.EventAck && e.Ack.HasCredit && !k.traits.Sessions:
		return "an EventAck has credit, which counts only with the trait Sessions"
	case e.Kind == wire.EventAuth && !k.traits.Refresh:
		return "an EventAuth, which counts only with the trait Refresh"
	case e.Retry < 0 || e.Delay < 0 || e.Spread < 0 || e.Expires < 0:
		return "an event has a negative duration"
	}
	return ""
}

const (
	hostileSeed = 20      // of the frames that are made from the conversation
	eventsPer   = 4       // events for each byte of a frame,
	moreEvents  = 64      // and that many more
	memoryPer   = 512     // bytes for each byte of a frame,
	moreMemory  = 1 << 20 // and that many more
	maxReasons  = 32      // of events that are malformed
)

// checkHostile: no frame makes Decode panic, or allocate or report without bound.
func checkHostile(s *Subject, r *report) {
	first := s.usual(r)
	if first == nil {
		return
	}
	reasons := map[string]bool{}
	random := rand.New(rand.NewPCG(hostileSeed, 1))
	for i := range first.down {
		for _, f := range hostile(random, first.down[i]) {
			s.tryFrame(r, first.down[:i], f, reasons, i < len(first.hasMsg) && first.hasMsg[i] && f.Type == first.down[i].Type)
		}
	}
	if len(reasons) > maxReasons {
		r.add("the EventMalformed of hostile frames have %d different reasons, which go into logs; want a few constant texts, "+
			"without anything that the peer sent", len(reasons))
	}
}

// tryFrame decodes f on a connection that has decoded earlier frames. damaged means that it
// was made from one with a message.
func (s *Subject) tryFrame(r *report, earlier []wire.Frame, f wire.Frame, reasons map[string]bool, damaged bool) {
	shown := cut(bytes.Clone(f.Data))
	defer func() {
		switch v := recover().(type) {
		case nil:
		case peerPanic:
			panic(v)
		default:
			r.add("Decode of %q panics: %v", shown, v)
		}
	}()
	k, err := s.open()
	if err != nil {
		return
	}
	for _, e := range earlier[min(len(k.down), len(earlier)):] {
		var events wire.Events
		_ = k.codec.Decode(wire.Frame{Type: e.Type, Data: bytes.Clone(e.Data)}, &events)
	}
	var events wire.Events
	var before, after runtime.MemStats
	big := len(f.Data) >= 1024
	if big {
		runtime.ReadMemStats(&before)
	}
	err = k.codec.Decode(f, &events)
	if err != nil && strings.Contains(err.Error(), marker) {
		r.add("the error of Decode repeats what the peer sent, and goes into logs and close frames: %.200q", err.Error())
	}
	if readable := f.Type == wire.Binary || utf8.Valid(f.Data); err != nil && damaged && readable && !s.Strict {
		r.once("a damaged message", "Decode of %q, a damaged message, returns an error, which ends the connection, and the client if it comes each time: report an EventMalformed, which the client "+
			"skips and counts, or set Subject.Strict if the protocol demands that: %v", shown, err)
	}
	if big {
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > uint64(memoryPer*len(f.Data)+moreMemory) {
			r.add("Decode of a frame of %d bytes allocates %d bytes: %q", len(f.Data), used, shown)
		}
	}
	if len(events.List) > eventsPer*len(f.Data)+moreEvents {
		r.add("Decode makes %d events of a frame of %d bytes: %q", len(events.List), len(f.Data), shown)
	}
	for _, e := range events.List {
		if e.Kind == wire.EventMalformed {
			reasons[e.Reason] = true
		}
		if text := k.fault(e); text != "" {
			r.add("%s, from %q", text, shown)
		}
	}
}

// marker is in some hostile frames, and must not be in an error.
const marker = "text-of-the-peer"

// hostile returns frames made from f, and some that have nothing to do with it.
func hostile(random *rand.Rand, f wire.Frame) (frames []wire.Frame) {
	add := func(data []byte) { frames = append(frames, wire.Frame{Type: f.Type, Data: data}) }
	other := wire.Text
	if f.Type == wire.Text {
		other = wire.Binary
	}
	frames = append(frames, wire.Frame{Type: other, Data: bytes.Clone(f.Data)})
	add(nil)
	add(append(bytes.Clone(f.Data), f.Data...))
	for range 8 {
		at := random.IntN(len(f.Data) + 1)
		add(slices.Concat(f.Data[:at], []byte(marker), f.Data[at:]))
	}
	for range 24 {
		b := bytes.Clone(f.Data)
		switch n := len(b); {
		case n == 0:
			b = []byte{byte(random.Uint32())}
		case random.IntN(3) == 0:
			b = b[:random.IntN(n)]
		case random.IntN(2) == 0:
			b[random.IntN(n)] = byte(random.Uint32())
		default:
			at, end := random.IntN(n), random.IntN(n)
			b = append(b[:at:at], f.Data[min(at, end):]...)
		}
		add(b)
	}
	for _, piece := range []string{"[", `{"a":`, "\xff", "0", "\n", `"`} {
		add([]byte(strings.Repeat(piece, 2000)))
		add([]byte(string(f.Data[:min(len(f.Data), 2)]) + strings.Repeat(piece, 2000)))
	}
	return frames
}

// checkAllocations: a message costs few allocations.
func checkAllocations(s *Subject, r *report) {
	k := s.usual(r)
	if k == nil {
		return
	}
	frames := k.peer.Encode(k.data(1, s.Topics[0], 9))
	var events wire.Events
	if n := testing.AllocsPerRun(50, func() {
		events.Reset()
		for _, f := range frames {
			_ = k.codec.Decode(f, &events)
		}
	}); n > float64(s.Allocs) {
		r.add("Decode of a message takes %.0f allocations, more than Subject.Allocs, %d", n, s.Allocs)
	}
	if !k.traits.Publish || k.traits.Acks {
		return // what waits for an acknowledgement is kept
	}
	var out wire.Frames
	op := []wire.Op{k.publishOp(payloadOf(9))}
	if n := testing.AllocsPerRun(50, func() {
		out.Reset()
		_ = k.codec.Encode(op, &out)
	}); n > float64(s.Allocs) {
		r.add("Encode of a publish takes %.0f allocations, more than Subject.Allocs, %d", n, s.Allocs)
	}
}
