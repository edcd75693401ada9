package main

import (
	"crypto/sha256"
	"encoding/json"
)

// score compares what the consumer received with the embedded file. It must be used
// by one goroutine at a time.
type score struct {
	quakes []quake
	index  map[string]int // by id
	seen   []int          // deliveries of each quake
	high   int            // highest index delivered so far

	delivered  int // messages received, duplicates included
	duplicated int // deliveries of an event after its first
	reordered  int // first deliveries that came after a later event
	altered    int // deliveries with other bytes or another topic than in the file
}

func newScore(quakes []quake) *score {
	s := &score{quakes: quakes, index: make(map[string]int, len(quakes)), seen: make([]int, len(quakes)), high: -1}
	for i := range quakes {
		s.index[quakes[i].ID] = i
	}
	return s
}

// observe records one delivery. It returns the event if this is its first delivery
// and its bytes are correct, otherwise nil.
func (s *score) observe(topic string, body []byte) *quake {
	s.delivered++
	var head struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(body, &head) // a body that cannot be read has no known id
	i, ok := s.index[head.ID]
	if !ok {
		s.altered++
		return nil
	}
	q := &s.quakes[i]
	intact := topic == q.topic() && sha256.Sum256(body) == q.Sum
	if !intact {
		s.altered++
	}
	s.seen[i]++
	if s.seen[i] > 1 {
		s.duplicated++
		return nil
	}
	if i < s.high {
		s.reordered++
	}
	s.high = max(s.high, i)
	if !intact {
		return nil
	}
	return q
}

// lost returns the number of events that were not delivered.
func (s *score) lost() int {
	n := 0
	for _, k := range s.seen {
		if k == 0 {
			n++
		}
	}
	return n
}

func (s *score) exact() bool {
	return s.lost() == 0 && s.duplicated == 0 && s.reordered == 0 && s.altered == 0 && s.delivered == len(s.quakes)
}

// tally counts the alerts that the server accepted.
type tally struct {
	want  map[string]float64 // magnitude by quake id
	got   map[string]int
	total int
}

func newTally(quakes []quake) *tally {
	t := &tally{want: map[string]float64{}, got: map[string]int{}}
	for i := range quakes {
		if quakes[i].alerts() {
			t.want[quakes[i].ID] = quakes[i].Mag
		}
	}
	return t
}

func (t *tally) observe(body []byte) {
	t.total++
	var a alert
	if json.Unmarshal(body, &a) != nil {
		return
	}
	if mag, ok := t.want[a.Quake]; ok && mag == a.Mag {
		t.got[a.Quake]++
	}
}

// exact reports whether each expected alert was accepted once, and nothing else.
func (t *tally) exact() bool {
	for id := range t.want {
		if t.got[id] != 1 {
			return false
		}
	}
	return t.total == len(t.want)
}
