package ids

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestIDs(t *testing.T) {
	g, other := NewGenerator(), NewGenerator()
	now := time.UnixMilli(1_700_000_000_000)
	var before uuid.UUID
	for i := range 20_000 {
		if i%7 == 0 {
			now = now.Add(time.Duration(i%3-1) * time.Millisecond) // the clock goes back, too
		}
		g.now.Store(uint64(now.UnixMilli()))
		id := g.ID(g.Reserve(1 + i%3))
		if id.Version() != 7 || id.Variant() != uuid.RFC4122 {
			t.Fatalf("%v has version %v, variant %v", id, id.Version(), id.Variant())
		}
		if bytes.Compare(id[:], before[:]) <= 0 {
			t.Fatalf("%v after %v", id, before)
		}
		before = id
	}
	if sec, _ := g.ID(g.Reserve(1)).Time().UnixTime(); sec < now.Unix() || sec > now.Unix()+10 {
		t.Errorf("an id of %d says %d", now.Unix(), sec)
	}
	if g.random == other.random || g.random>>62 != 2 {
		t.Errorf("random parts %x and %x", g.random, other.random)
	}
	if n := testing.AllocsPerRun(1000, func() { g.ID(g.Reserve(1)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
