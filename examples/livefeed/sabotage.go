package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/limpet-go/limpet/server"
)

// sabotage is a fault of the server itself, which no client can repair: it shows that
// the score detects what it claims to detect. Only Append of the log is changed; the
// client and the server are those of every other run.
type sabotage struct {
	what  string // "", lose, dup or swap
	quake int    // number of the quake in the file, from 1
}

// parseSabotage reads lose:n, dup:n or swap:n. A swap needs a successor.
func parseSabotage(text string, quakes int) (sabotage, error) {
	if text == "" {
		return sabotage{}, nil
	}
	what, number, _ := strings.Cut(text, ":")
	n, err := strconv.Atoi(number)
	if err != nil || what != "lose" && what != "dup" && what != "swap" {
		return sabotage{}, fmt.Errorf("-sabotage %q: want lose:n, dup:n or swap:n, n the number of a quake", text)
	}
	last := quakes
	if what == "swap" {
		last--
	}
	if n < 1 || n > last {
		return sabotage{}, fmt.Errorf("-sabotage %q: n must be from 1 to %d", text, last)
	}
	return sabotage{what, n}, nil
}

// saboteur is a log that mishandles one message: it reports success without storing
// it, stores it twice, or stores it after its successor.
type saboteur struct {
	server.Log
	plan sabotage

	mu     sync.Mutex // leaf
	quakes int        // appended so far
	held   *server.Entry
}

func (s *saboteur) Append(ctx context.Context, e server.Entry) (uint64, error) {
	if !strings.HasPrefix(e.Topic, quakePrefix) || e.Topic == endTopic {
		return s.Log.Append(ctx, e)
	}
	s.mu.Lock()
	s.quakes++
	n, held := s.quakes, s.held
	s.held = nil
	hit := n == s.plan.quake
	if hit && s.plan.what == "swap" {
		s.held = &e
	}
	s.mu.Unlock()

	switch {
	case hit && (s.plan.what == "lose" || s.plan.what == "swap"):
		return s.Log.View().Head + 1, nil
	case hit && s.plan.what == "dup":
		if _, err := s.Log.Append(ctx, e); err != nil {
			return 0, err
		}
		return s.Log.Append(ctx, e)
	}
	offset, err := s.Log.Append(ctx, e)
	if err == nil && held != nil {
		_, err = s.Log.Append(ctx, *held)
	}
	return offset, err
}
