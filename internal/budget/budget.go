// Package budget shares a number of bytes among many accounts.
package budget

import (
	"math"
	"sync"
	"sync/atomic"
)

// Budget is a number of bytes that its accounts take from. It is safe for concurrent use.
// Its lock is a leaf: it is not held while an account gives way.
type Budget struct {
	limit int64
	used  atomic.Int64
	share atomic.Int64

	mu     sync.Mutex
	opened int64
	givers []*Account // that can give way
}

const (
	// shares is such that all shares together are less than half of the budget for up to
	// 25,000 accounts, although each was computed when there were fewer of them.
	shares      = 16
	fewAccounts = 16 // a share is computed for no fewer
)

// New returns a budget of limit bytes.
func New(limit int) *Budget {
	b := &Budget{limit: int64(limit)}
	b.count(0)
	return b
}

// count counts n more accounts; mu is held, or b is new.
func (b *Budget) count(n int64) {
	b.opened += n
	b.share.Store(b.limit / (shares * max(b.opened, fewAccounts)))
}

// Limit returns how many bytes there are.
func (b *Budget) Limit() int64 { return b.limit }

// Used returns how many bytes the accounts hold. It may exceed the limit for a moment:
// see Account.Take.
func (b *Budget) Used() int64 { return b.used.Load() }

// Share returns a small, equal part of the budget, which an account can always take.
func (b *Budget) Share() int64 { return b.share.Load() }

// Scarce reports whether less than an eighth is left.
func (b *Budget) Scarce() bool { return b.used.Load() > b.limit-b.limit/8 }

// MakeRoom makes accounts give way, the largest first, until bytes more fit. It reports
// whether they do: false if all that is left belongs to accounts that cannot give way.
func (b *Budget) MakeRoom(bytes int64) bool {
	for below := int64(math.MaxInt64); ; {
		missing := b.used.Load() + bytes - b.limit
		if missing <= 0 {
			return true
		}
		missing = max(missing, b.limit/128) // or each search would bring one message
		largest, level := b.largest(below, missing)
		if len(largest) == 0 {
			return false
		}
		gave := false
		for _, a := range largest {
			held := a.held.Load()
			if bytes := min(held-level, missing); bytes > 0 {
				a.giver.GiveWay(bytes)
				missing -= bytes
			}
			gave = gave || a.held.Load() < held
		}
		if !gave {
			below = level + 1 // they have nothing to give, or were filled again meanwhile
		}
	}
}

// largest returns the accounts that hold most of those that can give way and hold less than
// below, as many as have bytes above a level, and the level: an eighth below the largest, or what
// the next one holds if that is less.
func (b *Budget) largest(below, bytes int64) (largest []*Account, level int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	most, second := int64(0), int64(0)
	for _, a := range b.givers {
		if held := a.held.Load(); held > most && held < below {
			second, most = most, held
		} else if held < below {
			second = max(second, held)
		}
	}
	level = min(second, most-most/8-1)
	for _, a := range b.givers {
		if held := a.held.Load(); held > level && held < below && bytes > 0 {
			largest = append(largest, a)
			bytes -= held - level
		}
	}
	return largest, level
}

// Giver is what can give back a part of what its account holds.
type Giver interface {
	// GiveWay gives back bytes, or as much as it can. It is called without a lock.
	GiveWay(bytes int64)
}

// Account is what one user of a budget holds. Only one goroutine at a time may use it.
// The zero value holds nothing and belongs to no budget.
type Account struct {
	budget *Budget
	held   atomic.Int64
	giver  Giver
	place  int // in budget.givers
}

// Open adds the account to b. With a nil giver it never gives way.
func (a *Account) Open(b *Budget, giver Giver) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.budget, a.giver = b, giver
	b.count(1)
	if giver != nil {
		a.place = len(b.givers)
		b.givers = append(b.givers, a)
	}
}

// Close gives everything back. Closing again does nothing.
func (a *Account) Close() {
	b := a.budget
	if b == nil {
		return
	}
	b.used.Add(-a.held.Swap(0))
	a.budget = nil
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(-1)
	if a.giver != nil {
		last := b.givers[len(b.givers)-1]
		b.givers[a.place], last.place = last, a.place
		b.givers[len(b.givers)-1] = nil
		b.givers = b.givers[:len(b.givers)-1]
	}
}

// Held returns how many bytes the account holds.
func (a *Account) Held() int64 { return a.held.Load() }

// Set makes the account hold bytes, even beyond the limit. It does nothing after
// Close.
func (a *Account) Set(bytes int64) {
	if a.budget != nil {
		a.budget.used.Add(bytes - a.held.Swap(bytes))
	}
}

// TakeRest takes all that is left.
func (a *Account) TakeRest() {
	if b := a.budget; b != nil {
		for rest := b.limit - b.used.Load(); rest > 0 && !a.TryTake(rest, b.limit); {
			rest = b.limit - b.used.Load()
		}
	}
}

// TryTake takes bytes if all accounts together then hold at most most.
func (a *Account) TryTake(bytes, most int64) bool {
	b := a.budget
	if b == nil {
		return false
	}
	for {
		used := b.used.Load()
		if used+bytes > most {
			return false
		}
		if b.used.CompareAndSwap(used, used+bytes) {
			a.held.Add(bytes)
			return true
		}
	}
}
