package socket

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/fallback"
)

// posts sends what is written to a carrier. Like a socket it takes bytes as long as it has
// room for them; one goroutine at a time sends them, and none while there is nothing to
// send. What comes while a POST is on its way goes with the next one.
type posts struct {
	c      *carrier
	url    *url.URL
	host   string
	header http.Header
	spawn  func(func()) bool

	mu      sync.Mutex // leaf
	waiting []byte     // at most fallback.MaxPost
	sending bool       // a goroutine sends
	closing bool       // and then closes the carrier
	err     error      // final
	late    *time.Timer
	room    chan struct{} // one slot: something has changed for who writes

	// Of the goroutine that sends.
	number uint64 // of the last POST
	size   int    // bytes of one POST: fewer on a slow link
}

const (
	maxTries  = 3                      // of one POST
	tryPause  = 250 * time.Millisecond // after the first try, then twice as long
	postTime  = 4 * time.Second        // that one POST may take; on a slow link they are shorter
	minPost   = 4 << 10
	firstPost = 8 << 10     // the speed of the link is not known yet
	postStep  = 2 << 10     // of a body: one that moves is a sign of progress
	lastWords = time.Second // for what the server still sends after a POST has failed
)

// write returns when all of p waits or was sent.
func (p *posts) write(b []byte) (n int, err error) {
	for {
		took, wait, err := p.put(b[n:])
		if n += took; err != nil || !wait {
			return n, err
		}
		select {
		case <-p.room:
		case <-p.c.ctx.Done():
			return n, p.ended()
		}
	}
}

// put takes as many bytes as there is room for. It reports whether the writer has to wait.
func (p *posts) put(b []byte) (took int, wait bool, err error) {
	p.mu.Lock()
	if p.err != nil {
		defer p.mu.Unlock()
		return 0, false, p.err
	}
	took = min(len(b), fallback.MaxPost-len(p.waiting))
	p.waiting = append(p.waiting, b[:took]...)
	start := len(p.waiting) > 0 && !p.sending
	p.sending = p.sending || start
	wait = took < len(b)
	p.mu.Unlock()
	if start && !p.spawn(p.send) {
		p.send() // the client is ending: this is the close frame
	}
	return took, wait, nil
}

// send sends what waits, until nothing does.
func (p *posts) send() {
	for {
		p.mu.Lock()
		n := min(len(p.waiting), p.size)
		if n == 0 || p.err != nil {
			p.waiting, p.sending = nil, false
			closing := p.closing
			p.mu.Unlock()
			p.wake()
			if closing {
				p.c.Close()
			}
			return
		}
		body := p.waiting[:n:n]
		p.waiting = p.waiting[n:]
		p.mu.Unlock()
		p.wake()
		began := time.Now()
		p.number++
		if err := p.deliver(body); err != nil {
			p.fail(err)
			continue
		}
		p.c.stream.wrote()
		switch took := time.Since(began); {
		case took > postTime:
			p.size = max(p.size/2, minPost)
		case took < postTime/4:
			p.size = min(2*p.size, fallback.MaxPost)
		}
	}
}

// closeSoon closes the carrier once what waits is sent, or can no longer be.
func (p *posts) closeSoon() {
	p.mu.Lock()
	if p.closing = p.sending && p.err == nil; p.closing {
		p.endLate()
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.c.Close()
}

// endLate ends all requests after a while. The caller holds mu.
func (p *posts) endLate() {
	if p.late == nil {
		p.late = time.AfterFunc(lastWords, p.c.cancel)
	}
}

// flush waits until everything is sent, nothing can be any more, or the time is over. The
// writer must have ended, and Close ends the wait.
func (p *posts) flush(within time.Duration) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		p.mu.Lock()
		sending := p.sending && p.err == nil
		p.mu.Unlock()
		if !sending {
			return
		}
		select {
		case <-p.room:
		case <-timer.C:
			return
		}
	}
}

func (p *posts) wake() {
	select {
	case p.room <- struct{}{}:
	default:
	}
}

// deliver makes one POST, again if no answer of the server came: its number tells the
// server whether it has taken the body already.
func (p *posts) deliver(body []byte) error {
	pause := tryPause
	for try := 1; ; try++ {
		again, err := p.try(body)
		if err == nil || !again || try == maxTries {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-p.c.ctx.Done():
			timer.Stop()
			return err
		}
		pause *= 2
	}
}

// try makes one POST once. again means that the next try may succeed.
func (p *posts) try(body []byte) (again bool, err error) {
	ctx, traced, err := p.c.requests.traceIn(p.c.ctx, p.url.String())
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	traced.anyVersion = true
	req := (&http.Request{
		Method: http.MethodPost, URL: p.url, Host: p.host, Header: p.header.Clone(),
		Body: &progress{rest: body, wrote: p.c.stream.wrote}, ContentLength: int64(len(body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	req.Header.Set(fallback.HeaderNumber, strconv.FormatUint(p.number, 10))
	resp, err := p.do(req)
	if err != nil {
		err = traced.explain(err)
		var panicked *Panic
		var fault *TransportError
		return ctx.Err() == nil && !errors.As(err, &panicked) && !errors.As(err, &fault), err
	}
	defer closeBody(resp.Body)
	_, err = io.CopyN(io.Discard, bodyReader{resp.Body}, bodyLimit)
	switch s := resp.StatusCode; {
	case s == http.StatusNoContent:
		return false, nil
	case err != nil && err != io.EOF:
		return true, err
	default:
		refused := &PostError{Status: s, Code: fallback.Code(resp.Header.Get(fallback.HeaderCode))}
		if !refused.Code.Known(s) {
			refused.Code = ""
		}
		again = refused.Code == "" && (s == http.StatusBadGateway || s == http.StatusServiceUnavailable || s == http.StatusGatewayTimeout) ||
			refused.Code == fallback.TooMany
		return again, refused
	}
}

func (p *posts) do(req *http.Request) (resp *http.Response, err error) {
	defer recoverPanic("Options.HTTPClient", &err)
	resp, err = p.c.client.Do(req)
	return resp, checked(withoutURL(err))
}

// fail ends the connection with err, unless it has ended. What the server has still said
// comes first: it explains more than a refused POST.
func (p *posts) fail(err error) error {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
		p.endLate()
	}
	err = p.err
	p.mu.Unlock()
	p.wake()
	return err
}

// failure returns why a POST failed; nil if none has.
func (p *posts) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// ended is why nothing can be written any more.
func (p *posts) ended() error {
	if err := p.failure(); err != nil {
		return err
	}
	return p.c.ctx.Err()
}

// stop makes writes fail.
func (p *posts) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = context.Canceled
	}
	if p.late != nil {
		p.late.Stop()
	}
}

// progress is the body of a POST. Each step that the transport asks for shows that the
// one before it has gone.
type progress struct {
	rest  []byte
	wrote func()
}

func (b *progress) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	b.wrote()
	n := copy(p[:min(len(p), postStep)], b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *progress) Close() error { return nil }

// bodyReader is the body of an answer as the caller's transport wrapped it.
type bodyReader struct{ body io.Reader }

func (b bodyReader) Read(p []byte) (n int, err error) {
	defer recoverPanic(whereBody, &err)
	return b.body.Read(p)
}

// httpURL returns rawURL, which can be parsed, with the scheme of a plain request.
func httpURL(rawURL string) *url.URL {
	u, err := url.Parse(rawURL)
	if err != nil {
		u = new(url.URL) // the GET has failed before
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	}
	return u
}
