package server

import (
	"sort"
	"strings"

	"github.com/limpet-go/limpet/internal/fifo"
)

// feed is what all subscriptions to one pattern share: the newest entries that match.
type feed struct {
	pattern string
	wild    bool // pattern has a wildcard
	subs    int  // subscriptions; 0: the feed is no longer in use

	items fifo.Queue[*Entry] // every entry that matches, that the follower has read, and that is behind after
	after uint64

	quiet []*subscription // those that have everything: the next entry wakes them
}

// from returns the place in items of the first entry at or after next.
func (d *feed) from(next uint64) int {
	items := d.items.All()
	if n := len(items); n > 0 && items[n-1].Offset == next { // the usual one
		return n - 1
	}
	return sort.Search(len(items), func(i int) bool { return items[i].Offset >= next })
}

// rest adds s to quiet.
func (d *feed) rest(s *subscription) {
	if s.at.quiet == 0 {
		d.quiet = append(d.quiet, s)
		s.at.quiet = len(d.quiet)
	}
}

// unrest removes s from quiet.
func (d *feed) unrest(s *subscription) {
	if s.at.quiet == 0 {
		return
	}
	last := len(d.quiet) - 1
	moved := d.quiet[last]
	d.quiet[s.at.quiet-1], moved.at.quiet = moved, s.at.quiet
	d.quiet[last] = nil
	d.quiet = d.quiet[:last]
	s.at.quiet = 0
}

// feeds finds the feeds that an entry concerns.
type feeds struct {
	all  map[string]*feed // by pattern
	wild level            // those with a wildcard
}

// get returns the feed of a pattern, which it makes if there is none.
func (x *feeds) get(pattern string, wild bool) (d *feed, made bool) {
	if d = x.all[pattern]; d != nil {
		return d, false
	}
	d = &feed{pattern: pattern, wild: wild}
	if x.all == nil {
		x.all = map[string]*feed{}
	}
	x.all[pattern] = d
	if wild {
		x.wild.set(pattern, d)
	}
	return d, true
}

// remove removes d.
func (x *feeds) remove(d *feed) {
	delete(x.all, d.pattern)
	if d.wild {
		x.wild.set(d.pattern, nil)
	}
}

// match appends to found the feeds whose pattern matches topic.
func (x *feeds) match(topic string, found []*feed) []*feed {
	if d := x.all[topic]; d != nil && !d.wild {
		found = append(found, d)
	}
	return x.wild.match(topic, found)
}

// level is a node of the tree of patterns with a wildcard: what may follow the levels of a
// topic that lead to it. It matches as native.Match does.
type level struct {
	feed *feed             // of the pattern that ends here
	tail *feed             // of the pattern that ends here with **
	any  *level            // behind the level *
	next map[string]*level // behind a level with a name
}

func (l *level) match(topic string, found []*feed) []*feed {
	if l.tail != nil && topic != "" {
		found = append(found, l.tail)
	}
	if l.any == nil && l.next == nil {
		return found
	}
	name, rest, more := strings.Cut(topic, "/")
	for _, n := range [...]*level{l.next[name], l.any} {
		switch {
		case n == nil:
		case more:
			found = n.match(rest, found)
		case n.feed != nil && name != "":
			found = append(found, n.feed)
		}
	}
	return found
}

// set sets the feed of a pattern; nil removes it, with the levels that are then of no use. It
// reports whether l is one of those.
func (l *level) set(pattern string, d *feed) (useless bool) {
	name, rest, more := strings.Cut(pattern, "/")
	if name == "**" && !more {
		l.tail = d
		return l.useless()
	}
	n := l.next[name]
	if name == "*" {
		n = l.any
	}
	if n == nil {
		n = &level{}
		l.put(name, n)
	}
	if more {
		useless = n.set(rest, d)
	} else {
		n.feed = d
		useless = n.useless()
	}
	if useless {
		l.put(name, nil)
	}
	return l.useless()
}

// put puts n behind the level name; nil removes what is there.
func (l *level) put(name string, n *level) {
	switch {
	case name == "*":
		l.any = n
	case n == nil:
		if delete(l.next, name); len(l.next) == 0 {
			l.next = nil
		}
	default:
		if l.next == nil {
			l.next = map[string]*level{}
		}
		l.next[name] = n
	}
}

func (l *level) useless() bool {
	return l.feed == nil && l.tail == nil && l.any == nil && len(l.next) == 0
}
