package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/raw"
)

// streamPeer is a server that notes every WebSocket frame of the client, answers pings, and
// puts messages together.
type streamPeer struct {
	host *limpettest.Host

	mu       sync.Mutex
	frames   []string // "1 text 5", "1 cont 3 fin", "1 ping": on connection 1
	messages []string // "text hello"
	conns    []net.Conn
	deaf     bool // it reads nothing more
	wake     chan struct{}
}

func newStreamPeer(t *testing.T) *streamPeer { return newStreamPeerBehind(t, nil) }

// newStreamPeerBehind is newStreamPeer on a network with options.
func newStreamPeerBehind(t *testing.T, o *limpettest.NetworkOptions) *streamPeer {
	p := &streamPeer{wake: make(chan struct{})}
	p.host = limpettest.NewHandler(t, rawServer(p.talk), &limpettest.HostOptions{Network: o})
	t.Cleanup(func() { close(p.wake) })
	return p
}

var opNames = map[byte]string{0: "cont", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}

func (p *streamPeer) talk(nc net.Conn) {
	p.mu.Lock()
	p.conns = append(p.conns, nc)
	number := len(p.conns)
	p.mu.Unlock()
	message := ""
	for r := bufio.NewReader(nc); ; {
		p.mu.Lock()
		deaf := p.deaf
		p.mu.Unlock()
		if deaf {
			<-p.wake
			return
		}
		head, err := r.Peek(1)
		if err != nil {
			return
		}
		fin := head[0]&0x80 != 0
		op, text, err := maskedFrame(r)
		if err != nil {
			return
		}
		note := fmt.Sprint(number, " ", opNames[op])
		if op < 8 {
			note += fmt.Sprint(" ", len(text))
		}
		if op == 8 && len(text) > 1 {
			note += fmt.Sprint(" ", int(text[0])<<8|int(text[1]))
		}
		if fin && op < 8 {
			note += " fin"
		}
		p.mu.Lock()
		p.frames = append(p.frames, note)
		if op < 8 {
			if op > 0 {
				message = opNames[op] + " "
			}
			if message += text; fin {
				p.messages = append(p.messages, message)
			}
		}
		p.mu.Unlock()
		switch op {
		case 8:
			nc.Write(rawFrame(0x88, text))
			return
		case 9:
			nc.Write(rawFrame(0x8a, text))
		}
	}
}

// say sends a frame on the latest connection.
func (p *streamPeer) say(first byte, text string) {
	p.mu.Lock()
	nc := p.conns[len(p.conns)-1]
	p.mu.Unlock()
	nc.Write(rawFrame(first, text))
}

func (p *streamPeer) stopReading() {
	p.mu.Lock()
	p.deaf = true
	p.mu.Unlock()
}

func (p *streamPeer) seen() (frames, messages []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.frames...), append([]string(nil), p.messages...)
}

// data are the frames without those of WebSocket pings and pongs.
func (p *streamPeer) data() string {
	frames, _ := p.seen()
	var data []string
	for _, f := range frames {
		if !strings.HasSuffix(f, "ping") && !strings.HasSuffix(f, "pong") {
			data = append(data, f)
		}
	}
	return strings.Join(data, ", ")
}

// client returns a client that is ready.
func (p *streamPeer) client(t *testing.T, o raw.Options, co limpet.Options) *limpet.Client {
	t.Helper()
	co.HTTPClient, co.Dialect = p.host.HTTPClient(), raw.New(o)
	c, err := limpet.Dial(context.Background(), p.host.URL(), options(&co))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// source is a reader that returns what the test gives, as it gives it.
type source struct {
	given chan func(p []byte) (int, error)
	calls chan struct{} // a call of Read waits for what the test gives
}

func newSource() *source {
	return &source{given: make(chan func(p []byte) (int, error), 100), calls: make(chan struct{}, 100)}
}

func (s *source) Read(p []byte) (int, error) {
	s.calls <- struct{}{}
	f, ok := <-s.given
	if !ok {
		return 0, io.EOF
	}
	return f(p)
}

func (s *source) give(text string) {
	s.given <- func(p []byte) (int, error) { return copy(p, text), nil }
}

func (s *source) end() { close(s.given) }

// streamCall is a call of SendStream in progress.
type streamCall struct {
	done chan struct{}
	ack  limpet.Ack
	err  error
}

func sendStream(ctx context.Context, c *limpet.Client, r io.Reader, o *limpet.PublishOptions) *streamCall {
	call := &streamCall{done: make(chan struct{})}
	go func() {
		defer close(call.done)
		call.ack, call.err = c.SendStream(ctx, "*", r, o)
	}()
	return call
}

// running fails the test unless the call has not returned.
func (s *streamCall) running(t *testing.T, when string) {
	t.Helper()
	select {
	case <-s.done:
		t.Errorf("%s: SendStream has returned %v, %v", when, s.ack.Outcome, s.err)
	default:
	}
}

// notSent fails the test unless nothing was sent and the error is one of want and says text.
func (s *streamCall) notSent(t *testing.T, when string, want error, text string) {
	t.Helper()
	<-s.done
	if s.ack.Outcome != limpet.Pending && s.ack.Outcome != limpet.Rejected || !limpet.SafeToRetry(s.err) || want != nil && !errors.Is(s.err, want) || !strings.Contains(s.err.Error(), text) {
		t.Errorf("%s: %+v, %v (safe to retry: %v), want %v", when, s.ack, s.err, limpet.SafeToRetry(s.err), want)
	}
}

// unknown fails the test unless the outcome is Unknown because of want.
func (s *streamCall) unknown(t *testing.T, when string, want error, text string) {
	t.Helper()
	<-s.done
	if s.ack.Outcome != limpet.Unknown || !errors.Is(s.err, limpet.ErrOutcomeUnknown) || limpet.SafeToRetry(s.err) || want != nil && !errors.Is(s.err, want) || !strings.Contains(s.err.Error(), text) {
		t.Errorf("%s: %+v, %v (safe to retry: %v), want %v", when, s.ack, s.err, limpet.SafeToRetry(s.err), want)
	}
}

// written fails the test unless the outcome is Written.
func (s *streamCall) written(t *testing.T, when string) {
	t.Helper()
	<-s.done
	if s.err != nil || s.ack.Outcome != limpet.Written {
		t.Errorf("%s: %+v, %v", when, s.ack, s.err)
	}
}
