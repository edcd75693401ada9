package limpet

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/admission"
	"github.com/limpet-go/limpet/wire"
)

// uplinkModel is a window that is used at random, and a server that takes what it sends.
type uplinkModel struct {
	t      *testing.T
	rnd    *rand.Rand
	gate   *admission.Gate
	w      *window
	now    time.Time
	ready  bool
	all    []*Receipt       // in the order of their admission
	number map[*Receipt]int // in all, from 1
	byID   map[wire.ID]*Receipt
	under  map[uint64]wire.ID // what was sent under each number of this session
	has    []*Receipt         // what the server has accepted, in order
	taken  uint64             // the highest number that it has taken
}

const modelRoom = 40

func newUplinkModel(t *testing.T, seed uint64) *uplinkModel {
	rnd := rand.New(rand.NewPCG(seed, 11))
	gate := admission.New(modelRoom, 1000)
	return &uplinkModel{
		t: t, rnd: rnd, gate: gate, w: newWindow(true, gate, new(counters)), now: time.Now(),
		number: map[*Receipt]int{}, byID: map[wire.ID]*Receipt{}, under: map[uint64]wire.ID{},
	}
}

func (m *uplinkModel) publish() {
	if full, err := m.gate.Acquire(context.Background(), 1, 3, false); full || err != nil {
		return
	}
	r := &Receipt{payload: []byte("abc")}
	r.id[0], r.id[1] = byte(len(m.all)), byte(len(m.all)>>8)
	if m.rnd.IntN(3) > 0 {
		ttl := time.Duration(1+m.rnd.IntN(20)) * time.Second
		r.details = &receiptDetails{ttl: ttl, expires: m.now.Add(ttl)}
	}
	m.all = append(m.all, r)
	m.number[r], m.byID[wire.ID(r.id)] = len(m.all), r
	m.w.add(r, m.now)
}

// connect begins a connection, sometimes in a new session.
func (m *uplinkModel) connect() {
	waits, resumed := m.w.slots.Len()-m.w.left, m.rnd.IntN(6) > 0
	if up := m.w.uplink(); up.Hi < m.taken || up.Hi+1-up.Lo != uint64(waits) {
		m.t.Fatalf("%+v in the handshake, for %d messages; the server has taken %d", up, waits, m.taken)
	}
	if !resumed {
		m.taken = 0
		clear(m.under)
	}
	credit := wire.Credit{N: m.taken + uint64(m.rnd.IntN(20)), Bytes: uint64(m.rnd.IntN(40))}
	if err := m.w.resume(&wire.Ready{Resumed: resumed, Ack: wire.Ack{To: m.taken, HasCredit: true, Credit: credit}}, true); err != nil {
		m.t.Fatal(err)
	}
	m.ready = true
}

// send sends a batch, later than the one before it. Sometimes a message cannot be encoded, and what is behind it is not sent.
func (m *uplinkModel) send() {
	m.now = m.now.Add(1)
	ops, _ := m.w.nextBatch(nil, nil, m.now, 1000, 1+m.rnd.IntN(10))
	bad := len(ops)
	if len(ops) > 0 && m.rnd.IntN(8) == 0 {
		i := m.rnd.IntN(len(ops))
		if m.w.rejectUnencodable(ops[i].Message.Seq, errors.New("no"), m.now) {
			bad = i
		}
	}
	arrives := m.rnd.IntN(5) > 0
	for _, op := range ops[:bad] {
		sent := op.Message
		if id, again := m.under[sent.Seq]; again && id != sent.ID {
			m.t.Fatalf("number %d is message %d, and was %d", sent.Seq, m.number[m.byID[sent.ID]], m.number[m.byID[id]])
		}
		m.under[sent.Seq] = sent.ID
		if sent.Void && m.byID[sent.ID].decided == Expired {
			m.t.Fatalf("message %d has expired and is sent", m.number[m.byID[sent.ID]])
		}
		if arrives && sent.Seq == m.taken+1 {
			m.taken++
			if r := m.byID[sent.ID]; !sent.Void && !slices.Contains(m.has, r) { // else it knows the id
				m.has = append(m.has, r)
			}
		}
	}
}

func (m *uplinkModel) step() {
	switch n := m.rnd.IntN(10); {
	case n < 4:
		m.publish()
	case n < 5:
		m.now = m.now.Add(time.Duration(m.rnd.IntN(5)) * time.Second)
		m.w.expire(m.now)
	case !m.ready:
		m.connect()
	case n < 8:
		m.send()
	case n < 9:
		a := wire.Ack{To: m.taken, HasCredit: true, Credit: wire.Credit{N: m.taken + uint64(m.rnd.IntN(20)), Bytes: 1 << 30}}
		if err := m.w.acknowledge(&a); err != nil {
			m.t.Fatal(err)
		}
	default:
		m.w.connectionLost()
		m.ready = false
	}
	if free, _ := m.gate.Free(); free != modelRoom-(m.w.slots.Len()-m.w.left) {
		m.t.Fatalf("%d places are free, %d slots are there, of which %d have left", free, m.w.slots.Len(), m.w.left)
	}
}

// finish lets every message get its outcome, and compares.
func (m *uplinkModel) finish() {
	for m.w.pending > 0 {
		m.connect()
		m.w.credit = wire.Credit{N: 1 << 30, Bytes: 1 << 30}
		for m.w.nextToSend < m.w.slots.Len() {
			m.send()
		}
		if err := m.w.acknowledge(&wire.Ack{To: m.taken}); err != nil {
			m.t.Fatal(err)
		}
	}
	for i, r := range m.has {
		if i > 0 && m.number[r] <= m.number[m.has[i-1]] {
			m.t.Errorf("the server has message %d after %d", m.number[r], m.number[m.has[i-1]])
		}
	}
	for _, r := range m.all {
		if has := slices.Contains(m.has, r); r.Outcome() == Pending || has != (r.Outcome() == Acked) && r.Outcome() != Unknown {
			m.t.Errorf("message %d is %v, the server has it: %v", m.number[r], r.Outcome(), has)
		}
	}
}

// However messages expire between connections, sessions and batches: a number that was sent is never that of
// another message, the order stays, the outcomes are true, and what has expired takes no place.
func TestExpiringWindowModel(t *testing.T) {
	expired := 0
	for seed := range uint64(200) {
		m := newUplinkModel(t, seed)
		for range 300 {
			m.step()
		}
		if m.finish(); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		for _, r := range m.all {
			if r.Outcome() == Expired {
				expired++
			}
		}
	}
	if expired < 1000 {
		t.Errorf("%d messages have expired: this proves little", expired)
	}
}

// Many messages that expire one by one cost a number of steps that grows as they do, offline and while the
// server grants no credit.
func TestExpiryIsLinear(t *testing.T) {
	const n = 20_000
	for _, connected := range []bool{false, true} {
		w := newWindow(true, admission.New(0, 0), new(counters))
		now := time.Now()
		if connected {
			if err := w.resume(&wire.Ready{Resumed: true, Ack: wire.Ack{HasCredit: true, Credit: wire.Credit{N: 5, Bytes: 1}}}, true); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			r := new(Receipt)
			if i >= 5 {
				ttl := time.Duration(1+i*7919%n) * time.Millisecond
				r.details = &receiptDetails{ttl: ttl, expires: now.Add(ttl)}
			}
			w.add(r, now)
		}
		steps := 0
		for !w.expiries.Next().IsZero() {
			before := w.slots.Len()
			if now = w.expiries.Next(); connected {
				w.nextBatch(nil, nil, now, 1000, 100)
			}
			if w.expire(now); w.slots.Len() < before {
				steps += before
			}
		}
		if w.compact(); w.pending != 5 || w.slots.Len() != 5 || steps > 4*n {
			t.Errorf("connected %v: %d messages wait in %d slots, after %d steps for %d messages", connected, w.pending, w.slots.Len(), steps, n)
		}
	}
}
