package feed

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// ErrPublish is returned for a topic that is to be published to: a feed accepts no
// messages.
var ErrPublish = errors.New("feed: the server accepts no messages; subscribe only")

// TopicError says why a topic cannot be subscribed to.
type TopicError struct {
	Topic   string // at most 255 bytes; a longer one is cut
	Problem string
}

// Error returns the topic, the problem and the expected form.
func (e *TopicError) Error() string {
	return fmt.Sprintf("feed: topic %q: %s; want channel/product", e.Topic, e.Problem)
}

// role is what a message means.
type role uint8

const (
	roleSilent   role = iota // heartbeats and ignored messages
	roleData                 // Channel.Types
	roleSnapshot             // Channel.Snapshots
	roleRepeat               // Channel.Repeats
	roleConfirm              // Confirm.Type
	roleEnded                // Confirm.Ended
	roleError                // Error.Type
)

// kind is one type of message.
type kind struct {
	name    string
	role    role
	channel *channel // of data, snapshots and repeats
}

// channel is a compiled Channel.
type channel struct {
	name    string   // in topics
	request string   // the name in requests
	names   []string // all names: those by which the server may call it
	index   int      // in dialect.channels
	number  int      // index of the member in dialect.members, or -1
	replay  uint64
	kinds   map[string]*kind // by type, if the table has a Channel member
}

// dialect is a compiled Table. It is immutable.
type dialect struct {
	name        string
	ping        wire.Ping
	strict      bool
	lookBack    uint64 // the largest Channel.Replay
	subscribe   *request
	unsubscribe *request // nil: the server has none
	channels    []*channel
	kinds       map[string]*kind // by type, those of channels with Channel.kinds excepted
	confirm     Confirm
	complaint   ErrorMessage

	// members are the names that a codec looks for in a message. The fields below
	// are indices into it, -1 for a member that the table does not have.
	members                                  []string
	typ, chann, product, sequence            int
	list, confirmChannel, confirmProducts    int
	text, detail, errorChannel, errorProduct int
}

// New checks t and returns its dialect. The error is a *TableError. New keeps no
// reference to t.
func New(t Table) (wire.Dialect, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	d := &dialect{
		name:      t.Name,
		ping:      t.Ping,
		strict:    t.Strict,
		subscribe: newRequest(&t.Subscribe),
		kinds:     map[string]*kind{},
		confirm:   t.Confirm,
		complaint: t.Error,
	}
	if !t.Unsubscribe.none() {
		d.unsubscribe = newRequest(&t.Unsubscribe)
	}
	d.typ, d.chann = d.member(t.Type), d.member(t.Channel)
	d.product, d.sequence = d.member(t.Product), d.member(t.Sequence)
	d.list = d.member(t.Confirm.List)
	d.confirmChannel, d.confirmProducts = -1, -1
	if t.Confirm.List == "" {
		d.confirmChannel, d.confirmProducts = d.member(t.Confirm.Channel), d.member(t.Confirm.Products)
	}
	d.text, d.detail = d.member(t.Error.Text), d.member(t.Error.Detail)
	d.errorChannel, d.errorProduct = d.member(t.Error.Channel), d.member(t.Error.Product)
	if err := d.addService(&t); err != nil {
		return nil, err
	}
	for i := range t.Channels {
		if err := d.addChannel(i, &t.Channels[i]); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// member returns the index of a member, which it adds if it is new; -1 for an empty
// name.
func (d *dialect) member(name string) int {
	if name == "" {
		return -1
	}
	if i := slices.Index(d.members, name); i >= 0 {
		return i
	}
	d.members = append(d.members, name)
	return len(d.members) - 1
}

// addService adds the types of messages that belong to no channel.
func (d *dialect) addService(t *Table) error {
	for _, s := range []struct {
		field, name string
		role        role
	}{
		{"Confirm.Type", t.Confirm.Type, roleConfirm},
		{"Confirm.Ended", t.Confirm.Ended, roleEnded},
		{"Error.Type", t.Error.Type, roleError},
	} {
		if s.name == "" {
			continue
		}
		if err := add(d.kinds, s.field, &kind{name: s.name, role: s.role}); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		field string
		names []string
	}{{"Heartbeats", t.Heartbeats}, {"Ignored", t.Ignored}} {
		for i, name := range s.names {
			if err := add(d.kinds, fmt.Sprintf("%s[%d]", s.field, i), &kind{name: name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// addChannel adds channel i of the table and its types.
func (d *dialect) addChannel(i int, t *Channel) error {
	at := fmt.Sprintf("Channels[%d]", i)
	c := &channel{name: t.Name, request: t.Request, index: i, number: d.member(t.Number), replay: t.Replay}
	if c.request == "" {
		c.request = t.Name
	}
	for j, name := range append([]string{t.Name, c.request}, t.Aliases...) {
		if j == 1 && name == t.Name {
			continue
		}
		if d.channel(name) != nil || slices.Contains(c.names, name) {
			return &TableError{at + [...]string{".Name", ".Request", ".Aliases"}[min(j, 2)], "is used twice"}
		}
		c.names = append(c.names, name)
	}
	d.channels = append(d.channels, c)
	d.lookBack = max(d.lookBack, c.replay)
	kinds := d.kinds
	if d.chann >= 0 {
		c.kinds = map[string]*kind{}
		kinds = c.kinds
	}
	for _, s := range []struct {
		field string
		names []string
		role  role
	}{{"Types", t.Types, roleData}, {"Snapshots", t.Snapshots, roleSnapshot}, {"Repeats", t.Repeats, roleRepeat}} {
		for j, name := range s.names {
			field := fmt.Sprintf("%s.%s[%d]", at, s.field, j)
			if d.kinds[name] != nil && d.chann >= 0 {
				return &TableError{field, "is already the type of another message"}
			}
			if err := add(kinds, field, &kind{name: name, role: s.role, channel: c}); err != nil {
				return err
			}
		}
	}
	return nil
}

// add adds k, whose name must be new; field is where the name comes from.
func add(kinds map[string]*kind, field string, k *kind) error {
	if k.name == "" {
		return &TableError{field, "is empty"}
	}
	if kinds[k.name] != nil {
		return &TableError{field, "is already the type of another message"}
	}
	kinds[k.name] = k
	return nil
}

// channel returns the channel that the server calls by that name, or nil. A table
// has few channels, so a linear search is fast enough.
func (d *dialect) channel(name string) *channel {
	for _, c := range d.channels {
		if slices.Contains(c.names, name) {
			return c
		}
	}
	return nil
}

func (d *dialect) Name() string { return d.name }

func (d *dialect) Traits() wire.Traits {
	return wire.Traits{
		Unsubscribe: d.unsubscribe != nil,
		Confirms:    d.confirm.Type != "",
		ConfirmsEnd: d.confirm.Ended != "" || d.confirm.Complete,
		Ping:        d.ping,
		StartSubs:   1 << 30,
		LookBack:    d.lookBack,
	}
}

func (d *dialect) CheckTopic(use wire.Use, topic string) error {
	if use == wire.UsePublish {
		return ErrPublish
	}
	_, _, err := d.split(topic)
	return err
}

// split splits a topic into channel and product. The error is a *TopicError.
func (d *dialect) split(topic string) (*channel, string, error) {
	if len(topic) > maxTopic {
		return nil, "", &TopicError{topic[:32] + "...", "is longer than 255 bytes"}
	}
	name, product, _ := strings.Cut(topic, "/")
	c := d.channel(name)
	if c == nil || c.name != name {
		return nil, "", &TopicError{topic, fmt.Sprintf("the feed has no channel %q", name)}
	}
	if err := checkProduct(product); err != nil {
		return nil, "", &TopicError{topic, "the product " + err.Error()}
	}
	return c, product, nil
}

func (d *dialect) Attempt(a *wire.Attempt) error {
	a.Dial = true
	return nil
}

// Verdict leaves every failure to the client's tables: the close codes of
// exchanges follow RFC 6455.
func (d *dialect) Verdict(wire.Failure) wire.Verdict { return wire.Verdict{} }

func (d *dialect) Open(r wire.Resume) (wire.Codec, error) {
	c := &codec{
		dialect: d,
		topics:  make([]string, 0, len(r.Subs)),
		subs:    make([]map[string]*sub, len(d.channels)),
		whole:   make([]map[*sub]struct{}, len(d.channels)),
	}
	c.scan.wanted = d.members
	c.scan.found = make([]span, len(d.members))
	for i := range c.subs {
		c.subs[i] = map[string]*sub{}
	}
	for i := range r.Subs {
		s := &r.Subs[i]
		ch, product, err := d.split(s.Topic)
		if err != nil {
			return nil, err
		}
		c.topics = append(c.topics, s.Topic)
		u := c.sub(ch, []byte(product))
		if u == nil {
			return nil, errTopics
		}
		if ch.number >= 0 {
			u.resumed = s.Position.Offset
		}
		if d.confirm.Type == "" { // it is live once it was asked for
			c.watchSequence(u, ch)
			c.watchWhole(u, ch)
			u.seen = true
		}
	}
	return c, nil
}
