package main

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// meter measures this process between start and stop.
type meter struct {
	s       spec
	cpu     time.Duration
	wall    time.Time
	mallocs uint64
	bytes   uint64
	profile *os.File
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func startMeter(s spec) *meter {
	runtime.GC()
	m := &meter{s: s}
	if s.CPUProfile != "" {
		f, err := os.Create(s.CPUProfile)
		exitOn(err)
		exitOn(pprof.StartCPUProfile(f))
		m.profile = f
	}
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	m.mallocs, m.bytes = ms.Mallocs, ms.TotalAlloc
	m.wall, m.cpu = time.Now(), cpuTime()
	return m
}

// stop returns the cost of each of n messages.
func (m *meter) stop(n int) outcome {
	cpu, wall := cpuTime()-m.cpu, time.Since(m.wall)
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	if m.profile != nil {
		pprof.StopCPUProfile()
		m.profile.Close()
	}
	if m.s.MemProfile != "" {
		f, err := os.Create(m.s.MemProfile)
		exitOn(err)
		exitOn(pprof.Lookup("allocs").WriteTo(f, 0))
		f.Close()
	}
	per := func(v float64) float64 { return v / float64(n) }
	return outcome{
		"cpu": per(float64(cpu)), "wall": per(float64(wall)),
		"allocs": per(float64(ms.Mallocs - m.mallocs)), "bytes": per(float64(ms.TotalAlloc - m.bytes)),
	}
}

// footprint is the memory and the goroutines of this process after collection.
type footprint struct {
	heap, stack, rss float64
	goroutines       int
}

// measureFootprint collects garbage more than once: each collection halves a stack that
// has become too big.
func measureFootprint() footprint {
	for range 4 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return footprint{float64(ms.HeapAlloc), float64(ms.StackInuse), rss(), runtime.NumGoroutine()}
}

func (f footprint) since(before footprint, n int) outcome {
	c := float64(n)
	return outcome{
		"heap": (f.heap - before.heap) / c, "stack": (f.stack - before.stack) / c,
		"memory": (f.heap + f.stack - before.heap - before.stack) / c,
		"rss":    (f.rss - before.rss) / c, "goroutines": float64(f.goroutines-before.goroutines) / c,
	}
}

// rss is the resident memory in bytes.
func rss() float64 {
	b, _ := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(f[1])
	return float64(pages * os.Getpagesize())
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(b))
	if len(f) == 0 {
		return "unknown"
	}
	return f[0]
}

func machine(pinned bool) string {
	cpu := "unknown CPU"
	b, _ := os.ReadFile("/proc/cpuinfo")
	for _, l := range strings.Split(string(b), "\n") {
		if name, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(name) == "model name" {
			cpu = strings.TrimSpace(v)
			break
		}
	}
	kernel := "unknown kernel"
	if out, err := exec.Command("uname", "-sr").Output(); err == nil {
		kernel = strings.TrimSpace(string(out))
	}
	how := "not pinned"
	if pinned {
		how = "server pinned to core 0, client to core 1"
	}
	return strconv.Itoa(runtime.NumCPU()) + " cores of " + cpu + ", " + kernel + ", " + runtime.Version() + ", loopback, " + how
}
