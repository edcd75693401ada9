package lend

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// message is what the model of TestMemoryAtRandom knows of a message that waits.
type message struct {
	number uint64
	lent   []byte
	want   []byte
}

// model checks a Memory against what it should do.
type model struct {
	t       *testing.T
	rnd     *rand.Rand
	m       Memory
	number  uint64
	waiting []message
	batches []*Batch
	taken   [][]message // of each batch
}

func (k *model) payload() []byte {
	sizes := []int{0, 1, 64, 500, 1025, 2049, MaxPayload, MaxPayload + 1, 20_000}
	p := make([]byte, sizes[k.rnd.IntN(len(sizes))])
	for i := range p {
		p[i] = byte(k.rnd.Uint32()) | 1 // never Poison
		if p[i] == Poison {
			p[i] = 1
		}
	}
	return p
}

func (k *model) check() {
	k.t.Helper()
	for _, list := range append(k.taken, k.waiting) {
		for _, w := range list {
			if !bytes.Equal(w.lent, w.want) {
				k.t.Fatalf("message %d was overwritten", w.number)
			}
		}
	}
	blocks, own := map[*block]bool{}, 0
	for _, w := range k.waiting {
		if !Fits(len(w.want)) {
			own += len(w.want)
			continue
		}
		blocks[*k.m.blocks.At(k.m.find(w.number))] = true
	}
	held := int64(own)
	for b := range blocks {
		held += int64(len(b.data))
	}
	if k.m.Held() != held {
		k.t.Fatalf("Held is %d, want %d", k.m.Held(), held)
	}
}

// add adds a few messages, whose memory MostFor and CostOf must have foreseen.
func (k *model) add() {
	var payloads [][]byte
	inBlocks, most := 0, k.m.Held()
	for range 1 + k.rnd.IntN(8) {
		p := k.payload()
		if payloads = append(payloads, p); Fits(len(p)) {
			inBlocks += len(p)
		} else {
			most += int64(len(p))
		}
	}
	most += k.m.MostFor(inBlocks)
	for _, p := range payloads {
		k.number += 1 + k.rnd.Uint64N(2)
		exact := k.m.Held() + k.m.CostOf(len(p))
		lent := k.m.Copy(k.number, p)
		if k.m.Held() != exact {
			k.t.Fatalf("Held is %d, CostOf has said %d", k.m.Held(), exact)
		}
		if !Fits(len(p)) && len(p) > 0 && &lent[0] != &p[0] {
			k.t.Fatal("a large payload was copied")
		}
		if cap(lent) > len(lent) && Fits(len(p)) {
			k.t.Fatalf("a payload of %d bytes has room for %d: append would reach the next one", len(lent), cap(lent))
		}
		k.waiting = append(k.waiting, message{k.number, lent, bytes.Clone(p)})
	}
	if k.m.Held() > most {
		k.t.Fatalf("Held is %d, MostFor has said at most %d", k.m.Held(), most)
	}
}

func (k *model) drop() {
	if len(k.waiting) == 0 {
		return
	}
	i := []int{0, len(k.waiting) - 1, k.rnd.IntN(len(k.waiting))}[k.rnd.IntN(3)]
	k.m.Drop(k.waiting[i].number, len(k.waiting[i].want))
	k.waiting = append(k.waiting[:i], k.waiting[i+1:]...)
}

func (k *model) take() {
	if len(k.batches) == 3 || len(k.waiting) == 0 {
		return
	}
	b, n := new(Batch), 1+k.rnd.IntN(len(k.waiting))
	for _, w := range k.waiting[:n] {
		k.m.Take(b, w.number, w.lent)
	}
	k.batches, k.taken = append(k.batches, b), append(k.taken, append([]message(nil), k.waiting[:n]...))
	k.waiting = k.waiting[n:]
}

func (k *model) giveBack() {
	if len(k.batches) == 0 {
		return
	}
	i := k.rnd.IntN(len(k.batches))
	list := k.taken[i]
	k.m.Return(k.batches[i])
	k.batches = append(k.batches[:i], k.batches[i+1:]...)
	k.taken = append(k.taken[:i], k.taken[i+1:]...)
	if Poisons {
		for _, w := range list {
			if Fits(len(w.lent)) && bytes.Count(w.lent, []byte{Poison}) != len(w.lent) {
				k.t.Fatalf("message %d was given back, and is not overwritten", w.number)
			}
		}
	}
}

// TestMemoryAtRandom: what waits or was taken keeps its bytes, and Held, MostFor and CostOf are right,
// whatever is dropped, taken and given back.
func TestMemoryAtRandom(t *testing.T) {
	for range 15 {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		k := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 0))}
		for range 400 {
			switch k.rnd.IntN(10) {
			case 0, 1, 2:
				k.add()
			case 3, 4:
				k.drop()
			case 5, 6:
				k.take()
			case 7, 8:
				k.giveBack()
			case 9:
				if k.rnd.IntN(20) == 0 {
					k.m.Reset()
					k.waiting = nil
				}
			}
			k.check()
		}
	}
}

// TestMemoryIsUsedAgain: steady traffic needs no new blocks.
func TestMemoryIsUsedAgain(t *testing.T) {
	if Poisons {
		t.Skip("with -race or limpetdebug, memory is not used again")
	}
	var m Memory
	var b Batch
	payload, number := make([]byte, 512), uint64(0)
	round := func() {
		var lent [100][]byte
		for i := range lent {
			number++
			lent[i] = m.Copy(number, payload)
		}
		for i, p := range lent {
			m.Take(&b, number-99+uint64(i), p)
		}
		m.Return(&b)
	}
	round()
	if got := testing.AllocsPerRun(100, round); got > 1 { // a collection may empty the pools
		t.Errorf("100 messages cost %v allocations", got)
	}
	if m.Held() != 0 {
		t.Errorf("Held is %d when nothing waits", m.Held())
	}
}

// What has memory of its own, or gets it, costs one copy at most.
func TestReleaseCopiesOnlyWhatIsInABlock(t *testing.T) {
	var m Memory
	for number, size := range []int{0, 1, MaxPayload, MaxPayload + 1} {
		payload := bytes.Repeat([]byte{1}, size)
		kept := m.Copy(uint64(number), payload)
		if own := m.Release(uint64(number), kept); !bytes.Equal(own, bytes.Repeat([]byte{1}, size)) || size > MaxPayload != (size > 0 && &own[0] == &kept[0]) {
			t.Errorf("%d bytes: %d came back, or the copies are not what is needed", size, len(own))
		}
		if m.Held() != 0 {
			t.Errorf("%d bytes: Held is %d", size, m.Held())
		}
	}
}
