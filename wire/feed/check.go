package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// maxTopic bounds a topic, in bytes.
const maxTopic = 255

// check reports the first field of t that is wrong. Names that are used twice are
// found by New, when it puts the pieces together.
func (t *Table) check() error {
	if t.Name == "" || strings.Trim(t.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return &TableError{"Name", "want lower-case letters, digits and '-'"}
	}
	if t.Type == "" {
		return &TableError{"Type", "is empty; want the member that holds a message's type"}
	}
	if t.Product == "" {
		return &TableError{"Product", "is empty; want the member that holds the product"}
	}
	members := map[string]string{}
	for _, m := range []struct{ field, name string }{
		{"Type", t.Type}, {"Channel", t.Channel}, {"Product", t.Product}, {"Sequence", t.Sequence},
	} {
		if other := members[m.name]; m.name != "" && other != "" {
			return &TableError{m.field, fmt.Sprintf("is the same member as %s", other)}
		}
		members[m.name] = m.field
	}
	if len(t.Channels) == 0 {
		return &TableError{"Channels", "is empty; want at least one"}
	}
	for i := range t.Channels {
		if err := t.Channels[i].check(fmt.Sprintf("Channels[%d]", i), members); err != nil {
			return err
		}
	}
	if err := t.Subscribe.check("Subscribe", len(t.Channels)); err != nil {
		return err
	}
	if !t.Unsubscribe.none() {
		if err := t.Unsubscribe.check("Unsubscribe", len(t.Channels)); err != nil {
			return err
		}
	}
	if err := t.Confirm.check(); err != nil {
		return err
	}
	if err := t.Error.check(); err != nil {
		return err
	}
	if t.Ping != wire.PingControl && t.Ping != wire.PingNone {
		return &TableError{"Ping", "want wire.PingControl or wire.PingNone"}
	}
	return nil
}

// check reports the first field of c that is wrong. members are the members that
// the table uses, by name.
func (c *Channel) check(at string, members map[string]string) error {
	if err := checkName(c.Name); err != nil {
		return &TableError{at + ".Name", err.Error()}
	}
	if strings.Contains(c.Name, "/") || len(c.Name) > maxTopic-2 {
		return &TableError{at + ".Name", "want no '/' and room for a product in a topic of 255 bytes"}
	}
	for i, name := range c.Aliases {
		if name == "" || !utf8.ValidString(name) {
			return &TableError{fmt.Sprintf("%s.Aliases[%d]", at, i), "want a name in UTF-8"}
		}
	}
	if !utf8.ValidString(c.Request) {
		return &TableError{at + ".Request", "is not UTF-8"}
	}
	if len(c.Types)+len(c.Snapshots)+len(c.Repeats) == 0 {
		return &TableError{at + ".Types", "is empty; want at least one type of message"}
	}
	if other := members[c.Number]; c.Number != "" && other != "" {
		return &TableError{at + ".Number", "is the same member as " + other}
	}
	if c.Replay > 0 && c.Number == "" {
		return &TableError{at + ".Replay", "needs a Number: without one a repeat cannot be detected"}
	}
	return nil
}

// none reports whether r is not set.
func (r *Request) none() bool {
	return len(r.Fields) == 0 && r.Channel == "" && r.Channels == "" && r.Product == "" && r.Products == "" && r.Max == 0
}

// check reports the first field of r that is wrong, for a table with that many
// channels.
func (r *Request) check(at string, channels int) error {
	names := map[string]bool{}
	for i, f := range r.Fields {
		field := fmt.Sprintf("%s.Fields[%d]", at, i)
		switch {
		case f.Name == "" || !utf8.ValidString(f.Name):
			return &TableError{field + ".Name", "want a member's name in UTF-8"}
		case names[f.Name]:
			return &TableError{field + ".Name", "is used twice"}
		case !json.Valid([]byte(f.JSON)) || !utf8.ValidString(f.JSON):
			return &TableError{field + ".JSON", "is not JSON; a string needs its quotes"}
		}
		names[f.Name] = true
	}
	for _, m := range []struct{ field, name string }{
		{"Channel", r.Channel}, {"Channels", r.Channels}, {"Product", r.Product}, {"Products", r.Products},
	} {
		if m.name == "" {
			continue
		}
		if names[m.name] || !utf8.ValidString(m.name) {
			return &TableError{at + "." + m.field, "is used twice or not UTF-8"}
		}
		names[m.name] = true
	}
	switch {
	case r.Channel != "" && r.Channels != "":
		return &TableError{at + ".Channel", "excludes Channels"}
	case r.Channel == "" && r.Channels == "" && channels > 1:
		return &TableError{at + ".Channels", "is empty, and the table has several channels"}
	case r.Product != "" && r.Products != "":
		return &TableError{at + ".Product", "excludes Products"}
	case r.Product == "" && r.Products == "":
		return &TableError{at + ".Products", "is empty; want the member for the products"}
	case r.Max < 0:
		return &TableError{at + ".Max", "is negative"}
	}
	return nil
}

func (c *Confirm) check() error {
	if c.Type == "" {
		if *c != (Confirm{}) {
			return &TableError{"Confirm.Type", "is empty, but other fields of Confirm are not"}
		}
		return nil
	}
	switch {
	case c.Channel == "":
		return &TableError{"Confirm.Channel", "is empty; want the member that names the channel"}
	case c.Products == "":
		return &TableError{"Confirm.Products", "is empty; want the member that names the products"}
	case c.Complete && c.Ended != "":
		return &TableError{"Confirm.Ended", "excludes Complete"}
	}
	return nil
}

func (e *ErrorMessage) check() error {
	if e.Type == "" && *e != (ErrorMessage{}) {
		return &TableError{"Error.Type", "is empty, but other fields of Error are not"}
	}
	if (e.Channel == "") != (e.Product == "") {
		return &TableError{"Error.Channel", "want Channel and Product, or neither"}
	}
	return nil
}

// checkName returns nil if s is valid as a channel or as the rest of a topic.
func checkName(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > maxTopic:
		return errors.New("is longer than 255 bytes")
	case !utf8.ValidString(s):
		return errors.New("is not UTF-8")
	case strings.Contains(s, "*"):
		return errors.New("has a '*': a feed has no wildcards")
	case strings.ContainsFunc(s, unicode.IsControl):
		return errors.New("has a control character")
	}
	return nil
}

// checkProduct is checkName for a product, whose levels may not be empty.
func checkProduct(s string) error {
	if err := checkName(s); err != nil {
		return err
	}
	if s[0] == '/' || s[len(s)-1] == '/' || strings.Contains(s, "//") {
		return errors.New("has an empty level")
	}
	return nil
}
