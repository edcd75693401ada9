// Package names holds names and texts that come from a server, and bounds how many are held.
package names

import (
	"slices"
	"strings"
)

// Table holds the server's names for the subscriptions of one connection. A
// key has one name, the latest.
type Table struct {
	keys  map[string]uint64
	names map[uint64]string
	kept  int // by the last ForgetEnded
}

// Key returns the key that has name, 0 if there is none.
func (t *Table) Key(name string) uint64 { return t.keys[name] }

// Set makes name the name of key.
func (t *Table) Set(key uint64, name string) {
	if t.keys == nil {
		t.keys, t.names = make(map[string]uint64), make(map[uint64]string)
	}
	t.forget(key)
	t.keys[name], t.names[key] = key, name
}

// forget drops the name of key, which may be that of another one by now.
func (t *Table) forget(key uint64) {
	if name := t.names[key]; t.keys[name] == key {
		delete(t.keys, name)
	}
	delete(t.names, key)
}

// ForgetEnded forgets the names of subscriptions that are not open, once there are twice
// as many names as the last time. newest is the latest key: the server may still send
// for those shortly before it.
func (t *Table) ForgetEnded(newest uint64, open func(key uint64) bool) {
	if len(t.names) < 2*max(t.kept, maxRecent) {
		return
	}
	for key := range t.names {
		if key+maxRecent <= newest && !open(key) {
			t.forget(key)
		}
	}
	t.kept = len(t.names)
}

// Recent holds the names that were added last, 1,024 at most.
type Recent struct {
	count  map[string]int // how often it is in order
	order  []string
	oldest int // index in order, once it is full
}

const maxRecent = 1024

// Add adds name, in the place of the oldest one if there are too many.
func (r *Recent) Add(name string) {
	if r.count == nil {
		r.count = make(map[string]int)
	}
	r.count[name]++
	if len(r.order) < maxRecent {
		r.order = append(r.order, name)
		return
	}
	old := r.order[r.oldest]
	r.order[r.oldest], r.oldest = name, (r.oldest+1)%maxRecent
	if r.count[old]--; r.count[old] == 0 {
		delete(r.count, old)
	}
}

// Has reports whether name is among them.
func (r *Recent) Has(name string) bool { return r.count[name] > 0 }

// Reported holds texts of one sort that were reported, 16 at most.
type Reported struct{ texts []string }

const (
	maxReported     = 16
	maxReportedText = 256 // bytes by which two texts differ
)

// Full reports whether nothing more is to be reported.
func (r *Reported) Full() bool { return len(r.texts) == maxReported }

// First reports whether text is new and is to be reported, and adds it.
func (r *Reported) First(text string) bool {
	text = text[:min(len(text), maxReportedText)]
	if r.Full() || slices.Contains(r.texts, text) {
		return false
	}
	r.texts = append(r.texts, strings.Clone(text))
	return true
}
