package feed

import (
	"errors"

	"github.com/limpet-go/limpet/wire"
)

// ErrPublish is returned for a topic that is to be published to: a feed accepts no
// messages.
var ErrPublish = errors.New("feed: the server accepts no messages; subscribe only")

// channel is a compiled Channel.
type channel struct {
	name         pattern // in topics
	request      pattern // the name in requests
	names        []pattern
	index        int // in dialect.channels
	product      int // slot
	paramFrom    int // slot of the parameter, or -1: it is in the name
	numericParam bool

	number, first, counts, prev, cursor, time int // slots, or -1
	replay                                    uint64
	newestFirst                               bool

	rules                  rules // how to tell its messages apart; not used where the type shows the channel
	subscribe, unsubscribe *request
}

// dialect is a compiled Table. It is immutable.
type dialect struct {
	name         string
	subprotocols []string
	ping         wire.Ping
	pingText     *template // nil: there is none
	answer       *template // nil: the server does not ask
	strict       bool
	limits       wire.ConnectionLimits
	lower        bool
	resumes      bool
	lookBack     uint64 // the largest Channel.Replay
	endsByID     bool
	login        Login

	subscribe   *request
	unsubscribe *request // nil: the server has none
	channels    []*channel
	only        *channel // the one of a table that has one, without a parameter; nil: there are several
	rules       rules    // with the kinds of channels where the type shows the channel
	stream      stream

	layout                                                 *layout
	typ, chann, product, streamed, entries, sequence, time int // slots, or -1

	complete    bool
	confirms    bool
	confirmEnds bool
	id          path
	confirm     confirmation
	complaint   complaint
}

func (d *dialect) Name() string { return d.name }

func (d *dialect) Traits() wire.Traits {
	t := wire.Traits{
		Unsubscribe: d.unsubscribe != nil,
		Resume:      d.resumes,
		Greeting:    d.login.Message != nil,
		Confirms:    d.confirms,
		ConfirmsEnd: d.confirmEnds || d.complete || d.confirms && d.endsByID,
		Ping:        d.ping,
		StartSubs:   1 << 30,
		LookBack:    d.lookBack,
		Connection:  d.limits,
	}
	if t.Greeting || t.Resume || d.limits.Messages > 0 {
		// Requests follow when the server has accepted the credential, where one may be
		// refused, as one with a From that a table cannot say, and where the client has
		// to send them little by little.
		t.StartSubs = 0
	}
	return t
}

func (d *dialect) CheckTopic(use wire.Use, topic string) error {
	if use == wire.UsePublish {
		return ErrPublish
	}
	_, err := d.split(topic)
	return err
}

func (d *dialect) Attempt(a *wire.Attempt) error {
	a.Subprotocols = append(a.Subprotocols, d.subprotocols...)
	a.Dial = true
	return nil
}

// Verdict leaves every failure to the client's tables, since the close codes of
// exchanges follow RFC 6455, but that of a login.
func (d *dialect) Verdict(f wire.Failure) wire.Verdict {
	if f.Code == wire.CodeRefused && d.login.Message != nil && f.Stage == wire.StageHandshake {
		if f.Retry > 0 {
			return wire.Verdict{Action: wire.ActionBackOff, Class: "overload"} // the credential may be right
		}
		return wire.Verdict{Action: wire.ActionRefresh, Class: "auth"}
	}
	return wire.Verdict{}
}

func (d *dialect) Open(r wire.Resume) (wire.Codec, error) {
	c := &codec{
		dialect: d,
		pending: newRequests(),

		positions: wire.NewLedger[string, uint64](maxTopics),

		token: r.Token,
		start: make([]asked, 0, len(r.Subs)),
		subs:  map[string]*sub{},
		names: map[string]locus{},
		whole: make([]map[*sub]struct{}, len(d.channels)),
	}
	if d.streamed >= 0 {
		c.streams = map[string]*sub{}
	}
	c.scan.wanted = d.layout
	c.scan.found = make([]span, len(d.layout.names))
	for i := range r.Subs {
		s := &r.Subs[i]
		p, err := d.split(s.Topic)
		if err != nil {
			return nil, err
		}
		c.start = append(c.start, asked{p, s.Position.Tag})
		u := c.sub(s.Topic)
		if u == nil {
			return nil, errTopics
		}
		if p.channel.number >= 0 {
			u.resumed, u.last = s.Position.Offset, s.Position.Offset
		}
		if !d.confirms { // it is live once it was asked for
			c.watchSequence(u)
			c.watchWhole(u)
			u.seen = true
		}
	}
	return c, nil
}
