package verdict_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

// What the tables decide about an attempt that got no answer (docs/reconnect.md, section 2).
func TestDialErrors(t *testing.T) {
	expired := x509.CertificateInvalidError{Reason: x509.Expired}
	for _, tc := range []struct {
		err    error
		class  limpet.ErrorClass
		action wire.Action
		atCap  bool
	}{
		{socket.ErrSHA1, limpet.ClassUnsupported, wire.ActionStop, false},
		{&socket.RemoteError{Addr: "192.0.2.1"}, limpet.ClassInput, wire.ActionBackOff, true},
		{&fault.User{Option: fault.OptionAuth, Err: syscall.EMFILE}, limpet.ClassUser, wire.ActionBackOff, false},
		{expired, limpet.ClassTLS, wire.ActionBackOff, true},
		{&tls.CertificateVerificationError{Err: expired}, limpet.ClassTLS, wire.ActionBackOff, true},
		{x509.CertificateInvalidError{Reason: x509.TooManyIntermediates}, limpet.ClassTLS, wire.ActionStop, false},
		{&tls.CertificateVerificationError{Err: errors.New("other")}, limpet.ClassTLS, wire.ActionStop, false},
		{x509.UnknownAuthorityError{}, limpet.ClassTLS, wire.ActionStop, false},
		{x509.HostnameError{Certificate: &x509.Certificate{}}, limpet.ClassTLS, wire.ActionStop, false},
		{tls.RecordHeaderError{}, limpet.ClassTLS, wire.ActionBackOff, false},
		{tls.AlertError(40), limpet.ClassTLS, wire.ActionBackOff, false},
		{http.ErrSchemeMismatch, limpet.ClassTLS, wire.ActionBackOff, false},
		{&net.DNSError{IsTimeout: true}, limpet.ClassDNS, wire.ActionBackOff, false},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}, limpet.ClassLocal, wire.ActionBackOff, true},
		{&socket.ProxyError{Status: http.StatusProxyAuthRequired, Err: io.EOF}, limpet.ClassProxy, wire.ActionStop, false},
		{&socket.ProxyError{Status: http.StatusUnauthorized, Err: io.EOF}, limpet.ClassProxy, wire.ActionStop, false},
		{&socket.ProxyError{Status: http.StatusForbidden, Err: io.EOF}, limpet.ClassProxy, wire.ActionBackOff, false},
		{os.ErrDeadlineExceeded, limpet.ClassTimeout, wire.ActionBackOff, false},
		{&socket.TLSError{Err: io.EOF}, limpet.ClassTLS, wire.ActionBackOff, false},
		{&socket.AnswerError{Err: io.EOF}, limpet.ClassNetwork, wire.ActionBackOff, false},
		{&socket.AnswerError{Err: errors.New("malformed HTTP response")}, limpet.ClassNotWebSocket, wire.ActionBackOff, false},
		{syscall.ECONNREFUSED, limpet.ClassDial, wire.ActionBackOff, false},
	} {
		d := verdict.ByTable(&wire.Failure{Stage: wire.StageDial, Err: fmt.Errorf("dial: %w", tc.err)})
		if limpet.ErrorClass(d.Class) != tc.class || d.Action != tc.action || d.AtCap != tc.atCap || !d.ByTable {
			t.Errorf("%T %v: %v, class %q, at the cap %v; want %v, %q, %v", tc.err, tc.err, d.Action, d.Class, d.AtCap, tc.action, tc.class, tc.atCap)
		}
	}
}

// What the tables decide about an answer to the upgrade request.
func TestAnswers(t *testing.T) {
	redirect := fault.NotFollowed("to two locations", "")
	for _, tc := range []struct {
		status int
		err    error
		class  limpet.ErrorClass
		action wire.Action
		atCap  bool
		want   error // in Decision.Err
	}{
		{101, limpet.ErrSubprotocol, limpet.ClassProtocol, wire.ActionStop, false, limpet.ErrSubprotocol},
		{101, socket.ErrConnectionClose, limpet.ClassNotWebSocket, wire.ActionBackOff, true, nil},
		{101, io.EOF, limpet.ClassNotWebSocket, wire.ActionStop, false, nil},
		{200, nil, limpet.ClassNotWebSocket, wire.ActionBackOff, true, nil},
		{303, nil, limpet.ClassNotWebSocket, wire.ActionBackOff, true, limpet.ErrRedirect},
		{303, redirect, limpet.ClassNotWebSocket, wire.ActionBackOff, true, redirect},
		{401, nil, limpet.ClassAuth, wire.ActionRefresh, false, nil},
		{403, nil, limpet.ClassAuth, wire.ActionStop, false, nil},
		{404, nil, limpet.ClassHTTP, wire.ActionStop, false, nil},
		{407, nil, limpet.ClassProxy, wire.ActionStop, false, nil},
		{408, nil, limpet.ClassHTTP, wire.ActionBackOff, false, nil},
		{429, nil, limpet.ClassOverload, wire.ActionBackOff, false, nil},
		{500, nil, limpet.ClassHTTP, wire.ActionBackOff, false, nil},
		{501, nil, limpet.ClassHTTP, wire.ActionStop, false, nil},
		{503, nil, limpet.ClassOverload, wire.ActionBackOff, false, nil},
		{505, nil, limpet.ClassHTTP, wire.ActionStop, false, nil},
	} {
		d := verdict.ByTable(&wire.Failure{Stage: wire.StageUpgrade, Status: tc.status, Err: tc.err})
		if limpet.ErrorClass(d.Class) != tc.class || d.Action != tc.action || d.AtCap != tc.atCap || d.Err != tc.want {
			t.Errorf("%d, %v: %v, class %q, at the cap %v, error %v; want %v, %q, %v, %v", tc.status, tc.err, d.Action, d.Class, d.AtCap, d.Err, tc.action, tc.class, tc.atCap, tc.want)
		}
	}
}

// What the tables decide about the end of a connection (docs/reconnect.md, section 3).
func TestCloseCodes(t *testing.T) {
	for _, tc := range []struct {
		code   uint16
		err    error
		class  limpet.ErrorClass
		action wire.Action
	}{
		{1002, &fault.User{Option: fault.OptionDialect, Err: io.EOF}, limpet.ClassUser, wire.ActionBackOff},
		{0, &wire.CodeError{Code: 1002}, limpet.ClassProtocol, wire.ActionBackOff},
		{0, &frame.CloseCodeError{Code: 999}, limpet.ClassProtocol, wire.ActionBackOff},
		{0, limpet.ErrHeartbeat, limpet.ClassTimeout, wire.ActionBackOff},
		{0, limpet.ErrStalled, limpet.ClassTimeout, wire.ActionBackOff},
		{0, io.EOF, limpet.ClassNetwork, wire.ActionBackOff},
		{1000, nil, limpet.ClassNetwork, wire.ActionSpread},
		{1001, nil, limpet.ClassNetwork, wire.ActionSpread},
		{1002, nil, limpet.ClassProtocol, wire.ActionBackOff},
		{1003, nil, limpet.ClassProtocol, wire.ActionStop},
		{1007, nil, limpet.ClassProtocol, wire.ActionBackOff},
		{1008, nil, limpet.ClassAuth, wire.ActionRefresh},
		{1009, nil, limpet.ClassProtocol, wire.ActionBackOff},
		{1010, nil, limpet.ClassProtocol, wire.ActionStop},
		{1011, nil, limpet.ClassNetwork, wire.ActionBackOff},
		{1012, nil, limpet.ClassNetwork, wire.ActionSpread},
		{1013, nil, limpet.ClassOverload, wire.ActionBackOff},
		{4000, nil, limpet.ClassNetwork, wire.ActionBackOff},
	} {
		d := verdict.ByTable(&wire.Failure{Stage: wire.StageOpen, Code: tc.code, Err: tc.err})
		if limpet.ErrorClass(d.Class) != tc.class || d.Action != tc.action || d.TooBig != (tc.code == 1009) || (d.MinFailures == 3) != (tc.code == 1013) {
			t.Errorf("%d, %v: %+v; want %v, class %q", tc.code, tc.err, d, tc.action, tc.class)
		}
	}
}

// Every class that the tables return is one of package limpet, which counts by class.
func TestClassesAreKnown(t *testing.T) {
	known := maps.Collect(limpet.ClassCounts{}.All())
	for _, stage := range []wire.Stage{wire.StageUpgrade, wire.StageHandshake, wire.StageOpen} {
		for n := range 5000 {
			d := verdict.ByTable(&wire.Failure{Stage: stage, Status: n, Code: uint16(n)})
			if _, ok := known[limpet.ErrorClass(d.Class)]; !ok {
				t.Errorf("%v, %d: unknown class %q", stage, n, d.Class)
			}
		}
	}
}

// The dialect decides where it has an opinion.
func TestDialectDecides(t *testing.T) {
	f := &wire.Failure{Stage: wire.StageOpen, Code: 1013, CloseCode: 1009, Retry: time.Minute}
	failed := errors.New("panic")
	for _, tc := range []struct {
		name    string
		opinion wire.Verdict
		want    wire.Verdict
		byTable bool
	}{
		{"no opinion", wire.Verdict{}, wire.Verdict{Action: wire.ActionBackOff, Class: "overload", After: time.Minute, TooBig: true}, true},
		{"a class", wire.Verdict{Class: "other"}, wire.Verdict{Action: wire.ActionBackOff, Class: "other", After: time.Minute, TooBig: true}, true},
		{"an action", wire.Verdict{Action: wire.ActionStop}, wire.Verdict{Action: wire.ActionStop, Class: "overload", After: time.Minute, TooBig: true}, false},
		{"a slot", wire.Verdict{Action: wire.ActionSpread, After: time.Hour}, wire.Verdict{Action: wire.ActionSpread, Class: "overload", After: 15 * time.Minute, TooBig: true}, false},
	} {
		d := verdict.Decide(f, func(wire.Failure) (wire.Verdict, error) { return tc.opinion, failed })
		if d.Verdict != tc.want || d.ByTable != tc.byTable || (d.MinFailures > 0) != tc.byTable || d.Failed != failed || !d.NamesTime {
			t.Errorf("%s: %+v, want %+v", tc.name, d, tc.want)
		}
	}
}

// A dialect that knows what to do about a status need not read Retry-After.
func TestVerdictKeepsTheSlotOfTheServer(t *testing.T) {
	f := &wire.Failure{Stage: wire.StageUpgrade, Status: 503, Header: http.Header{"Retry-After": {"90"}}}
	for action := wire.ActionDefault; action <= wire.ActionNewSession; action++ {
		dialect := func(wire.Failure) (wire.Verdict, error) { return wire.Verdict{Action: action}, nil }
		if d := verdict.Decide(f, dialect); d.After != 90*time.Second {
			t.Errorf("%v: waits %v, the server wants 90 s", action, d.After)
		}
	}
}

// After an error made with Permanent there is nothing to decide.
func TestPermanentIsFixed(t *testing.T) {
	err := &fault.User{Option: fault.OptionAuth, Err: &fault.Permanent{Err: io.EOF}}
	d := verdict.Decide(&wire.Failure{Stage: wire.StageDial, Err: err}, func(wire.Failure) (wire.Verdict, error) {
		t.Error("the dialect was asked")
		return wire.Verdict{}, nil
	})
	if d.Action != wire.ActionStop || d.Class != string(limpet.ClassAuth) || !d.Fixed || d.ByTable {
		t.Errorf("%+v", d)
	}
}

// The caller changes what it has an opinion on, and cannot undercut the server's slot.
func TestOverruled(t *testing.T) {
	d := verdict.ByTable(&wire.Failure{Stage: wire.StageUpgrade, Status: http.StatusOK})
	d.After = time.Minute
	would := d
	would.Spread = time.Second
	for _, same := range []wire.Verdict{{}, would.Verdict, {After: time.Second}} {
		if got := d.Overruled(same, would); got != d {
			t.Errorf("%+v changed the decision to %+v", same, got)
		}
	}
	got := d.Overruled(wire.Verdict{Class: "other"}, would)
	if got.ByTable || !got.AtCap || got.Class != "other" || got.After != time.Minute || got.Action != would.Action || got.Spread != time.Second {
		t.Errorf("with another class: %+v", got)
	}
	got = d.Overruled(wire.Verdict{Action: wire.ActionStop, After: time.Hour}, would)
	if got.ByTable || got.AtCap || got.Class != would.Class || got.After != time.Hour || got.Action != wire.ActionStop {
		t.Errorf("with another action: %+v", got)
	}
}

// A dialect makes no slot shorter that the server has named.
func TestDialectShortensNoSlot(t *testing.T) {
	f := &wire.Failure{Stage: wire.StageUpgrade, Status: 503, Header: http.Header{"Retry-After": {"60"}}}
	for after, want := range map[time.Duration]time.Duration{0: time.Minute, time.Second: time.Minute, 2 * time.Minute: 2 * time.Minute, time.Hour: 15 * time.Minute} {
		d := verdict.Decide(f, func(wire.Failure) (wire.Verdict, error) {
			return wire.Verdict{Action: wire.ActionBackOff, After: after}, nil
		})
		if d.After != want {
			t.Errorf("%v of the dialect: %v, want %v", after, d.After, want)
		}
	}
}
