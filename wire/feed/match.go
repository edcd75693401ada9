package feed

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// role is what a message means. If several match, the first in this order counts.
type role uint8

const (
	roleChallenge role = iota // Login.Challenge
	roleAccepted              // Login.Accepted
	roleError                 // Error.Type
	roleEnded                 // Confirm.Ended
	roleConfirm               // Confirm.Type
	roleGoAway                // GoAway
	roleQuestion              // Question
	roleSilent                // Heartbeats and Ignored
	roleRepeat                // Channel.Repeats
	roleSnapshot              // Channel.Snapshots
	roleData                  // Channel.Types
)

// kind is what a match of a table recognises.
type kind struct {
	name    string // the type of its messages, where the match is one
	role    role
	slot    int      // of the member that the match looks at
	channel *channel // of data, snapshots and repeats
}

// rules are the matches of a table or of a channel.
type rules struct {
	members  []rule
	perEntry bool             // a match looks into the entries of Table.Entries
	texts    map[string]*kind // whole messages that are not JSON
	any      *kind            // what nothing else matches
}

// rule is what the value of one member says.
type rule struct {
	slot   int
	values map[string]*kind
	any    *kind // the member is there and not null
}

var errMatch = errors.New(`want a value of Table.Type, "path=value", "path=*" or "=text"`)

// add adds a match. typ is the path of Table.Type, which a match without a path looks
// at. It returns false if the match is there already.
func (r *rules) add(l *layout, typ, match string, k *kind) (fresh bool, err error) {
	k.slot = -1
	path, value, hasPath := strings.Cut(match, "=")
	switch {
	case match == "" || !utf8.ValidString(match):
		return false, errMatch
	case match == "*":
		fresh = r.any == nil
		r.any = k
		return fresh, nil
	case !hasPath:
		if typ == "" {
			return false, errors.New(`needs Table.Type, or a path: "path=value"`)
		}
		k.name, path, value = match, typ, match
	case path == "":
		if value == "" {
			return false, errMatch
		}
		if r.texts == nil {
			r.texts = map[string]*kind{}
		}
		fresh = r.texts[value] == nil
		r.texts[value] = k
		return fresh, nil
	case path == typ:
		k.name = value
	}
	if k.slot, err = l.add(path); err != nil {
		return false, err
	}
	r.perEntry = r.perEntry || slices.Contains(l.inEntry, k.slot)
	of := r.of(k.slot)
	if value == "*" && hasPath {
		fresh = of.any == nil
		of.any = k
		return fresh, nil
	}
	fresh = of.values[value] == nil
	of.values[value] = k
	return fresh, nil
}

// of returns the rule of a slot, which it adds if it is new.
func (r *rules) of(slot int) *rule {
	for i := range r.members {
		if r.members[i].slot == slot {
			return &r.members[i]
		}
	}
	r.members = append(r.members, rule{slot: slot, values: map[string]*kind{}})
	return &r.members[len(r.members)-1]
}

// saysNone reports whether the value of a member for errors says that there is none.
// A string comes without its quotes.
func saysNone(value []byte) bool {
	switch string(value) {
	case "", "false", "[]", "{}":
		return true
	}
	return false
}

// find returns what the message that was just scanned is; nil if nothing matches.
func (r *rules) find(s *scanner) *kind {
	best := r.any
	for i := range r.members {
		m := &r.members[i]
		raw := s.raw(m.slot)
		if len(raw) == 0 || s.repeated != nil && s.repeated[m.slot] {
			continue
		}
		null := raw[0] == 'n'
		if raw[0] == '"' {
			text, err := plainText(raw)
			if err != nil {
				continue
			}
			raw = text
		}
		k := m.values[string(raw)]
		if k == nil && !null && m.any != nil && !(m.any.role == roleError && saysNone(raw)) {
			k = m.any
		}
		if k != nil && (best == r.any || k.role < best.role) {
			best = k
		}
	}
	return best
}
