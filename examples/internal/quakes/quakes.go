// Package quakes holds a week of real earthquakes. The README of examples/livefeed says
// where they come from.
package quakes

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
)

//go:embed quakes.ndjson.gz
var archive []byte

// Lines returns the earthquakes in the order of time, each as a line of JSON.
func Lines() ([][]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("embedded quakes: %w", err)
	}
	var lines [][]byte
	sc := bufio.NewScanner(z)
	for sc.Scan() {
		lines = append(lines, bytes.Clone(sc.Bytes()))
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("embedded quakes, line %d: %w", len(lines)+1, err)
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("embedded quakes: empty")
	}
	return lines, nil
}
