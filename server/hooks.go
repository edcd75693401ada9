package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// Principal is who a connection speaks for.
type Principal struct {
	// ID identifies the principal. A session can be resumed only under the ID
	// that created it.
	ID string

	// Expires is when the connection is closed with 4100, unless the client has sent a new
	// credential by then. Zero means never.
	Expires time.Time

	// Value is for the other hooks. The server does not use it.
	Value any
}

// Verb is what a principal wants to do with a topic.
type Verb uint8

// The verbs.
const (
	VerbPublish Verb = iota + 1
	VerbSubscribe
	VerbCall
)

// String returns the verb as one lower-case word.
func (v Verb) String() string {
	switch v {
	case VerbPublish:
		return "publish"
	case VerbSubscribe:
		return "subscribe"
	case VerbCall:
		return "call"
	}
	return fmt.Sprintf("verb %d", uint8(v))
}

// Message is what a client published, before it is accepted, or what it calls with: then ID is
// zero, and TTL is how long the client waits. A hook must not
// change or keep Payload and Header.
type Message struct {
	ID      wire.ID           // message id, chosen by the client
	Topic   string            // topic, without wildcards
	Payload []byte            // content
	Type    string            // content type
	Header  map[string]string // application headers
	TTL     time.Duration     // lifetime; 0: no end
}

// Hooks are the decisions of the program around the server. They run on the
// goroutine that reads the connection, with no lock held: a slow hook delays that
// connection and no other. Several connections call them concurrently. A panic is
// logged and counts as an internal error.
//
// Their context has the values of the upgrade request, but it does not end with the
// request or with the connection: what a hook has begun decides about a message
// also when the client is gone. It ends when the server is closed, when a newer
// connection of the session takes over, and a minute after the connection has ended.
//
// An error after the end of the context, one that is context.Canceled, one with
// Timeout() true, such as context.DeadlineExceeded, and a failure of the network
// or of the system that passes (*net.OpError, *net.DNSError, an HTTP request without an
// answer, too many open files, a full disk) decide
// nothing: the connection is closed with 4203, the client backs off and sends the message
// again. A subscription is refused with unavailable (7), and the client asks again.
//
// An error that is or wraps an *Error chooses the code that the client receives.
// The text of any other error is not sent.
type Hooks struct {
	// Authenticate decides who the client is, from the upgrade request and the
	// token of its HELLO, within 10 seconds. The request is without the header that may hold
	// HELLO. It also runs when a session is
	// resumed and, without Reauthenticate, on a new credential. An error ends the
	// connection with 4101, or with Error.Code if that is a close code; rate_limited,
	// unavailable and internal (5, 7, 8) stand for 4201, 4203 and 4202, after which a client
	// comes back with the same credential. Nil accepts every client as Principal{}: do not
	// expose such a server.
	Authenticate func(ctx context.Context, r *http.Request, token string) (Principal, error)

	// Reauthenticate decides on a new credential that a client sends on its connection, before
	// Principal.Expires or because Server.Reauthenticate asks for it, within 10 seconds. who
	// is what the last decision has returned. The result replaces it, and must have the same
	// ID: otherwise, and after an error, the connection ends with 4101, or with
	// Error.Code if that is a close code. After an error that decides nothing, a panic and
	// rate_limited, unavailable and internal (5, 7, 8) the connection goes on with the old
	// credential, and the client tries again. Then Authorize is asked again about each
	// subscription: one that it refuses ends with revoked (16). Nil means that
	// Authenticate decides, with the upgrade request of the connection, which the server
	// keeps for that.
	Reauthenticate func(ctx context.Context, who Principal, token string) (Principal, error)

	// Authorize decides whether who may do verb on topic, which may be a pattern
	// if verb is VerbSubscribe. It is asked when a client subscribes, publishes or calls, and about
	// each subscription after a new credential. An error refuses it with forbidden (2), or
	// Error.Code. Nil allows everything.
	Authorize func(who Principal, verb Verb, topic string) error

	// OnPublish is called for every message of a client before it is accepted, and before
	// other messages of the same batch are in the log, but not for one whose id is known.
	// If two messages with one id come at the same time, it may be called for both. An error refuses the message with
	// bad_request (1), or Error.Code; the refusal is final. Nil accepts every
	// message. OnPublish may call Server.Publish, but not with ctx and the ID of m.
	OnPublish func(ctx context.Context, who Principal, m Message) error

	// OnCall answers a call of a client. Each runs on a goroutine of its own, at most 256 of them for one
	// connection, with Options.WindowBytes of payloads; a call beyond that is refused with
	// rate_limited (5). ctx ends when the client waits no longer, as far as it has said when, and with the
	// connection. An error refuses the call with bad_request (1), or
	// Error.Code; one that decides nothing refuses it with unavailable (7), and one after the
	// client's time with expired (9). Nothing is kept: a client that calls again after a lost
	// connection is served again. Nil means that the server takes no calls.
	OnCall func(ctx context.Context, who Principal, m Message) (Reply, error)
}

func (p *peer) authenticate(token string) (who Principal, err error) {
	hook := p.server.opt.Hooks.Authenticate
	if hook == nil {
		return Principal{}, nil
	}
	defer recovered(p.log, &err)
	ctx, cancel := context.WithTimeout(p.hooks, authTimeout)
	defer cancel()
	who, err = hook(ctx, p.request.WithContext(ctx), token)
	return who, usable(err)
}

func (p *peer) authorize(verb Verb, topic string) (err error) {
	hook := p.server.opt.Hooks.Authorize
	if hook == nil {
		return nil
	}
	defer recovered(p.log, &err)
	return usable(hook(p.who, verb, topic))
}

func (p *peer) onPublish(m Message) (err error) {
	hook := p.server.opt.Hooks.OnPublish
	if hook == nil {
		return nil
	}
	defer recovered(p.log, &err)
	ctx := context.WithValue(p.hooks, decidingKey{}, messageKey{id: m.ID, who: p.who.ID})
	return usable(hook(ctx, p.who, m))
}

// decidingKey is the key of the value that names the message on which OnPublish
// decides, as a messageKey.
type decidingKey struct{}

// usable returns err after it has called the methods that are called later, so that
// their panics count as those of the hook: a nil *Error is an error that is not nil.
func usable(err error) error {
	var slow interface{ Timeout() bool }
	if err == nil {
		return nil
	}
	_ = err.Error()
	errors.Is(err, context.Canceled)
	if errors.As(err, &slow) {
		slow.Timeout()
	}
	return err
}

// undecided returns the fault that ends the connection if err, the error of a hook,
// is no decision: its context ended, or it ran into a timeout of its own. Such a
// cause passes, so it must not become a final outcome.
func (p *peer) undecided(err error) error {
	var chosen *Error
	var slow interface{ Timeout() bool }
	var network *net.OpError
	var lookup *net.DNSError
	var request *url.Error
	var system syscall.Errno
	switch {
	case p.hooks.Err() != nil:
	case errors.As(err, &chosen):
		return nil
	case errors.Is(err, context.Canceled):
	case errors.As(err, &slow) && slow.Timeout():
	case errors.As(err, &network):
	case errors.As(err, &lookup):
		if lookup.IsNotFound {
			return nil
		}
	case errors.Is(err, net.ErrClosed):
	case errors.As(err, &request) && request.Op != "parse": // of an http.Client: no answer came
	case errors.As(err, &system) && (system.Temporary() || slices.Contains(passing, system)):
	default:
		return nil
	}
	p.log.Warn("a hook could not decide", "error", quote(err.Error()))
	return &fault{code: native.CloseBackendUnavailable, reason: "the server could not decide"}
}

// passing are errors of the system that have nothing to do with a message, besides those
// that it calls temporary itself.
var passing = []syscall.Errno{
	syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTUNREACH,
	syscall.ENOSPC, syscall.EDQUOT, syscall.ENOMEM, syscall.ENOBUFS, syscall.EIO,
}

// recovered turns a panic of a hook or of the log into an error and logs its stack.
// It must be deferred.
func recovered(log *slog.Logger, err *error) {
	if v := recover(); v != nil {
		log.Error("panic in a hook or in the log", "value", quote(fmt.Sprint(v)), "stack", string(debug.Stack()))
		*err = &panicError{v}
	}
}

// errGoexit means that the log has ended its goroutine.
var errGoexit = errors.New("the log called runtime.Goexit, as t.FailNow does; return an error instead")

type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic in a hook or in the log: %v", e.value) }
