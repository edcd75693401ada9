package server

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// An id is known for its principal alone, and a principal without ids takes no memory.
func TestOwnersOfIDs(t *testing.T) {
	const seed = 20261130
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := newIDs(100)
	type named struct{ who, id int }
	var order []named // the last 100 are known
	known := map[named]bool{}
	for range 20000 {
		n := named{r.IntN(300), r.IntN(50)}
		who := fmt.Sprint(n.who)
		if n.who == 0 {
			who = ""
		}
		var id wire.ID
		binary.BigEndian.PutUint64(id[:], uint64(n.id)+1)
		if _, found := s.find(s.owner(who), id); found != known[n] {
			t.Fatalf("id %d of %q: known %t, want %t", n.id, who, found, known[n])
		}
		if !known[n] {
			s.remember(who, []idEntry{{id: id}}, time.Now(), time.Hour)
			order, known[n] = append(order, n), true
			if len(order) > 100 {
				delete(known, order[len(order)-101])
			}
		}
	}
	owners := map[int]bool{}
	for n := range known {
		owners[n.who] = true
	}
	if len(known) != 100 || len(s.owners) != len(owners) {
		t.Errorf("%d ids of %d principals, %d are kept", len(known), len(owners), len(s.owners))
	}
}
