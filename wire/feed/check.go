package feed

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// check reports the first field of t that is wrong. What is used twice, and what a
// path, a match or a request has wrong in itself, is found by New, when it puts the
// pieces together.
func (t *Table) check() error {
	if t.Name == "" || strings.Trim(t.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return &TableError{"Name", "want lower-case letters, digits and '-'"}
	}
	for i, p := range t.Subprotocols {
		if !isToken(p) {
			return &TableError{fmt.Sprintf("Subprotocols[%d]", i), "want a token (RFC 9110, section 5.6.2)"}
		}
	}
	if err := t.checkNames(); err != nil {
		return err
	}
	if len(t.Channels) == 0 {
		return &TableError{"Channels", "is empty; want at least one"}
	}
	members := map[string]string{}
	for _, m := range []struct{ field, path string }{
		{"Type", t.Type}, {"Channel", t.Channel}, {"Product", t.Product}, {"Stream", t.Stream}, {"Sequence", t.Sequence},
	} {
		if other := members[m.path]; m.path != "" && other != "" {
			return &TableError{m.field, fmt.Sprintf("is the same member as %s", other)}
		}
		members[m.path] = m.field
	}
	for i := range t.Channels {
		if err := t.Channels[i].check(t, fmt.Sprintf("Channels[%d]", i), members); err != nil {
			return err
		}
	}
	if t.Subscribe.Max < 0 {
		return &TableError{"Subscribe.Max", "is negative"}
	}
	if t.Unsubscribe.Max < 0 {
		return &TableError{"Unsubscribe.Max", "is negative"}
	}
	if name, problem := t.Limits.Check(); name != "" {
		return &TableError{"Limits." + name, problem}
	}
	for _, err := range []error{t.Confirm.check(t), t.Error.check(t), t.Login.check(), t.checkSigns()} {
		if err != nil {
			return err
		}
	}
	return nil
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
}

// checkNames checks how a message names its channel and product.
func (t *Table) checkNames() error {
	switch {
	case t.Type == "" && t.Channel == "" && t.Stream == "":
		return &TableError{"Type", `is empty, and so are Channel and Stream; want the path of one of them (if messages have no type, the name of a member that they do not have: their type is then "")`}
	case t.Stream != "" && t.Channel != "":
		return &TableError{"Stream", "excludes Channel"}
	case t.Stream != "" && t.Product != "":
		return &TableError{"Stream", "excludes Product"}
	case t.Stream != "" && t.StreamName == "":
		return &TableError{"StreamName", `is empty; want for example "product@channel"`}
	case t.Stream == "" && t.Product == "" && slices.ContainsFunc(t.Channels, func(c Channel) bool { return c.Product == "" }):
		return &TableError{"Product", "is empty; want the path of the product"}
	}
	if t.StreamName != "" {
		if _, ok := newStream(t.StreamName); !ok || !utf8.ValidString(t.StreamName) {
			return &TableError{"StreamName", `want the words channel and product with a separator between them`}
		}
	}
	return nil
}

// checkSigns checks how the two sides ask for a sign of life.
func (t *Table) checkSigns() error {
	switch {
	case t.Ping > wire.PingNone:
		return &TableError{"Ping", "want wire.PingControl, wire.PingOp or wire.PingNone"}
	case t.Ping == wire.PingOp && t.PingText == "":
		return &TableError{"Ping", "is wire.PingOp, which needs a PingText"}
	case t.Ping == wire.PingNone && t.PingText != "":
		return &TableError{"Ping", "is wire.PingNone, which excludes PingText"}
	case !utf8.ValidString(t.PingText):
		return &TableError{"PingText", "is not UTF-8"}
	case strings.Contains(t.Answer, `"#n"`) && !strings.HasSuffix(t.Question, "=*"):
		return &TableError{"Question", `must have the form "path=*", since "#n" in Answer is the number at that path`}
	case (t.Question == "") != (t.Answer == ""):
		return &TableError{"Answer", "want Question and Answer, or neither"}
	case !utf8.ValidString(t.Answer):
		return &TableError{"Answer", "is not UTF-8"}
	}
	return nil
}

// check reports the first field of c that is wrong. members are the members that
// the table uses, by path.
func (c *Channel) check(t *Table, at string, members map[string]string) error {
	if c.Name == "" || strings.Count(c.Name, "*") > 1 || c.Name == "*" {
		return &TableError{at + ".Name", "want a name with at most one '*' in it"}
	}
	if err := checkName(strings.Replace(c.Name, "*", "", 1)); err != nil {
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
	// Where the server's name for the channel shows, a '*' in it is the parameter.
	param := strings.Contains(c.Name, "*")
	inName := (t.Channel != "" || t.Stream != "") && (c.Request == "" || strings.Contains(c.Request, "*"))
	switch {
	case c.Product != "" && t.Stream != "":
		return &TableError{at + ".Product", "is excluded by Table.Stream"}
	case !utf8.ValidString(c.Request):
		return &TableError{at + ".Request", "is not UTF-8"}
	case strings.Count(c.Request, "*") > 1 || !param && strings.Contains(c.Request, "*"):
		return &TableError{at + ".Request", "want at most one '*', and one in Name too"}
	case param && !inName && c.Param == "":
		return &TableError{at + ".Param", "is empty, and neither the channel's name in messages nor another member shows the parameter"}
	case c.Param != "" && (!param || inName):
		return &TableError{at + ".Param", "is for a Name with a '*' whose parameter is not in the channel's name in messages"}
	}
	if len(c.Types)+len(c.Snapshots)+len(c.Repeats) == 0 && t.Channel == "" && t.Stream == "" {
		return &TableError{at + ".Types", "is empty; want at least one type of message"}
	}
	if c.Subscribe.Max < 0 || c.Unsubscribe.Max < 0 {
		return &TableError{at + ".Subscribe", "has a negative Max"}
	}
	return c.checkNumbers(at, t.Entries, members)
}

// checkNumbers checks how c counts its messages.
func (c *Channel) checkNumbers(at, entries string, members map[string]string) error {
	if other := members[c.Number]; c.Number != "" && other != "" {
		return &TableError{at + ".Number", "is the same member as " + other}
	}
	set := 0
	for _, m := range []struct{ field, path string }{{".First", c.First}, {".Count", c.Count}, {".Prev", c.Prev}} {
		if m.path == "" {
			continue
		}
		if set++; set > 1 {
			return &TableError{at + m.field, "is one of First, Count and Prev too many"}
		}
		if c.Number == "" {
			return &TableError{at + m.field, "needs a Number"}
		}
	}
	switch {
	case c.NewestFirst && entries == "":
		return &TableError{at + ".NewestFirst", "needs Table.Entries"}
	case c.Cursor != "" && c.Number != "":
		return &TableError{at + ".Cursor", "excludes Number"}
	case c.Replay > 0 && c.Number == "":
		return &TableError{at + ".Replay", "needs a Number: without one a repeat cannot be detected"}
	case c.Replay > 0 && c.Prev != "":
		return &TableError{at + ".Replay", "excludes Prev"}
	}
	return nil
}

// onlyChannel returns the channel of a table that has one, without a parameter; otherwise nil.
func (t *Table) onlyChannel() *Channel {
	if len(t.Channels) != 1 || t.Channels[0].Param != "" || strings.Contains(t.Channels[0].Name, "*") {
		return nil
	}
	return &t.Channels[0]
}

// orID says how else the topics of a confirmation are known.
const orID = `, or Table.ID if a confirmation repeats "#id"`

func (c *Confirm) check(t *Table) error {
	if c.Type == "" {
		if *c != (Confirm{}) {
			return &TableError{"Confirm.Type", "is empty, but other fields of Confirm are not"}
		}
		return nil
	}
	switch {
	case c.EndedProducts != "" && (c.Ended == "" || c.Products == ""):
		return &TableError{"Confirm.EndedProducts", "needs Confirm.Ended and Confirm.Products"}
	case c.EndedStreams != "" && (c.Ended == "" || c.Streams == ""):
		return &TableError{"Confirm.EndedStreams", "needs Confirm.Ended and Confirm.Streams"}
	case c.Streams != "" && (c.Channel != "" || c.Products != ""):
		return &TableError{"Confirm.Streams", "excludes Channel and Products"}
	case c.Streams != "" && t.StreamName == "":
		return &TableError{"Confirm.Streams", "needs Table.StreamName"}
	case c.Streams != "":
	case c.Channel == "" && c.Products == "" && t.ID != "" && c.List == "":
	case c.Channel == "" && c.Products == "" && t.Stream != "":
		return &TableError{"Confirm.Streams", "is empty; want the member that names the streams" + orID}
	case c.Channel == "" && t.onlyChannel() == nil:
		return &TableError{"Confirm.Channel", "is empty; want the member that names the channel" + orID}
	case c.Products == "":
		return &TableError{"Confirm.Products", "is empty; want the member that names the products"}
	}
	if c.Complete && c.Ended != "" {
		return &TableError{"Confirm.Ended", "excludes Complete"}
	}
	if c.Complete && c.Channel == "" && c.Streams == "" {
		return &TableError{"Confirm.Complete", "needs the members that name what is subscribed"}
	}
	return nil
}

func (e *ErrorMessage) check(t *Table) error {
	if e.Type == "" && *e != (ErrorMessage{}) {
		return &TableError{"Error.Type", "is empty, but other fields of Error are not"}
	}
	switch {
	case e.Channel != "" && e.Product == "", e.Product != "" && e.Channel == "" && t.onlyChannel() == nil:
		return &TableError{"Error.Channel", "want Channel and Product, or neither"}
	case e.RetryUnit < 0:
		return &TableError{"Error.RetryUnit", "is negative"}
	case e.RetryUnit > 0 && e.Retry == "":
		return &TableError{"Error.RetryUnit", "needs Error.Retry"}
	}
	return nil
}

func (l *Login) check() error {
	switch {
	case l.Message == nil && (l.Challenge != "" || l.Accepted != ""):
		return &TableError{"Login.Message", "is nil, but other fields of Login are not empty"}
	case l.Message != nil && l.Accepted == "":
		return &TableError{"Login.Accepted", "is empty; want the match of the message that accepts the credential"}
	}
	return nil
}
