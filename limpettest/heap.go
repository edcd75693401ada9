package limpettest

import "runtime"

// HeapInUse collects garbage and returns the bytes of live heap objects, for tests
// that bound memory. The result includes everything that the process holds, such as
// the log of a server under test.
func HeapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
