package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/limpet-go/limpet/examples/internal/quakes"
)

const (
	quakeTopics = "quakes/*"       // what the client subscribes to
	quakePrefix = "quakes/"        // followed by the reporting network
	endTopic    = "quakes/end"     // the last message of a run; no network has this name
	alertTopics = "alerts/*"       // what the client publishes
	alertPrefix = "alerts/"        // followed by the reporting network
	alertFrom   = 4.5              // magnitude
	realTime    = 10 * time.Second // the week is compressed into this at speed 1
)

// quake is one event of the embedded file. Body is its line, byte for byte: that is
// what is published, and Sum is its checksum.
type quake struct {
	ID   string  `json:"id"`
	Time int64   `json:"time"` // ms since the Unix epoch
	Mag  float64 `json:"mag"`
	Net  string  `json:"net"`

	Body []byte            `json:"-"`
	Sum  [sha256.Size]byte `json:"-"`
	Due  time.Duration     `json:"-"` // since the start of the replay at speed 1
}

func (q *quake) topic() string { return quakePrefix + q.Net }
func (q *quake) alerts() bool  { return q.Mag >= alertFrom }

// alert is what the client publishes for a strong quake.
type alert struct {
	Quake string  `json:"quake"`
	Mag   float64 `json:"mag"`
}

// loadQuakes decodes the embedded file. An id that occurs twice is an error, because
// it would make the score ambiguous.
func loadQuakes() ([]quake, error) {
	lines, err := quakes.Lines()
	if err != nil {
		return nil, err
	}
	var qs []quake
	seen := map[string]bool{}
	for i, line := range lines {
		q := quake{Body: line}
		if err := json.Unmarshal(line, &q); err != nil {
			return nil, fmt.Errorf("embedded quakes, line %d: %w", i+1, err)
		}
		if seen[q.ID] {
			return nil, fmt.Errorf("embedded quakes, line %d: id %s occurs twice", i+1, q.ID)
		}
		seen[q.ID] = true
		q.Sum = sha256.Sum256(line)
		qs = append(qs, q)
	}
	first, span := qs[0].Time, max(qs[len(qs)-1].Time-qs[0].Time, 1)
	for i := range qs {
		qs[i].Due = time.Duration(float64(qs[i].Time-first) / float64(span) * float64(realTime))
	}
	return qs, nil
}
