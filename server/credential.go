package server

import (
	"context"
	"errors"
	"time"

	"github.com/limpet-go/limpet/wire/native"
)

// asksAgain reports whether Authenticate decides on a new credential.
func (p *peer) asksAgain() bool {
	h := &p.server.opt.Hooks
	return h.Authenticate != nil && h.Reauthenticate == nil
}

// reauthenticate decides on a new credential.
func (p *peer) reauthenticate(token string) (who Principal, err error) {
	hook := p.server.opt.Hooks.Reauthenticate
	if hook == nil {
		return p.authenticate(token)
	}
	defer recovered(p.log, &err)
	ctx, cancel := context.WithTimeout(p.hooks, authTimeout)
	defer cancel()
	who, err = hook(ctx, p.who, token)
	return who, usable(err)
}

// refresh handles a new credential (docs/protocol.md, section 8). Subscriptions that are no
// longer permitted end before the client has the answer.
func (p *peer) refresh(token string) error {
	p.mu.Lock()
	p.needBy, p.asking = time.Time{}, false // this is it
	p.mu.Unlock()
	who, err := p.reauthenticate(token)
	switch {
	case err != nil:
		code, fault := p.notRefreshed(err)
		if fault == nil {
			p.send(native.Frame{Type: native.TypeAuth, Auth: &native.Auth{Code: code}})
		}
		return fault
	case who.ID != p.who.ID:
		p.log.Warn("a new credential is of another principal")
		return &fault{code: native.CloseAuthInvalid, reason: "the credential is of another principal"}
	}
	p.who = who
	for ch, topic := range p.live {
		code, why, retry := p.maySubscribe(topic, native.CodeRevoked)
		if p.ended() {
			return nil
		}
		if code == 0 {
			continue
		}
		delete(p.live, ch)
		p.post(order{kind: orderUnsubscribe, credit: native.ChCredit{Ch: ch}})
		p.send(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: ch, Code: code, Msg: cut(why, native.MaxReason), Retry: wholeMillis(retry)}})
	}
	answer := &native.Auth{}
	if !who.Expires.IsZero() {
		answer.Exp = millisUntil(who.Expires)
	}
	p.log.Debug("new credential", "exp", answer.Exp)
	p.post(order{kind: orderExpires, expires: who.Expires, frame: native.Frame{Type: native.TypeAuth, Auth: answer}})
	p.mu.Lock()
	p.asking = !p.needBy.IsZero() // the program has asked again since this one came
	p.mu.Unlock()
	p.poke()
	return nil
}

// notRefreshed returns the code for a new credential about which nothing was decided, or
// the fault that ends the connection because it was refused.
func (p *peer) notRefreshed(err error) (code uint64, ends error) {
	var panicked *panicError
	var chosen *Error
	switch {
	case errors.As(err, &panicked):
		return native.CodeInternal, nil
	case errors.As(err, &chosen) && (chosen.Code == native.CodeRateLimited || chosen.Code == native.CodeUnavailable || chosen.Code == native.CodeInternal):
		return chosen.Code, nil
	case p.undecided(err) != nil:
		return native.CodeUnavailable, nil
	}
	p.server.stats.unauthenticated.Add(1)
	return 0, refusal(err)
}

// maySubscribe returns 0 if the client may subscribe to topic, otherwise how it is refused:
// with the code refused, if Authorize names none.
func (p *peer) maySubscribe(topic string, refused uint64) (code uint64, why string, retry time.Duration) {
	err := p.authorize(VerbSubscribe, topic)
	switch {
	case err == nil:
		return 0, "", 0
	case p.undecided(err) != nil:
		return native.CodeUnavailable, "the server could not decide", hookRetry
	}
	return codeOf(err, refused)
}

// millisUntil returns the time until at for a frame, in which 0 means that there is none.
func millisUntil(at time.Time) uint64 { return uint64(max(time.Until(at).Milliseconds(), 1)) }

// Reauthenticate asks the clients of a principal for a new credential, for example because what
// they may do has changed, and returns how many connections there are. One that has sent none
// within the given time, of at least a millisecond, is closed with 4100: its client comes back
// with a new credential. A client that cannot renew its credential sends none. Reauthenticate does
// not block.
func (s *Server) Reauthenticate(principal string, within time.Duration) (connections int) {
	s.mu.Lock()
	var asked []*peer
	for p := range s.peers {
		if id := p.principal.Load(); id != nil && *id == principal {
			asked = append(asked, p)
		}
	}
	s.mu.Unlock()
	for _, p := range asked {
		p.askForCredential(max(within, time.Millisecond))
	}
	return len(asked)
}

// askForCredential makes write send auth{need}.
func (p *peer) askForCredential(within time.Duration) {
	p.mu.Lock()
	p.needBy, p.asking = time.Now().Add(within), true
	p.mu.Unlock()
	p.poke()
}

// needs asks for a new credential.
func (w *writer) needs() error {
	if w.session == nil {
		return nil // WELCOME comes first
	}
	p := w.p
	p.mu.Lock()
	by, asking := p.needBy, p.asking
	p.asking = false
	p.mu.Unlock()
	if !asking {
		return nil
	}
	if w.expires.IsZero() || by.Before(w.expires) {
		w.expires = by
	}
	return w.put(&native.Frame{Type: native.TypeAuth, Auth: &native.Auth{Need: millisUntil(by)}})
}
