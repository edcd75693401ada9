package verdict

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"slices"
	"syscall"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

// ByTable returns what the tables decide, without the dialect. The close codes of limpet.v1
// itself are in wire/native/verdict.go. Finality.Weigh says which of these failures are final.
func ByTable(f *wire.Failure) (d Decision) {
	switch f.Stage {
	case wire.StageDial:
		d = decideByDialError(f.Err)
	case wire.StageUpgrade:
		d = decideByStatus(f)
	default:
		d = decideByCloseCode(f)
	}
	d.ByTable = true
	return d
}

func newDecision(a wire.Action, class string) Decision {
	return Decision{Verdict: wire.Verdict{Action: a, Class: class}}
}

func decideByDialError(err error) Decision {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		timeout   interface{ Timeout() bool }
		user      *fault.User
		proxy     *socket.ProxyError
		remote    *socket.RemoteError
		handshake *socket.TLSError
		answer    *socket.AnswerError
	)
	switch {
	case errors.Is(err, socket.ErrSHA1):
		d := newDecision(wire.ActionStop, classUnsupported)
		d.lasting = true
		return d
	case errors.As(err, &remote):
		d := newDecision(wire.ActionBackOff, classInput) // the name may soon have another address
		d.AtCap = true
		return d
	case errors.As(err, &user):
		return newDecision(wire.ActionBackOff, classUser)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		d := newDecision(wire.ActionBackOff, classTLS) // this machine's clock may be wrong
		d.AtCap = true
		return d
	case errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid), errors.As(err, &verify):
		return newDecision(wire.ActionStop, classTLS)
	case errors.As(err, &record), errors.As(err, &alert), errors.Is(err, http.ErrSchemeMismatch):
		return newDecision(wire.ActionBackOff, classTLS)
	case errors.As(err, &dns):
		return newDecision(wire.ActionBackOff, classDNS)
	case slices.ContainsFunc(localFaults, func(local error) bool { return errors.Is(err, local) }):
		d := newDecision(wire.ActionBackOff, classLocal)
		d.AtCap = true
		return d
	case errors.As(err, &proxy):
		d := newDecision(wire.ActionBackOff, classProxy)
		if proxy.Status == http.StatusProxyAuthRequired || proxy.Status == http.StatusUnauthorized { // tinyproxy sends the second one
			d.Action = wire.ActionStop
		}
		d.After, d.NamesTime = headers.RetryAfter(proxy.Header)
		return d
	case errors.As(err, &timeout) && timeout.Timeout():
		return newDecision(wire.ActionBackOff, classTimeout)
	case errors.As(err, &handshake):
		return newDecision(wire.ActionBackOff, classTLS)
	case errors.As(err, &answer) && answer.Broken():
		return newDecision(wire.ActionBackOff, classNetwork)
	case errors.As(err, &answer):
		return newDecision(wire.ActionBackOff, classNotWebSocket)
	}
	return newDecision(wire.ActionBackOff, classDial)
}

// localFaults are faults of this machine.
var localFaults = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, // no room
	syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAFNOSUPPORT, // no address
	syscall.EACCES, syscall.EPERM, // a firewall or a sandbox
	syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, // no route
}

// decideByStatus decides by the HTTP answer to the upgrade request.
func decideByStatus(f *wire.Failure) Decision {
	var d Decision
	switch s := f.Status; {
	case errors.Is(f.Err, fault.ErrSubprotocol):
		d = newDecision(wire.ActionStop, classProtocol)
		d.Err = f.Err
		return d
	case errors.Is(f.Err, socket.ErrConnectionClose): // of a proxy in between: it may pass
		d = newDecision(wire.ActionBackOff, classNotWebSocket)
		d.AtCap = true
		return d
	case s == http.StatusSwitchingProtocols:
		// 101, but not a WebSocket handshake: RFC 6455, section 4.1, step 5.
		return newDecision(wire.ActionStop, classNotWebSocket)
	case s >= 300 && s < 400:
		d = newDecision(wire.ActionBackOff, classNotWebSocket)
		d.AtCap, d.Err = true, redirectOf(f)
	case s < 300:
		d = newDecision(wire.ActionBackOff, classNotWebSocket) // a captive portal, or a wrong path
		d.AtCap = true
	case s == http.StatusUnauthorized:
		d = newDecision(wire.ActionRefresh, classAuth)
	case s == http.StatusForbidden:
		d = newDecision(wire.ActionStop, classAuth)
	case s == http.StatusProxyAuthRequired:
		d = newDecision(wire.ActionStop, classProxy)
	case s == http.StatusTooManyRequests, s == http.StatusServiceUnavailable:
		d = newDecision(wire.ActionBackOff, classOverload)
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusMisdirectedRequest, s >= 500 && s != http.StatusNotImplemented && s != http.StatusHTTPVersionNotSupported:
		d = newDecision(wire.ActionBackOff, classHTTP)
	default:
		d = newDecision(wire.ActionStop, classHTTP)
	}
	d.After, d.NamesTime = headers.RetryAfter(f.Header)
	return d
}

// decideByCloseCode decides by how an upgraded connection ended.
func decideByCloseCode(f *wire.Failure) Decision {
	var detected *wire.CodeError // a violation that this side found
	var panicked *fault.User     // of the dialect
	_, _, unusual := socket.UnusualCode(f.Err)
	var d Decision
	switch c := f.Code; {
	case errors.As(f.Err, &panicked):
		d = newDecision(wire.ActionBackOff, classUser)
	case c == 0 && unusual: // the server closes, with a wrong number
		d = newDecision(wire.ActionBackOff, classProtocol)
	case c == 0 && errors.As(f.Err, &detected):
		d = newDecision(wire.ActionBackOff, classProtocol)
		d.isViolation = true
	case c == 0 && (errors.Is(f.Err, fault.ErrHeartbeat) || errors.Is(f.Err, fault.ErrStalled)):
		d = newDecision(wire.ActionBackOff, classTimeout)
	case c == 1000, c == 1001, c == 1012:
		d = newDecision(wire.ActionSpread, classNetwork)
	case c == 1002, c == 1007:
		d = newDecision(wire.ActionBackOff, classProtocol)
		d.isViolation = true
	case c == 1003, c == 1010:
		d = newDecision(wire.ActionStop, classProtocol)
		d.lasting = true
	case c == 1008 && ComplaintIn(f.Reason) == SentMuch:
		d = newDecision(wire.ActionBackOff, classOverload)
	case c == 1008:
		d = newDecision(wire.ActionRefresh, classAuth)
	case c == 1009:
		d = newDecision(wire.ActionBackOff, classProtocol)
	case c == 1013:
		d = newDecision(wire.ActionBackOff, classOverload)
		d.MinFailures = 3
	default:
		d = newDecision(wire.ActionBackOff, classNetwork)
	}
	d.TooBig = f.Code == 1009 || f.CloseCode == 1009
	return d
}

// redirectOf returns the error of an answer 3xx.
func redirectOf(f *wire.Failure) error {
	if known := (*fault.Redirect)(nil); errors.As(f.Err, &known) {
		return known
	}
	return fault.ErrRedirect
}
