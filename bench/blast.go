package main

import (
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// order describes what a blaster sends. It travels in the URL.
type order struct {
	Messages, Size, Pack, Subs int
	Recording                  string
	Run                        int
	Every                      time.Duration // between two messages
}

func (s spec) order() order {
	return order{Messages: s.Messages, Size: s.Size, Pack: max(1, s.Pack), Subs: max(1, s.Subs), Recording: s.Recording, Run: s.Run}
}

func (o order) query() string {
	b, _ := json.Marshal(o)
	return "?o=" + url.QueryEscape(string(b))
}

func orderOf(r *http.Request) (o order) {
	json.Unmarshal([]byte(r.URL.Query().Get("o")), &o)
	return o
}

const writeAtOnce = 64 << 10

// rawBlast sends prepared WebSocket messages after the client's first.
func rawBlast(w http.ResponseWriter, r *http.Request) {
	o := orderOf(r)
	all := rawStream(o) // before the measurement starts
	p, err := upgrade(w, r)
	if err != nil {
		return
	}
	defer p.Close()
	if _, err := p.next(); err != nil {
		return
	}
	for b := all; len(b) > 0; {
		n := min(len(b), writeAtOnce)
		if p.send(b[:n]) != nil {
			return
		}
		b = b[n:]
	}
	for {
		if _, err := p.next(); err != nil {
			return
		}
	}
}

func rawStream(o order) []byte {
	all, payload := make([]byte, 0, o.Messages*(o.Size+10)), make([]byte, o.Size)
	for range o.Messages {
		all = append(appendHeader(all, opBinary, o.Size), payload...)
	}
	return all
}

// limpetBlast implements as much of limpet.v1 as a client needs. It sends prepared
// messages to the subscriptions in turn, once all of them exist and as far as their
// credit allows. Without messages it keeps an idle connection.
func limpetBlast(w http.ResponseWriter, r *http.Request) {
	o := orderOf(r)
	p, err := upgrade(w, r)
	if err != nil {
		return
	}
	defer p.Close()
	b := &blaster{order: o, peer: p}
	b.room = sync.NewCond(&b.mu)
	if o.Messages > 0 && o.Subs == 1 {
		b.prepare() // before the measurement starts
	}
	if b.serve() != nil || o.Messages == 0 {
		b.mu.Lock()
		b.ended = true
		b.mu.Unlock()
		b.room.Broadcast()
	}
}

type blaster struct {
	order
	*peer
	bytes []byte
	ends  []int // of each WebSocket message

	mu     sync.Mutex
	room   *sync.Cond
	chans  []uint64 // in order of subscription
	credit map[uint64]native.Credit
	ended  bool
}

// serve answers the client until the connection ends.
func (b *blaster) serve() error {
	b.credit = map[uint64]native.Credit{}
	var frames []native.Frame
	for {
		data, err := b.next()
		if err != nil {
			return err
		}
		if frames, err = native.Decode(frames[:0], native.Binary, native.FromClient, data, native.DefaultLimits); err != nil {
			return err
		}
		var answer []native.Frame
		for i := range frames {
			answer = b.apply(&frames[i], answer)
		}
		if len(answer) == 0 {
			continue
		}
		out, err := native.Append(nil, native.Binary, answer)
		if err != nil {
			return err
		}
		if err := b.message(opBinary, out); err != nil {
			return err
		}
		b.mu.Lock()
		begin := b.Messages > 0 && len(b.chans) == b.Subs && b.isSub(answer)
		b.mu.Unlock()
		if begin {
			if b.ends == nil {
				b.prepare()
			}
			go b.blast()
		}
	}
}

func (b *blaster) isSub(answer []native.Frame) bool {
	return answer[len(answer)-1].Type == native.TypeSubOK
}

func (b *blaster) apply(f *native.Frame, answer []native.Frame) []native.Frame {
	switch f.Type {
	case native.TypeHello:
		answer = append(answer, native.Frame{Type: native.TypeWelcome, Welcome: &native.Welcome{
			CN: f.Hello.CN, SID: "bench", Key: make([]byte, 16), SE: 1, Cr: native.Credit{N: 4096, B: math.MaxInt64}, HB: 60_000,
		}})
		for i := range f.Hello.Subs {
			answer = b.subscribe(&f.Hello.Subs[i], answer)
		}
	case native.TypeSub:
		answer = b.subscribe(f.Sub, answer)
	case native.TypePing:
		answer = append(answer, native.Frame{Type: native.TypePong, N: f.N})
	case native.TypeAck:
		b.mu.Lock()
		for _, c := range f.Ack.Dcr {
			b.credit[c.Ch] = native.Credit{N: c.N, B: c.B}
		}
		b.mu.Unlock()
		b.room.Broadcast()
	}
	return answer
}

func (b *blaster) subscribe(s *native.Sub, answer []native.Frame) []native.Frame {
	b.mu.Lock()
	b.chans = append(b.chans, s.Ch)
	b.credit[s.Ch] = s.Cr
	b.mu.Unlock()
	return append(answer, native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{Ch: s.Ch, Epoch: "bench", Tag: make([]byte, 16), Rec: true}})
}

// prepare writes the whole stream into memory: WebSocket message u goes to
// subscription u mod Subs. The first subscription of a client has channel 1.
func (b *blaster) prepare() {
	payload := make([]byte, b.Size)
	frames := make([]native.Frame, b.Pack)
	last := make([]uint64, b.Subs)
	offset := uint64(0)
	var data []byte
	for u := range b.Messages / b.Pack {
		ch := uint64(1)
		if b.Subs > 1 {
			ch = b.chans[u%b.Subs]
		}
		for i := range frames {
			offset++
			m := native.Msg{Ch: ch, S: offset, P: last[u%b.Subs], HasP: true, Payload: payload}
			copy(m.ID[:], strconv.AppendUint(m.ID[:0], offset+1e15, 10))
			frames[i] = native.Frame{Type: native.TypeMsg, Msg: m}
			last[u%b.Subs] = offset
		}
		var err error
		if data, err = native.Append(data[:0], native.Binary, frames); err != nil {
			panic(err)
		}
		b.bytes = append(appendHeader(b.bytes, opBinary, len(data)), data...)
		b.ends = append(b.ends, len(b.bytes))
	}
}

func (b *blaster) blast() {
	from := 0
	for u := 0; u < len(b.ends); {
		b.mu.Lock()
		for !b.allowed(u) && !b.ended {
			b.room.Wait()
		}
		ended := b.ended
		upTo := u + 1
		for upTo < len(b.ends) && b.ends[upTo]-from <= writeAtOnce && b.allowed(upTo) {
			upTo++
		}
		b.mu.Unlock()
		if ended || b.send(b.bytes[from:b.ends[upTo-1]]) != nil {
			return
		}
		from, u = b.ends[upTo-1], upTo
	}
}

// allowed reports whether the credit covers WebSocket message u. One message
// may overdraw the bytes (docs/protocol.md, section 2).
func (b *blaster) allowed(u int) bool {
	c := b.credit[b.chans[u%b.Subs]]
	n := uint64((u/b.Subs + 1) * b.Pack)
	return n <= c.N && (n-1)*uint64(b.Size) < c.B
}
