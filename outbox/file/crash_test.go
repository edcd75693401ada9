package file

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/limpet-go/limpet/internal/segment/faultdisk"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/outboxtest"
)

var rounds = flag.Int("rounds", 0, "rounds of TestCrashesAtRandom; 0: 400, or 25 with the race detector")

// history is what was committed, and what the content was after each change.
type history struct {
	changes  []*outbox.Change
	contents []*outbox.Content // contents[n] is that after n changes
	durable  int               // the number of changes that must be there after a loss of power
	doubtful *outbox.Change    // it may be there or not
}

func newHistory() *history { return &history{contents: []*outbox.Content{{}}} }

func (h *history) now() *outbox.Content { return h.contents[len(h.contents)-1] }

// add adds a change that was committed, or may have been.
func (h *history) add(c *outbox.Change) {
	model := outbox.Memory()
	for _, c := range append(h.changes, c) {
		if err := model.Commit(context.Background(), c); err != nil {
			panic(err)
		}
	}
	k, _ := model.Load(context.Background())
	h.changes, h.contents = append(h.changes, c), append(h.contents, k)
}

// found compares what is there after a restart with what may be there, and goes on from it.
func (h *history) found(k *outbox.Content, power bool) error {
	least := len(h.changes)
	if power {
		least = h.durable
	}
	if h.doubtful != nil {
		h.add(h.doubtful)
		h.doubtful = nil
	}
	var errs []error
	for i := len(h.changes); i >= least; i-- {
		err := outboxtest.Compare(k, h.contents[i])
		if err == nil {
			h.changes, h.contents, h.durable = h.changes[:i], h.contents[:i+1], i
			return nil
		}
		errs = append(errs, fmt.Errorf("after %d changes it would differ: %w", i, err))
	}
	return errors.Join(errs...)
}

// trial is a store on a disk with faults.
type trial struct {
	t     *testing.T
	d     *faultdisk.Disk
	s     *Store
	h     *history
	steps []string
}

func (x *trial) fatal(err error) {
	x.t.Helper()
	x.t.Fatalf("%v\nafter %q", err, x.steps)
}

func (x *trial) open() error {
	s, err := openOn(x.d, "disk", 4<<10)
	if err == nil {
		x.s = s
	}
	return err
}

// restart ends the process or the machine and starts again, sometimes with a fault.
func (x *trial) restart(power bool) {
	x.steps = append(x.steps, fmt.Sprintf("restart %v", power))
	x.d.Restart(power)
	x.d.Full = false
	if x.d.Rand.IntN(4) == 0 {
		x.d.After, x.d.Fault = x.d.Rand.IntN(20), []error{syscall.EIO, nil}[x.d.Rand.IntN(2)]
		if err := x.open(); err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, faultdisk.ErrPower) {
			x.fatal(err)
		}
		again := x.d.Dead || x.d.Rand.IntN(2) == 0
		x.d.Restart(again)
		power = power || again
	}
	if err := x.open(); err != nil {
		x.fatal(err)
	}
	k, err := x.s.Load(x.t.Context())
	if err == nil {
		err = x.h.found(k, power)
	}
	if err != nil {
		x.fatal(err)
	}
}

// commit makes a change with a fault, or without one.
func (x *trial) commit() {
	r := x.d.Rand
	c := outboxtest.Random(r, x.h.now())
	faulty := r.IntN(3) == 0
	if faulty {
		x.d.After = r.IntN(12)
		x.d.Fault = []error{syscall.EIO, syscall.ENOSPC, nil}[r.IntN(3)]
	}
	x.d.Full = r.IntN(10) == 0
	err := x.s.Commit(x.t.Context(), c)
	x.steps = append(x.steps, fmt.Sprintf("lazy %v reset %v %d messages: %v, dead %v, segment %d end %d", c.Lazy, c.Reset, len(c.Messages), err, x.d.Dead, x.s.current.Number, x.s.current.end))
	x.d.After = -1
	switch {
	case err == nil:
		x.h.add(c)
		if !c.Lazy {
			x.h.durable = len(x.h.changes)
		}
	case errors.Is(err, outbox.ErrUncertain):
		x.h.doubtful = c
		if err := x.s.Commit(x.t.Context(), &outbox.Change{}); !errors.Is(err, outbox.ErrUncertain) {
			x.fatal(fmt.Errorf("then %w", err))
		}
		x.restart(x.d.Dead || r.IntN(2) == 0)
		return
	case !faulty && !x.d.Full:
		x.fatal(err)
	case errors.Is(err, syscall.ENOSPC) != errors.Is(err, outbox.ErrFull):
		x.fatal(fmt.Errorf("not the sentinel: %w", err))
	}
	if x.d.Dead || r.IntN(12) == 0 {
		x.restart(x.d.Dead || r.IntN(2) == 0)
	}
	if k, err := x.s.Load(x.t.Context()); err != nil {
		x.fatal(err)
	} else if err := outboxtest.Compare(k, x.h.now()); err != nil {
		x.fatal(err)
	}
	if r.IntN(20) == 0 {
		x.close()
	}
}

// close closes the store in an orderly way, after which nothing is lost, not even without power. In half of all cases the power
// goes meanwhile.
func (x *trial) close() {
	faulty := x.d.Rand.IntN(2) == 0
	if faulty {
		x.d.After, x.d.Fault = x.d.Rand.IntN(4), nil
	}
	err := x.s.Close()
	x.d.After = -1
	x.steps = append(x.steps, fmt.Sprintf("close: %v, dead %v", err, x.d.Dead))
	switch {
	case err == nil:
		x.h.durable = len(x.h.changes)
	case !faulty:
		x.fatal(err)
	}
	x.restart(x.d.Dead || x.d.Rand.IntN(2) == 0)
}

// Whatever fails and whenever the process or the machine ends: what was committed is there, what failed is
// not, and a change whose fate is unknown is there whole or not at all.
func TestCrashesAtRandom(t *testing.T) {
	used, segments := map[string]int{}, uint64(0)
	n := *rounds
	if n == 0 {
		n = 400
		if raceEnabled {
			n = 25
		}
	}
	for seed := range uint64(n) {
		d := faultdisk.New(rand.New(rand.NewPCG(seed, 0)))
		x := &trial{t: t, d: d, h: newHistory(), steps: []string{fmt.Sprint("seed ", seed)}}
		if err := x.open(); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			x.commit()
		}
		if len(d.Misuse) > 0 {
			x.fatal(fmt.Errorf("misuse: %q", d.Misuse))
		}
		for op, n := range d.Used {
			used[op] += n
		}
		segments += x.s.current.Number
	}
	kinds := slices.Sorted(maps.Keys(used))
	want := []string{"create", "names", "open", "read", "remove", "rename", "size", "sync", "sync of names", "write"}
	if n >= 100 && !slices.Equal(kinds, want) {
		t.Errorf("faults of %q, want %q", kinds, want)
	}
	t.Logf("faults %v, %d segments", used, segments)
}
