package test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

var memoryFlag = flag.Int("memory", 0, "run the tests of Options.Memory that take a minute each, and receive so many gigabytes")

func needMemoryFlag(t *testing.T) {
	if *memoryFlag == 0 {
		t.Skip("takes a minute: run it with -memory 10, as the stage memory of ci/run does with -memory 1")
	}
}

// heap returns how many bytes are live.
func heap() int64 {
	var m runtime.MemStats
	for range 3 { // pools keep what they hold over two
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Ten thousand subscriptions, of which one consumer blocks for an hour while all others get
// everything. What the client holds is within Options.Memory after a minute and after an
// hour, and then its stream goes on with everything or with a gap.
func TestOneConsumerBlocksForAnHour(t *testing.T) {
	needMemoryFlag(t)
	for _, overflow := range []limpet.Overflow{limpet.Block, limpet.DropOldest, limpet.DropNewest, limpet.Latest} {
		synctest.Test(t, func(t *testing.T) { blockForAnHour(t, overflow) })
	}
}

func blockForAnHour(t *testing.T, overflow limpet.Overflow) {
	const subscriptions, limit = 10_000, 64 * mebibyte
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{MaxIDs: 10_000, Retention: server.Retention{Count: 20_000, Bytes: 1 << 30}}})
	c := dial(t, srv, nil)
	subs := make([]*limpet.Subscription, subscriptions)
	got := make([]int, subscriptions)
	leave := make(chan struct{})
	free := sync.OnceFunc(func() { close(leave) })
	defer free()
	var all sync.WaitGroup
	for i := range subs {
		d := limpet.Delivery{Overflow: overflow, Buffer: 30_000, Bytes: 1 << 30}
		if overflow == limpet.Latest {
			d.Key = func(m limpet.Message) string { return string(m.Payload[:4]) }
		}
		s, err := c.Subscribe(t.Context(), fmt.Sprint("t", i), &limpet.SubscribeOptions{Delivery: d})
		if err != nil {
			t.Fatal(err)
		}
		subs[i] = s
	}
	for i, s := range subs {
		if err := s.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for m := range s.Messages(context.Background()) {
				if i == 0 {
					<-leave
				}
				if m.Kind == limpet.Gap {
					got[i] += int(m.Loss.Count)
				} else {
					got[i]++
				}
			}
		})
	}
	send := func(topic string, n int) {
		t.Helper()
		if _, err := srv.Server.Publish(t.Context(), topic, sized(n, 4000), nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i < subscriptions; i++ {
		send(fmt.Sprint("t", i), i)
	}
	synctest.Wait()
	for n := range 20_000 { // the log of the server, which is in this process, does not grow any more
		send("other", n)
	}
	synctest.Wait()
	idle := heap()
	sent := 0
	for minute := range 61 {
		for range 500 {
			send("t0", sent)
			sent++
		}
		if minute%20 == 0 {
			for i := 1; i < subscriptions; i++ {
				send(fmt.Sprint("t", i), minute)
			}
		}
		checkMemory(t, c, limit)
		if minute == 1 || minute == 60 {
			more := heap() - idle
			t.Logf("%v: %d KiB above the idle heap after %d minutes, %d KiB in use", overflow, more>>10, minute, c.Stats().Memory>>10)
			if more > limit+2*mebibyte {
				t.Errorf("%v: %d bytes above the idle heap, want %d at most", overflow, more, limit+2*mebibyte)
			}
		}
		time.Sleep(time.Minute)
	}
	if st := c.Stats(); st.Connections != 1 || st.PingRTT == 0 {
		t.Errorf("%v: %d connections, the last ping took %v", overflow, st.Connections, st.PingRTT)
	}
	for i := 1; i < subscriptions; i++ {
		if st := subs[i].Stats(); st.Delivered != 5 || st.Dropped+st.Gaps > 0 {
			t.Fatalf("%v: another subscription: %+v", overflow, st)
		}
	}
	free()
	time.Sleep(time.Minute)
	synctest.Wait()
	st := subs[0].Stats()
	whole := got[0]+int(st.Conflated) == sent
	if overflow == limpet.Block { // the server has forgotten what the client did not let it send
		whole = st.Dropped == 0 && st.Gaps == 1
	}
	if !whole || st.Waiting > 0 || overflow != limpet.Block && st.Dropped+st.Conflated == 0 {
		t.Errorf("%v: %d of %d: %+v", overflow, got[0], sent, st)
	}
	c.Close()
	all.Wait()
}

// memoryServer makes a child process of this test the server of TestManyGigabytes.
const memoryServer = "LIMPET_TEST_MEMORY_SERVER"

// TestMemoryServer is the server of TestManyGigabytes, and does nothing by itself. It prints
// its address, waits for a line, and publishes until its input ends.
func TestMemoryServer(t *testing.T) {
	if os.Getenv(memoryServer) == "" {
		t.Skip("is only for TestManyGigabytes")
	}
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{Loopback: true})
	fmt.Println("url", srv.URL())
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = input.ReadString('\n')
	}()
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := 0; ; n++ {
		select {
		case <-ended:
			return
		default:
		}
		if _, err := srv.Server.Publish(t.Context(), fmt.Sprint("t", rnd.IntN(1000)), sized(n, 4+rnd.IntN(16<<10)), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// startMemoryServer starts the server and returns its address and a function that makes
// it publish. It ends with the test.
func startMemoryServer(t *testing.T) (url string, begin func()) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestMemoryServer$")
	child.Env = append(os.Environ(), memoryServer+"=1")
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = child.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if address, ok := strings.CutPrefix(lines.Text(), "url "); ok {
			return address, func() { fmt.Fprintln(in, "begin") }
		}
	}
	t.Fatal("the server did not start")
	return "", nil
}

// Many gigabytes go through a thousand subscriptions, whose consumers are quick, take a
// message now and then, or take none. What the client holds stays within Options.Memory.
func TestManyGigabytes(t *testing.T) {
	needMemoryFlag(t)
	const limit = 64 * mebibyte
	total := uint64(*memoryFlag) << 30
	url, begin := startMemoryServer(t)
	c, err := limpet.Dial(t.Context(), url, options(nil))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	take := make(chan struct{})
	var next atomic.Uint64 // bytes that are to be received
	reached := make(chan struct{}, 1)
	for i := range 1000 {
		o := large([]limpet.Overflow{limpet.Block, limpet.DropOldest, limpet.DropNewest, limpet.Latest}[i%4])
		if o.Delivery.Overflow == limpet.Latest {
			o.Delivery.Key = func(m limpet.Message) string { return string(m.Payload[2:4]) }
		}
		s := subscribeLive(t, c, fmt.Sprint("t", i), o)
		all.Go(func() {
			n := 0
			for range s.Messages(context.Background()) {
				if n++; i == 0 && n%16 == 0 && c.Stats().BytesRead > next.Load() {
					select {
					case reached <- struct{}{}:
					default:
					}
				}
				if kind := i / 4 % 3; kind > 0 {
					for range kind { // slow, and slower
						<-take
					}
				}
			}
		})
	}
	idle := heap()
	next.Store(1)
	begin()
	highest := int64(0)
	for step := range uint64(20) {
		next.Store((step + 1) * total / 20)
		for received := uint64(0); received < next.Load(); {
			select {
			case <-reached:
			case <-c.Done():
				t.Fatal(c.Err())
			}
			st := c.Stats()
			if received = st.BytesRead; st.Memory > limit {
				t.Fatalf("the queues hold %d of %d bytes", st.Memory, limit)
			}
		}
		for range 1000 {
			take <- struct{}{}
		}
		highest = max(highest, heap()-idle)
		t.Logf("%5.1f GB received, %d KiB above the idle heap, %d KiB in use", float64(c.Stats().BytesRead)/1e9, (heap()-idle)>>10, c.Stats().Memory>>10)
	}
	if highest > limit+8*mebibyte {
		t.Errorf("%d bytes above the idle heap, want %d at most", highest, limit+8*mebibyte)
	}
	st := c.Stats().Messages
	if st.Dropped == 0 || st.Delivered == 0 || st.Received != st.Delivered+st.Dropped+st.Conflated+st.Waiting {
		t.Errorf("%+v", st)
	}
	c.Close()
	close(take)
	all.Wait()
}
