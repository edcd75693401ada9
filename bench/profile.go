package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// profile takes CPU and allocation profiles of receiving and of publishing.
func (b *bench) profile() error {
	defer b.stopServers()
	dir, err := os.MkdirTemp("", "bench-profile-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.results.Profiles = map[string]string{}
	for _, p := range []struct {
		name, candidate string
		row             *row
		messages        int
	}{
		{"receive, 64 B, Messages", "limpet Messages, Buffer 4096", &receiveRow, 8_000_000},
		{"receive, 64 B, Batches, packed by 64", "limpet Batches, packed by 64", &receiveRow, 8_000_000},
		{"acked publish, 64 B, PublishBatch of 64", "limpet PublishBatch of 64, Flush", &publishRow, 4_000_000},
		{"acked publish, 64 B, Publish and Wait", "limpet Publish, Wait on each receipt", &publishRow, 4_000_000},
	} {
		for i := range p.row.candidates {
			c := &p.row.candidates[i]
			if c.name != p.candidate {
				continue
			}
			s := spec{Row: p.row.id, Candidate: c.name, Size: 64, Messages: p.messages}
			s.CPUProfile, s.MemProfile = filepath.Join(dir, "cpu"), filepath.Join(dir, "allocs")
			if b.quick {
				s.Messages /= 20
			}
			out, err := b.once(c, s)
			if err != nil {
				return err
			}
			head := fmt.Sprintf("%.0f ns of client CPU, %.2f allocations, %.0f B a message\n", out["cpu"], out["allocs"], out["bytes"])
			for _, kind := range []struct{ name, file, sample string }{
				{"CPU", s.CPUProfile, "cpu"}, {"CPU, with what it calls", s.CPUProfile, "cum"}, {"allocations", s.MemProfile, "alloc_objects"},
			} {
				text, err := top(kind.file, kind.sample)
				if err != nil {
					return err
				}
				b.results.Profiles[p.name+": "+kind.name] = head + text
			}
		}
	}
	return nil
}

var hexes = regexp.MustCompile(`(?m)^(File|Build ID|Time):.*\n`)

func top(file, sample string) (string, error) {
	args := []string{"tool", "pprof", "-top", "-nodecount=15"}
	switch sample {
	case "cum":
		args = []string{"tool", "pprof", "-top", "-cum", "-nodecount=40"}
	case "alloc_objects":
		args = append(args, "-sample_index=alloc_objects")
	}
	cmd := exec.Command("go", append(args, file)...)
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	return strings.TrimSpace(hexes.ReplaceAllString(string(text), "")) + "\n", nil
}
