package limpet

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// decision is a verdict on a failure with what only the client knows.
type decision struct {
	wire.Verdict
	class  ErrorClass
	err    error // what is wrong, if it has a name
	atCap  bool  // wait as long as the policy ever does
	floor  int   // count at least so many failures
	strike bool  // final when it happens three times in a row

	window time.Duration // after the slot, so wide (docs/protocol.md, section 8)
}

const maxStrikes = 3

// judge decides on a failure: the dialect first, then the tables of HTTP
// statuses and close codes (docs/reconnect.md, sections 2 and 3).
func judge(d wire.Dialect, f *wire.Failure) decision {
	v := d.Verdict(*f)
	dec := byTable(f)
	slot, tooBig := dec.After, dec.TooBig
	if v.Action != wire.ActionDefault {
		dec.Verdict = v
		dec.atCap, dec.strike, dec.floor = false, false, 0
		dec.TooBig = v.TooBig || tooBig // RFC 6455 knows 1009 in every language
	}
	if v.Class != "" {
		dec.class = ErrorClass(v.Class)
	}
	if dec.After = v.After; dec.After == 0 {
		dec.After = slot
	}
	if dec.After == 0 {
		dec.After = f.Retry
	}
	dec.After = min(dec.After, maxRetryAfter)
	return dec
}

func byTable(f *wire.Failure) decision {
	switch f.Stage {
	case wire.StageDial:
		return byDialError(f.Err)
	case wire.StageUpgrade:
		return byStatus(f)
	}
	return byCloseCode(f)
}

func act(a wire.Action, c ErrorClass) decision {
	return decision{Verdict: wire.Verdict{Action: a}, class: c}
}

func byDialError(err error) decision {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		timeout   interface{ Timeout() bool }
		user      *userError
		proxy     *proxyError
	)
	switch {
	case errors.As(err, &user):
		return act(wire.ActionBackOff, ClassUser)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		d := act(wire.ActionBackOff, ClassTLS) // this machine's clock may be wrong
		d.atCap = true
		return d
	case errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid), errors.As(err, &verify):
		return act(wire.ActionStop, ClassTLS)
	case errors.As(err, &record), errors.As(err, &alert), errors.Is(err, http.ErrSchemeMismatch):
		return act(wire.ActionBackOff, ClassTLS)
	case errors.As(err, &dns):
		return act(wire.ActionBackOff, ClassDNS)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL),
		errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETDOWN):
		d := act(wire.ActionBackOff, ClassLocal)
		d.atCap = true
		return d
	case errors.As(err, &proxy) && proxy.status == http.StatusProxyAuthRequired:
		return act(wire.ActionStop, ClassProxy)
	case errors.As(err, &proxy):
		return act(wire.ActionBackOff, ClassProxy)
	case errors.As(err, &timeout) && timeout.Timeout():
		return act(wire.ActionBackOff, ClassTimeout)
	}
	return act(wire.ActionBackOff, ClassDial)
}

// byStatus judges the HTTP answer to the upgrade request.
func byStatus(f *wire.Failure) decision {
	var d decision
	switch s := f.Status; {
	case s == http.StatusSwitchingProtocols:
		// 101, but not a WebSocket handshake: RFC 6455, section 4.1, step 5.
		return act(wire.ActionStop, ClassNotWebSocket)
	case s >= 300 && s < 400:
		d = act(wire.ActionBackOff, ClassNotWebSocket)
		d.atCap, d.err = true, ErrRedirect
	case s < 300:
		d = act(wire.ActionBackOff, ClassNotWebSocket) // a captive portal, or a wrong path
		d.atCap = true
	case s == http.StatusUnauthorized:
		d = act(wire.ActionRefresh, ClassAuth)
	case s == http.StatusForbidden:
		d = act(wire.ActionStop, ClassAuth)
	case s == http.StatusProxyAuthRequired:
		d = act(wire.ActionStop, ClassProxy)
	case s == http.StatusTooManyRequests, s == http.StatusServiceUnavailable:
		d = act(wire.ActionBackOff, ClassOverload)
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusMisdirectedRequest, s >= 500 && s != http.StatusNotImplemented && s != http.StatusHTTPVersionNotSupported:
		d = act(wire.ActionBackOff, ClassHTTP)
	default:
		d = act(wire.ActionStop, ClassHTTP)
	}
	d.After = retryAfter(f.Header)
	return d
}

const maxRetryAfter = 15 * time.Minute

// retryAfter reads X-Limpet-Retry-Ms, else Retry-After (RFC 9110, section
// 10.2.3), whose date counts from the answer's own Date. Rubbish is no slot.
func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.ParseUint(h.Get("X-Limpet-Retry-Ms"), 10, 64); err == nil {
		return time.Duration(min(ms, uint64(maxRetryAfter/time.Millisecond))) * time.Millisecond
	}
	text := strings.TrimSpace(h.Get("Retry-After"))
	if text == "" {
		return 0
	}
	if strings.Trim(text, "0123456789") == "" {
		s, err := strconv.ParseUint(text, 10, 64)
		if err != nil || s > uint64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(s) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	from, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		from = time.Now()
	}
	return max(0, min(at.Sub(from), maxRetryAfter))
}

// byCloseCode judges how an upgraded connection ended.
func byCloseCode(f *wire.Failure) decision {
	var own *wire.CodeError
	var d decision
	switch c := f.Code; {
	case c == 0 && errors.As(f.Err, &own):
		d = act(wire.ActionBackOff, ClassProtocol)
		d.strike = true
	case c == 0 && (errors.Is(f.Err, ErrHeartbeat) || errors.Is(f.Err, ErrStalled)):
		d = act(wire.ActionBackOff, ClassTimeout)
	case c == 1000, c == 1001, c == 1012:
		d = act(wire.ActionSpread, ClassNetwork)
	case c == 1002, c == 1007:
		d = act(wire.ActionBackOff, ClassProtocol)
		d.strike = true
	case c == 1003, c == 1010:
		d = act(wire.ActionStop, ClassProtocol)
	case c == 1008:
		d = act(wire.ActionRefresh, ClassAuth)
	case c == 1009:
		d = act(wire.ActionBackOff, ClassProtocol)
		d.TooBig = true
	case c == 1013:
		d = act(wire.ActionBackOff, ClassOverload)
		d.floor = 3
	default:
		d = act(wire.ActionBackOff, ClassNetwork)
	}
	return d
}

// codeNames gives close codes that have a name of their own to errors.Is.
var codeNames = map[uint16]error{4006: ErrSuperseded, 4007: ErrSessionConflict, 4402: ErrRolledBack}

// cause makes the error of a failure: what was tried, what it means, what the
// peer said, and no URL, since that may hold a secret.
func cause(f *wire.Failure, d decision) *Error {
	e := &Error{Op: f.Stage.String(), Class: d.class, Code: int(f.Code), Detail: peerText(f.Reason), Err: d.err}
	if f.Stage == wire.StageUpgrade {
		e.Code, e.Detail = f.Status, peerText(strings.TrimSpace(string(f.Body)))
	}
	if named := codeNames[f.Code]; named != nil && e.Err == nil {
		e.Err = named
	}
	if e.Err == nil {
		e.Err = withoutURL(f)
	}
	return e
}

func withoutURL(f *wire.Failure) error {
	var ue *url.Error
	var ce *wire.CodeError
	switch {
	case f.Stage == wire.StageUpgrade && f.Status == http.StatusSwitchingProtocols && f.Err != nil:
		return fmt.Errorf("not a WebSocket handshake: %s", peerText(f.Err.Error()))
	case f.Stage == wire.StageUpgrade:
		return fmt.Errorf("server answered %d %s", f.Status, http.StatusText(f.Status))
	case errors.As(f.Err, &ce):
		return ce
	case f.Code != 0:
		return errors.New("peer closed the connection")
	case errors.As(f.Err, &ue):
		return ue.Err
	case f.Err == nil:
		return errors.New("connection ended")
	}
	return f.Err
}

// userError is the failure of a function that the caller gave us.
type userError struct {
	what string
	err  error
}

func (e *userError) Error() string { return e.what + ": " + e.err.Error() }
func (e *userError) Unwrap() error { return e.err }
