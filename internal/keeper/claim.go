package keeper

import (
	"reflect"
	"sync"

	"github.com/limpet-go/limpet/outbox"
)

// uses counts who uses each store of this process: the client that has claimed it, and each call of Commit, which may go
// on after its client has ended.
var uses struct {
	mu sync.Mutex // leaf
	of map[outbox.Store]int
}

// claim makes the caller the only user of store, until release. If store cannot be compared it cannot be recognised, and
// is not refused.
func claim(store outbox.Store) bool {
	uses.mu.Lock()
	defer uses.mu.Unlock()
	if !recognisable(store) {
		return true
	}
	if uses.of[store] > 0 {
		return false
	}
	if uses.of == nil {
		uses.of = map[outbox.Store]int{}
	}
	uses.of[store] = 1
	return true
}

// use adds a user of store beside the one that has claimed it.
func use(store outbox.Store) {
	uses.mu.Lock()
	defer uses.mu.Unlock()
	if recognisable(store) {
		uses.of[store]++
	}
}

// release follows once for each claim and use.
func release(store outbox.Store) {
	uses.mu.Lock()
	defer uses.mu.Unlock()
	if !recognisable(store) {
		return
	}
	if uses.of[store]--; uses.of[store] == 0 {
		delete(uses.of, store)
	}
}

func recognisable(store outbox.Store) bool { return reflect.ValueOf(store).Comparable() }
