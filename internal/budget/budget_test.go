package budget

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// user gives way down to what it may not give.
type user struct {
	Account
	least int64
	gave  []int64
}

func (u *user) GiveWay(bytes int64) {
	u.gave = append(u.gave, bytes)
	u.Set(max(u.least, u.Held()-bytes))
}

func open(b *Budget, held int64) *user {
	u := new(user)
	u.Open(b, u)
	u.Set(held)
	return u
}

func TestTheLargestGivesWayFirst(t *testing.T) {
	b := New(100_000)
	var fixed Account
	fixed.Open(b, nil)
	fixed.Set(50_000) // never gives way
	small, large, middle := open(b, 5_000), open(b, 25_000), open(b, 15_000)
	if !b.MakeRoom(5_000) || len(large.gave) > 0 {
		t.Errorf("what fits needs no room: %v", large.gave)
	}
	if !b.MakeRoom(10_000) || large.Held() != 20_000 || small.Held() != 5_000 || middle.Held() != 15_000 {
		t.Errorf("for 5,000 bytes: %d, %d, %d", small.Held(), large.Held(), middle.Held())
	}
	if !b.MakeRoom(40_000) || small.Held() > 4_000 || large.Held() > 4_000 || middle.Held() > 4_000 {
		t.Errorf("for 30,000 bytes: %d, %d, %d", small.Held(), large.Held(), middle.Held())
	}
	if b.MakeRoom(60_000) || b.Used() != 50_000 {
		t.Errorf("%d bytes are used: the account that never gives way has 50,000", b.Used())
	}
	large.least, large.gave = 10_000, nil
	large.Set(10_000)
	small.Set(5_000)
	if b.MakeRoom(60_000) || len(large.gave) != 1 || small.Held() != 0 {
		t.Errorf("who gives nothing was asked %d times, and the next one has %d", len(large.gave), small.Held())
	}
}

// However many accounts hold about the same, there is room for a while afterwards, or each
// message would cost a search through all of them.
func TestManyGiveWayAtOnce(t *testing.T) {
	b := New(1 << 20)
	var all []*user
	for i := range 1024 {
		all = append(all, open(b, 1023+int64(i%3)))
	}
	if !b.MakeRoom(b.Limit() - b.Used() + 1) {
		t.Error("there is no room")
	}
	if free := b.Limit() - b.Used(); free < b.Limit()/128 || free > b.Limit()/64 {
		t.Errorf("%d of %d bytes are free", free, b.Limit())
	}
	for _, u := range all {
		if u.Held() < 800 {
			t.Errorf("one has %d bytes left, others a thousand", u.Held())
		}
	}
}

// Whatever order accounts are opened and closed in, together they hold what Used says, and
// their shares are less than half of the budget.
func TestAccountsAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	b := New(1 << 26)
	var all []*user
	for step := range 20_000 {
		switch n := len(all); {
		case n == 0 || rnd.IntN(10) < 7:
			all = append(all, open(b, 0))
			all[n].Set(b.Share())
		case rnd.IntN(2) == 0:
			i := rnd.IntN(n)
			all[i].Close()
			all[i].Close()
			all[i].Set(10) // after Close it holds nothing
			all[i].TryTake(10, 1<<26)
			all = slices.Delete(all, i, i+1)
		default:
			u := all[rnd.IntN(n)]
			u.Set(min(u.Held(), rnd.Int64N(b.Share()+1)))
		}
		sum := int64(0)
		if step%100 == 0 {
			for _, u := range all {
				sum += u.Held()
			}
			if sum != b.Used() || sum > b.Limit()/2 || len(b.givers) != len(all) {
				t.Fatalf("step %d: %d accounts hold %d, Used is %d", step, len(all), sum, b.Used())
			}
		}
	}
	var u user
	u.Open(b, &u)
	if u.TryTake(b.Limit()-b.Used()+1, b.Limit()) || !u.TryTake(b.Limit()-b.Used(), b.Limit()) || !b.Scarce() {
		t.Errorf("%d of %d are used", b.Used(), b.Limit())
	}
}
