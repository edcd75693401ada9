package inbox

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// Every event that was taken by Post arrives once, in the order of its poster, although the
// owner rests again and again. After Close nothing is lost: Post says no.
func TestNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var box Inbox[[2]int]
		var got [][2]int // of the owner, of which there is one at a time
		box.Init(func() {
			for {
				box.Await()
				got = append(got, box.Take(nil)...)
				if box.Rest() {
					return
				}
			}
		})
		var posters sync.WaitGroup
		for p := range 8 {
			posters.Go(func() {
				for i := range 500 {
					if !box.Post([2]int{p, i}) {
						t.Errorf("event %d of %d was refused", i, p)
					}
				}
			})
		}
		posters.Wait()
		synctest.Wait()
		next := [8]int{}
		for _, e := range got {
			if e[1] != next[e[0]] {
				t.Fatalf("event %d of %d, want %d", e[1], e[0], next[e[0]])
			}
			next[e[0]]++
		}
		if len(got) != 8*500 {
			t.Errorf("%d events, want %d", len(got), 8*500)
		}
	})
}

// What waits at the end is returned, and nothing follows.
func TestClose(t *testing.T) {
	var box Inbox[int]
	box.Init(func() {})
	box.Post(1)
	box.Post(2)
	if left := box.Close(); !slices.Equal(left, []int{1, 2}) {
		t.Errorf("%v waited, want 1 and 2", left)
	}
	if box.Post(3) {
		t.Error("an event was taken after the end")
	}
}

// An event that comes after Take and before Rest is not left behind: the owner goes on.
func TestNoRestWithAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var box Inbox[int]
		starts := 0
		box.Init(func() { starts++ })
		box.Post(1)
		synctest.Wait()
		box.Take(nil)
		box.Post(2)
		if box.Rest() {
			t.Fatal("the owner rests while an event waits")
		}
		if got := box.Take(nil); !slices.Equal(got, []int{2}) {
			t.Errorf("%v waits, want 2", got)
		}
		if !box.Rest() {
			t.Error("the owner may not rest although nothing waits")
		}
		box.Post(3)
		synctest.Wait()
		if starts != 2 {
			t.Errorf("the owner was started %d times, want 2", starts)
		}
	})
}
