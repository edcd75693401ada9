// Package ticket fetches tickets: credentials for one connection, which a server gives out
// over HTTP.
package ticket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

// Options describe where tickets come from.
type Options struct {
	Client        *http.Client
	URL           string
	AllowInsecure bool
	Member        string // of the answer, with dots; default "ticket"
	Parameter     string // of the query; default the last name in Member
}

// Source fetches tickets. It is safe for concurrent use.
type Source struct {
	options Options
	dials   atomic.Int32
}

// New returns a Source, or what is wrong with o.
func New(o Options) (*Source, error) {
	if o.Member == "" {
		o.Member = "ticket"
	}
	names := strings.Split(o.Member, ".")
	if o.Parameter == "" {
		o.Parameter = names[len(names)-1]
	}
	u, err := url.Parse(o.URL)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return nil, errors.New("TicketFrom: the URL must be https://host/path")
	case u.User != nil:
		return nil, errors.New("TicketFrom: user information does not belong in a URL; use TicketOptions.Header")
	case u.Scheme == "http" && !o.AllowInsecure && !socket.Loopback(u.Hostname()):
		return nil, fmt.Errorf("TicketFrom: http:// to %s would be sent unencrypted; use https:// or set TicketOptions.AllowInsecure", u.Hostname())
	}
	for _, name := range names {
		if name == "" {
			return nil, fmt.Errorf("TicketFrom: TicketOptions.Member is %q; write names with single dots between them", o.Member)
		}
	}
	return &Source{options: o}, nil
}

// Fetch returns the ticket as a query parameter. A refusal is a *wire.StatusError. No
// error holds anything of the answer's body.
func (s *Source) Fetch(ctx context.Context, h http.Header) (url.Values, error) {
	if err := headers.Check(h); err != nil {
		return nil, fmt.Errorf("the header of the request: %w", err)
	}
	h = h.Clone()
	if h == nil {
		h = http.Header{}
	}
	if h.Get("Accept") == "" {
		h.Set("Accept", "application/json")
	}
	requests := socket.NewRequests(ctx, s.options.Client, s.options.AllowInsecure, &s.dials)
	defer requests.End()
	answer, err := requests.Step(&wire.Request{Method: http.MethodPost, URL: s.options.URL, Header: h})
	var withURL *url.Error
	switch {
	case errors.As(err, &withURL):
		return nil, withURL.Err
	case err != nil:
		return nil, err
	case answer.Status < 200 || answer.Status > 299:
		return nil, &wire.StatusError{Status: answer.Status, Header: timesOf(answer.Header)}
	}
	text, err := member(answer.Body, s.options.Member)
	if err != nil {
		return nil, err
	}
	return url.Values{s.options.Parameter: {text}}, nil
}

// timesOf returns the headers that say when to come back.
func timesOf(h http.Header) http.Header {
	times := http.Header{}
	for _, name := range []string{"Retry-After", "X-Limpet-Retry-Ms", "Date"} {
		if v := h.Get(name); v != "" {
			times.Set(name, v)
		}
	}
	return times
}

// member returns the text at path in a JSON object.
func member(body []byte, path string) (text string, err error) {
	for _, name := range strings.Split(path, ".") {
		var object map[string]json.RawMessage
		if json.Unmarshal(body, &object) != nil {
			return "", fmt.Errorf("the answer has no JSON object with %q; check the URL and TicketOptions.Member", path)
		}
		body = object[name]
	}
	if !bytes.HasPrefix(body, []byte{'"'}) || json.Unmarshal(body, &text) != nil || text == "" {
		return "", fmt.Errorf("the answer has no text at %q; check the URL and TicketOptions.Member", path)
	}
	return text, nil
}
