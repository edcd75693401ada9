package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The indices of lists in paths: negative ones count from the end.
const (
	minIndex = -4
	maxIndex = 99
)

// step leads from a value to one in it: to a member, or to an element of a list.
type step struct {
	name    string // of a member; empty for an element
	element bool
	index   int
}

// path leads from a message to a value in it.
type path []step

// currentEntry is how a path says "the current entry" after the path of the list.
const currentEntry = "[]"

var errPath = errors.New(`want names joined with dots, and "[n]" for elements from -4 to 99`)

// parsePath parses what a field of a table holds.
func parsePath(s string) (path, error) {
	if !utf8.ValidString(s) {
		return nil, errors.New("is not UTF-8")
	}
	var p path
	for rest := s; rest != ""; {
		if rest[0] == '[' {
			number, after, ok := strings.Cut(rest[1:], "]")
			n, err := strconv.Atoi(number)
			if !ok || err != nil || n < minIndex || n > maxIndex || number[0] == '+' {
				return nil, errPath
			}
			p, rest = append(p, step{element: true, index: n}), after
		} else {
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if end == 0 {
				return nil, errPath
			}
			p, rest = append(p, step{name: rest[:end]}), rest[end:]
		}
		if dotted, ok := strings.CutPrefix(rest, "."); ok {
			if rest = dotted; rest == "" || rest[0] == '[' {
				return nil, errPath
			}
		} else if rest != "" && rest[0] != '[' {
			return nil, errPath
		}
	}
	return p, nil
}

// follow returns the value in raw to which p leads; nil if there is none. It is for
// messages that are rare: the scanner finds the members of the others.
func (p path) follow(raw []byte) []byte {
	for _, st := range p {
		if len(raw) == 0 {
			return nil
		}
		if !st.element {
			var members map[string]json.RawMessage
			if raw[0] != '{' || json.Unmarshal(raw, &members) != nil {
				return nil
			}
			raw = members[st.name]
			continue
		}
		var list []json.RawMessage
		if raw[0] != '[' || json.Unmarshal(raw, &list) != nil {
			return nil
		}
		i := st.index
		if i < 0 {
			i += len(list)
		}
		if i < 0 || i >= len(list) {
			return nil
		}
		raw = list[i]
	}
	return raw
}

// node is a place in a message at which the scanner looks for something. All paths of
// a table make one tree.
type node struct {
	step
	slot  int     // of its value, in scanner.found
	inner []*node // wanted members and elements of the value
	tail  []*node // wanted elements that are counted from the end
	entry *node   // the first entry, where the value is the list of entries and no object
}

// layout gives every wanted place its slot.
type layout struct {
	root, entry *node    // entry: the tree of one entry; nil without Table.Entries
	list        string   // Table.Entries
	names       []string // by slot: the path
	inEntry     []int    // the slots that belong to the current entry
	arrays      bool     // a path begins with "[": a message may be a list
}

// newLayout returns the layout of a table with entries at that path, if any.
func newLayout(entries string) (*layout, error) {
	l := &layout{root: &node{slot: -1}, list: entries}
	if entries == "" {
		return l, nil
	}
	slot, err := l.add(entries)
	if err != nil {
		return nil, err
	}
	l.entry = &node{slot: -1}
	l.find(l.root, slot).entry = l.entry
	return l, nil
}

// entries is the slot of the list of entries, or -1.
func (l *layout) entries() int {
	if l.list == "" {
		return -1
	}
	return slices.Index(l.names, l.list)
}

// find returns the node with that slot.
func (l *layout) find(n *node, slot int) *node {
	if n.slot == slot {
		return n
	}
	for _, next := range slices.Concat(n.inner, n.tail) {
		if found := l.find(next, slot); found != nil {
			return found
		}
	}
	return nil
}

// add returns the slot of a path, which it adds if it is new; -1 for an empty path.
func (l *layout) add(s string) (int, error) {
	if s == "" {
		return -1, nil
	}
	at, rest, prefix, known := l.root, s, "", len(l.names)
	list, after, inEntry := strings.Cut(s, currentEntry)
	if inEntry {
		if l.entry == nil || list != l.list {
			return -1, fmt.Errorf("has %q, which belongs after the path in Table.Entries", currentEntry)
		}
		at, rest, prefix = l.entry, after, list+currentEntry
		if rest == "" || rest[0] != '.' && rest[0] != '[' {
			return -1, errPath
		}
		rest = strings.TrimPrefix(rest, ".")
	}
	p, err := parsePath(rest)
	if err != nil {
		return -1, err
	}
	for i, st := range p {
		if st.element && at == l.root {
			l.arrays = true
		}
		if at.entry != nil && st.element {
			return -1, fmt.Errorf("leads through Table.Entries; want %q for the current entry", l.list+currentEntry)
		}
		if i > 0 && p[i-1].element && p[i-1].index < 0 {
			return -1, errors.New("goes on after an element that is counted from the end")
		}
		prefix = prefix + st.text(prefix)
		at = l.next(at, st, prefix)
	}
	for slot := known; slot < len(l.names) && inEntry; slot++ {
		l.inEntry = append(l.inEntry, slot)
	}
	return at.slot, nil
}

// text returns st as it follows prefix in a path.
func (st step) text(prefix string) string {
	switch {
	case st.element:
		return fmt.Sprintf("[%d]", st.index)
	case prefix == "":
		return st.name
	}
	return "." + st.name
}

// next returns the node that st leads to, which it adds if it is new. name is its path.
func (l *layout) next(at *node, st step, name string) *node {
	for _, n := range slices.Concat(at.inner, at.tail) {
		if n.step == st {
			return n
		}
	}
	n := &node{step: st, slot: len(l.names)}
	l.names = append(l.names, name)
	if st.element && st.index < 0 {
		at.tail = append(at.tail, n)
	} else {
		at.inner = append(at.inner, n)
	}
	return n
}
