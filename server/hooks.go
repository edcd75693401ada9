package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Principal is who a connection speaks for.
type Principal struct {
	ID      string    // a session can only be resumed under the ID that created it
	Expires time.Time // when the connection is closed with 4100; zero: never
	Value   any       // for the hooks of this program; the server does not look at it
}

// Verb is what a principal wants to do with a topic.
type Verb uint8

const (
	VerbPublish Verb = iota + 1
	VerbSubscribe
)

func (v Verb) String() string {
	switch v {
	case VerbPublish:
		return "publish"
	case VerbSubscribe:
		return "subscribe"
	}
	return fmt.Sprintf("verb %d", uint8(v))
}

// Message is what a client published, before it is accepted. Payload and Header
// must not be changed or kept.
type Message struct {
	ID      wire.ID
	Topic   string
	Payload []byte
	Type    string
	Header  map[string]string
	TTL     time.Duration
}

// Hooks are the decisions that belong to the program around the server. They
// run on the goroutine that reads the connection, with no lock held: a slow
// hook holds up that connection and no other. Their context ends with the
// connection. A panic is logged and counts as an internal error.
//
// An error that is or wraps an *Error chooses the code the client is told. The
// text of any other error is not told.
type Hooks struct {
	// Authenticate decides who the client is, from the upgrade request and the
	// token of its HELLO. It also runs when a session is resumed. An error ends
	// the connection with 4101, or with Error.Code if that is a close code. Nil
	// accepts everybody as Principal{}: do not expose such a server.
	Authenticate func(ctx context.Context, r *http.Request, token string) (Principal, error)

	// Authorize decides whether who may do verb on topic, which is a pattern
	// when it subscribes to one. An error is forbidden (2), or Error.Code. Nil
	// allows everything.
	Authorize func(who Principal, verb Verb, topic string) error

	// OnPublish sees every message of a client once before it is accepted, and
	// not those that are known already. An error refuses the message for good
	// with bad_request (1), or Error.Code. Nil accepts everything.
	OnPublish func(ctx context.Context, who Principal, m Message) error
}

func (p *peer) authenticate(ctx context.Context, token string) (who Principal, err error) {
	hook := p.server.opt.Hooks.Authenticate
	if hook == nil {
		return Principal{}, nil
	}
	defer recovered(p.log, &err)
	return hook(ctx, p.request, token)
}

func (p *peer) authorize(verb Verb, topic string) (err error) {
	hook := p.server.opt.Hooks.Authorize
	if hook == nil {
		return nil
	}
	defer recovered(p.log, &err)
	return hook(p.who, verb, topic)
}

func (p *peer) onPublish(m Message) (err error) {
	hook := p.server.opt.Hooks.OnPublish
	if hook == nil {
		return nil
	}
	defer recovered(p.log, &err)
	return hook(p.ctx, p.who, m)
}

// recovered makes a panic of a hook or of the log an error, and tells where it
// came from.
func recovered(log *slog.Logger, err *error) {
	if v := recover(); v != nil {
		log.Error("panic in a hook or in the log", "value", quote(fmt.Sprint(v)), "stack", string(debug.Stack()))
		*err = &panicError{v}
	}
}

type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic in a hook or in the log: %v", e.value) }
