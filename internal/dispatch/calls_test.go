package dispatch

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder notes calls and failures.
type recorder struct {
	Calls[int]

	mu      sync.Mutex
	running int
	got     []int
	failed  []error
}

// newRecorder returns a recorder whose calls run user, and fails t if two run at a time.
func newRecorder(t *testing.T, user func(int)) *recorder {
	r := new(recorder)
	count := func(n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.running += n; r.running > 1 {
			t.Error("two calls run at a time")
		}
	}
	r.Receive = func(n int) {
		count(1)
		defer count(-1)
		r.mu.Lock()
		r.got = append(r.got, n)
		r.mu.Unlock()
		user(n)
	}
	r.Failed = func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.failed = append(r.failed, err)
	}
	return r
}

// results returns what was called and what has failed.
func (r *recorder) results() (got []int, failed []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got), slices.Clone(r.failed)
}

func (r *recorder) post(first, last int) {
	for n := first; n <= last; n++ {
		r.Post(n)
	}
}

// Calls are made one at a time, in order, and a call may add others. The goroutine ends when
// none waits.
func TestCallsAreInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *recorder
		r = newRecorder(t, func(n int) {
			if n == 3 {
				r.Post(6)
			}
			time.Sleep(time.Second)
		})
		began := time.Now()
		r.post(1, 5)
		synctest.Wait()
		if n := r.Len(); n != 4 {
			t.Errorf("%d calls wait, want 4", n)
		}
		time.Sleep(5500 * time.Millisecond)
		if got, _ := r.results(); r.Len() != 0 || !slices.Equal(got, []int{1, 2, 3, 4, 5, 6}) {
			t.Errorf("called %v, %d wait", got, r.Len())
		}
		r.Finish(time.Minute)
		if took := time.Since(began); took != 6*time.Second {
			t.Errorf("six calls took %v", took)
		}
		if n := strings.Count(stacks(), "dispatch.(*Calls[...])."); n != 0 {
			t.Errorf("there is a goroutine that calls nothing:\n%s", stacks())
		}
		r.post(7, 7)
		r.Finish(time.Minute)
		if got, failed := r.results(); !slices.Contains(got, 7) || failed != nil {
			t.Errorf("called %v, failed: %v", got, failed)
		}
	})
}

// A call that fails costs that call alone. Goexit ends the goroutine, and another one
// continues.
func TestCallsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(t, func(n int) {
			switch n {
			case 1:
				panic("broken")
			case 3, 4:
				runtime.Goexit()
			}
		})
		r.post(1, 5)
		r.Finish(time.Minute)
		synctest.Wait() // the report of a Goexit is made beside the next call
		got, failed := r.results()
		if !slices.Equal(got, []int{1, 2, 3, 4, 5}) || len(failed) != 3 {
			t.Fatalf("called %v, failed: %v", got, failed)
		}
		var p *Panicked
		if !errors.As(failed[0], &p) || fmt.Sprint(p.Value) != "broken" || !strings.Contains(string(p.Stack), "TestCallsThatFail") {
			t.Errorf("the panic is reported as %v", failed[0])
		}
		if failed[1] != ErrGoexit || failed[2] != ErrGoexit {
			t.Errorf("Goexit is reported as %v", failed[1:])
		}
	})
}

// Finish waits for calls that return, each for as long as the limit, and gives up one that
// does not.
func TestFinishIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		r := newRecorder(t, func(n int) {
			if n <= 3 {
				time.Sleep(7 * time.Second)
				return
			}
			<-release
		})
		failed := r.Failed
		r.Failed = func(err error) {
			failed(err)
			if n := strings.Count(stacks(), CallerName); n != 1 {
				t.Errorf("%d goroutines have %s in their stack, want 1", n, CallerName)
			}
		}
		r.post(1, 5)
		began := time.Now()
		r.Finish(10 * time.Second)
		if took := time.Since(began); took != (3*7+10)*time.Second {
			t.Errorf("finished after %v", took)
		}
		if _, failed := r.results(); len(failed) != 1 || failed[0] != ErrHangs {
			t.Errorf("reported: %v", failed)
		}
		close(release)
		synctest.Wait()
		if got, _ := r.results(); !slices.Equal(got, []int{1, 2, 3, 4, 5}) {
			t.Errorf("called %v", got)
		}
	})
}

// Without a call Finish does not wait.
func TestFinishWithoutCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(t, func(int) {})
		began := time.Now()
		r.Finish(time.Minute)
		if took := time.Since(began); took != 0 {
			t.Errorf("finished after %v", took)
		}
	})
}

// A call that waits costs its value and no more.
func TestPostCostsNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		r := Calls[*int]{Receive: func(*int) { <-release }}
		value := new(int)
		const posted = 1 << 12
		for range posted + 1 { // the memory of the queue grows
			r.Post(value)
		}
		synctest.Wait()
		if allocs := testing.AllocsPerRun(posted/2, func() { r.Post(value) }); allocs != 0 {
			t.Errorf("%v allocations for one more call", allocs)
		}
		close(release)
		r.Finish(time.Minute)
	})
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}
