package feed

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// New checks t and returns its dialect. The error is a *TableError. New keeps no
// reference to t.
func New(t Table) (wire.Dialect, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	d := &dialect{
		name:         t.Name,
		subprotocols: slices.Clone(t.Subprotocols),
		ping:         t.Ping,
		strict:       t.Strict,
		limits:       t.Limits,
		lower:        t.LowerCase,
		login:        t.Login,
		complete:     t.Confirm.Complete,
		confirms:     t.Confirm.Type != "",
		confirmEnds:  t.Confirm.Ended != "",
	}
	if t.PingText != "" {
		d.ping = wire.PingOp
	}
	if t.StreamName != "" {
		d.stream, _ = newStream(t.StreamName)
	}
	for _, add := range []func(*Table) error{d.addMembers, d.addRequests, d.addAnswers, d.addRules, d.addChannels} {
		if err := add(&t); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// addMembers adds the members that a codec looks for in every message.
func (d *dialect) addMembers(t *Table) (err error) {
	if d.layout, err = newLayout(t.Entries); err != nil {
		return &TableError{"Entries", err.Error()}
	}
	d.entries = d.layout.entries()
	for _, m := range []struct {
		field, path string
		slot        *int
	}{
		{"Type", t.Type, &d.typ}, {"Channel", t.Channel, &d.chann}, {"Product", t.Product, &d.product},
		{"Stream", t.Stream, &d.streamed}, {"Sequence", t.Sequence, &d.sequence}, {"Time", t.Time, &d.time},
	} {
		if *m.slot, err = d.slot(m.field, m.path); err != nil {
			return err
		}
		if strings.Contains(m.path, currentEntry) && m.slot != &d.product && m.slot != &d.time {
			return &TableError{m.field, `has "[]", and belongs to the whole message`}
		}
	}
	return nil
}

// slot returns the slot of a path; field is where it comes from.
func (d *dialect) slot(field, path string) (int, error) {
	slot, err := d.layout.add(path)
	if err != nil {
		return slot, &TableError{field, err.Error()}
	}
	return slot, nil
}

// addAnswers compiles the paths of answers, which are rare and not in the layout.
func (d *dialect) addAnswers(t *Table) (err error) {
	if d.complaint.unit = t.Error.RetryUnit; d.complaint.unit == 0 {
		d.complaint.unit = time.Second
	}
	for _, m := range []struct {
		field, path string
		to          *path
	}{
		{"ID", t.ID, &d.id},
		{"Confirm.List", t.Confirm.List, &d.confirm.list}, {"Confirm.Channel", t.Confirm.Channel, &d.confirm.channel},
		{"Confirm.Products", t.Confirm.Products, &d.confirm.products}, {"Confirm.Streams", t.Confirm.Streams, &d.confirm.streams},
		{"Confirm.EndedProducts", t.Confirm.EndedProducts, &d.confirm.endedProducts}, {"Confirm.EndedStreams", t.Confirm.EndedStreams, &d.confirm.endedStreams},
		{"Error.Text", t.Error.Text, &d.complaint.text}, {"Error.Detail", t.Error.Detail, &d.complaint.detail}, {"Error.Code", t.Error.Code, &d.complaint.code},
		{"Error.Retry", t.Error.Retry, &d.complaint.retry},
		{"Error.Channel", t.Error.Channel, &d.complaint.channel}, {"Error.Product", t.Error.Product, &d.complaint.product},
	} {
		if *m.to, err = parsePath(m.path); err != nil {
			return &TableError{m.field, err.Error()}
		}
	}
	return nil
}

// addRequests adds what a codec sends.
func (d *dialect) addRequests(t *Table) error {
	several := len(t.Channels) > 1
	for _, r := range []struct {
		field   string
		request *Request
		to      **request
	}{{"Subscribe", &t.Subscribe, &d.subscribe}, {"Unsubscribe", &t.Unsubscribe, &d.unsubscribe}} {
		none := r.to == &d.unsubscribe || !slices.ContainsFunc(t.Channels, func(c Channel) bool { return c.Subscribe == Request{} })
		if *r.request == (Request{}) && none {
			continue
		}
		if err := d.addRequest(r.field, r.request, several, r.to); err != nil {
			return err
		}
	}
	d.endsByID = t.ID != "" && d.unsubscribe != nil && d.unsubscribe.has[wordID]
	var err error
	if t.PingText != "" {
		if d.pingText, err = newText(t.PingText, pingWords); err != nil {
			return &TableError{"PingText", err.Error()}
		}
	}
	if t.Question != "" {
		if d.answer, err = newText(t.Answer, answerWords); err != nil {
			return &TableError{"Answer", err.Error()}
		}
	}
	return nil
}

// addRequest compiles one request.
func (d *dialect) addRequest(field string, r *Request, several bool, to **request) error {
	q, err := newRequest(r, several)
	if err != nil {
		return &TableError{field + ".JSON", err.Error()}
	}
	names := slices.Clone(q.lists)
	for _, has := range append(names, q.has) {
		if has[wordStream] && d.stream.separator == "" {
			return &TableError{field + ".JSON", `has "$stream", which needs StreamName`}
		}
		d.resumes = d.resumes || has[wordCursor]
	}
	*to = q
	return nil
}

// newText compiles a text that need not be JSON.
func newText(text string, words map[string]word) (*template, error) {
	if json.Valid([]byte(text)) {
		return newTemplate(text, words)
	}
	for name, w := range words {
		for _, placeholder := range []string{strconv.Quote("#" + name), strconv.Quote("$" + name)} {
			if strings.Contains(text, placeholder) && (w.quoted() || placeholder[1] == '#') {
				return nil, fmt.Errorf("has %s and is not JSON", placeholder)
			}
		}
	}
	return &template{pieces: []piece{{text: text}}}, nil
}

// addRules adds the matches of messages that belong to no channel.
func (d *dialect) addRules(t *Table) error {
	for _, s := range []struct {
		field   string
		role    role
		matches []string
	}{
		{"Confirm.Type", roleConfirm, one(t.Confirm.Type)},
		{"Confirm.Ended", roleEnded, one(t.Confirm.Ended)},
		{"Error.Type", roleError, one(t.Error.Type)},
		{"Login.Challenge", roleChallenge, one(t.Login.Challenge)},
		{"Login.Accepted", roleAccepted, one(t.Login.Accepted)},
		{"GoAway", roleGoAway, one(t.GoAway)},
		{"Question", roleQuestion, one(t.Question)},
		{"Heartbeats", roleSilent, t.Heartbeats},
		{"Ignored", roleSilent, t.Ignored},
	} {
		for i, match := range s.matches {
			field := s.field
			if s.role == roleSilent {
				field = fmt.Sprintf("%s[%d]", field, i)
			}
			if err := d.addRule(&d.rules, field, match, &kind{role: s.role}); err != nil {
				return err
			}
		}
	}
	return nil
}

// one is a list of one match, or of none.
func one(match string) []string {
	if match == "" {
		return nil
	}
	return []string{match}
}

// addRule adds k, whose match must be new; field is where it comes from.
func (d *dialect) addRule(to *rules, field, match string, k *kind) error {
	typ := ""
	if d.typ >= 0 {
		typ = d.layout.names[d.typ]
	}
	switch fresh, err := to.add(d.layout, typ, match, k); {
	case err != nil:
		return &TableError{field, err.Error()}
	case !fresh:
		return &TableError{field, "is already the match of another message"}
	case to == &d.rules && k.channel == nil && match == "*":
		return &TableError{field, `is "*", which is for channels only`}
	case to == &d.rules && strings.Contains(match, currentEntry):
		return &TableError{field, `has "[]", and is for the whole message`}
	}
	return nil
}

// addChannels adds the channels of the table.
func (d *dialect) addChannels(t *Table) error {
	for i := range t.Channels {
		if err := d.addChannel(i, &t.Channels[i], len(t.Channels) > 1); err != nil {
			return err
		}
	}
	if t.onlyChannel() != nil {
		d.only = d.channels[0]
	}
	hasID := func(c *channel) bool { return d.requestOf(c, false).has[wordID] }
	if t.ID != "" && !slices.ContainsFunc(d.channels, hasID) {
		return &TableError{"ID", `needs "#id" or "$id" in Subscribe`}
	}
	return nil
}

// addChannel adds channel i of the table.
func (d *dialect) addChannel(i int, t *Channel, several bool) (err error) {
	at := fmt.Sprintf("Channels[%d]", i)
	requestName := t.Request
	if requestName == "" {
		requestName = t.Name
	}
	c := &channel{name: newPattern(t.Name), request: newPattern(requestName), index: i, replay: t.Replay, newestFirst: t.NewestFirst}
	for j, name := range append([]string{t.Name, requestName}, t.Aliases...) {
		if j == 1 && name == t.Name {
			continue
		}
		n := newPattern(name)
		if d.hasName(n) || slices.Contains(c.names, n) {
			return &TableError{at + [...]string{".Name", ".Request", ".Aliases"}[min(j, 2)], "is used twice"}
		}
		c.names = append(c.names, n)
	}
	for _, m := range []struct {
		field, path string
		slot        *int
	}{
		{".Product", t.Product, &c.product}, {".Param", t.Param, &c.paramFrom}, {".Number", t.Number, &c.number}, {".First", t.First, &c.first},
		{".Count", t.Count, &c.counts}, {".Prev", t.Prev, &c.prev}, {".Cursor", t.Cursor, &c.cursor}, {".Time", t.Time, &c.time},
	} {
		if *m.slot, err = d.slot(at+m.field, m.path); err != nil {
			return err
		}
	}
	if c.product < 0 {
		c.product = d.product
	}
	if c.time < 0 {
		c.time = d.time
	}
	if err := d.addChannelRequests(at, t, c, several); err != nil {
		return err
	}
	d.channels = append(d.channels, c)
	d.lookBack = max(d.lookBack, c.replay)
	return d.addKinds(at, t, c)
}

// hasName reports whether a channel has that name.
func (d *dialect) hasName(name pattern) bool {
	return slices.ContainsFunc(d.channels, func(c *channel) bool { return slices.Contains(c.names, name) })
}

// addChannelRequests adds the requests of one channel.
func (d *dialect) addChannelRequests(at string, t *Channel, c *channel, several bool) error {
	for _, r := range []struct {
		field   string
		request *Request
		to      **request
	}{{".Subscribe", &t.Subscribe, &c.subscribe}, {".Unsubscribe", &t.Unsubscribe, &c.unsubscribe}} {
		switch {
		case *r.request == (Request{}):
			continue
		case r.to == &c.unsubscribe && d.unsubscribe == nil:
			return &TableError{at + r.field, "needs an Unsubscribe of the table"}
		}
		// The channel is a constant of its own request.
		if err := d.addRequest(at+r.field, r.request, false, r.to); err != nil {
			return err
		}
	}
	for _, q := range []*request{d.requestOf(c, false), d.requestOf(c, true)} {
		if q == nil {
			continue
		}
		param := c.request.param
		for _, has := range append(slices.Clone(q.lists), q.has) {
			param = param || has[wordParam]
			if has[wordParam] && !c.name.param {
				return &TableError{at + ".Name", `has no '*' for the "$param" of its request`}
			}
		}
		if c.name.param && !param {
			return &TableError{at + ".Request", `has no '*', and the channel's request no "$param"`}
		}
		c.numericParam = c.numericParam || bareParam(q.pieces)
	}
	return nil
}

// bareParam reports whether the parameter is written without quotes.
func bareParam(pieces []piece) bool {
	return slices.ContainsFunc(pieces, func(p piece) bool {
		return p.word == wordParam && p.bare || bareParam(p.pieces)
	})
}

// addKinds adds the matches of c's messages.
func (d *dialect) addKinds(at string, t *Channel, c *channel) error {
	to, shown := &d.rules, d.chann >= 0 || d.streamed >= 0
	if shown {
		to = &c.rules
	}
	for _, s := range []struct {
		field   string
		matches []string
		role    role
	}{{"Types", t.Types, roleData}, {"Snapshots", t.Snapshots, roleSnapshot}, {"Repeats", t.Repeats, roleRepeat}} {
		for j, match := range s.matches {
			field := fmt.Sprintf("%s.%s[%d]", at, s.field, j)
			if shown && d.takes(match) {
				return &TableError{field, "is already the match of another message"}
			}
			if match == "*" && !shown {
				return &TableError{field, `is "*", which needs Table.Channel or Table.Stream`}
			}
			if err := d.addRule(to, field, match, &kind{role: s.role, channel: c}); err != nil {
				return err
			}
		}
	}
	if len(t.Types) == 0 && shown && c.rules.any == nil {
		c.rules.any = &kind{role: roleData, channel: c}
	}
	return nil
}

// takes reports whether a match of the table takes every message with that type.
func (d *dialect) takes(match string) bool {
	return d.typ >= 0 && !strings.Contains(match, "=") && slices.ContainsFunc(d.rules.members, func(r rule) bool { return r.slot == d.typ && r.values[match] != nil })
}
