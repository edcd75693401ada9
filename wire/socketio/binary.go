package socketio

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
)

// assembly is a packet whose binary parts have not all come.
type assembly struct {
	head    packet // without data
	content content
	left    int // parts that are still to come
	size    int
	parts   [][]byte
	skip    bool // nothing of it can be used
	isEvent bool // content is one
}

// add takes the next part. It reports whether it was the last one.
func (a *assembly) add(part []byte) bool {
	a.left--
	if a.size += len(part); a.size > maxBinary {
		a.skip, a.parts = true, nil
	}
	if !a.skip {
		a.parts = append(a.parts, bytes.Clone(part))
	}
	return a.left == 0
}

// fill replaces the placeholders in the arguments by the parts, in base64. Each part must
// be used once: one that is used often would let a small packet fill the memory.
func (a *assembly) fill() (ok bool) {
	if a.skip {
		return false
	}
	c := &a.content
	used, count := make([]bool, len(a.parts)), 0
	if len(c.arguments) == 1 {
		if _, is := placeholder(c.arguments[0]); is && len(a.parts) == 1 {
			c.single = a.parts[0]
		}
	}
	for i, argument := range c.arguments {
		filled, ok := splice(argument, func(n int) ([]byte, bool) {
			if n < 0 || n >= len(used) || used[n] {
				return nil, false
			}
			used[n] = true
			count++
			return a.parts[n], true
		})
		if !ok {
			return false
		}
		c.arguments[i] = filled
	}
	c.binary = count
	return count == len(used)
}

// splice returns the JSON text with each placeholder replaced by the part with its number.
func splice(text []byte, part func(int) ([]byte, bool)) (out []byte, ok bool) {
	if !bytes.Contains(text, []byte("_placeholder")) {
		return text, true
	}
	from, open := 0, -1 // what is copied up to; the innermost object that is open, without another value in it
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '{':
			open = i
		case '[':
			open = -1
		case '}':
			if open < 0 {
				continue
			}
			if n, is := placeholder(text[open : i+1]); is {
				bytes, ok := part(n)
				if !ok {
					return nil, false
				}
				out = append(out, text[from:open]...)
				out = append(out, '"')
				out = base64.StdEncoding.AppendEncode(out, bytes)
				out = append(out, '"')
				from = i + 1
			}
			open = -1
		}
	}
	return append(out, text[from:]...), true
}

// maxPlaceholder bounds the text of a placeholder.
const maxPlaceholder = 64

// placeholder reads {"_placeholder":true,"num":0}.
func placeholder(text []byte) (number int, is bool) {
	if len(text) > maxPlaceholder || len(text) == 0 || text[0] != '{' {
		return 0, false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(text, &members) != nil || string(members["_placeholder"]) != "true" {
		return 0, false
	}
	number, err := strconv.Atoi(string(members["num"]))
	return number, err == nil
}
