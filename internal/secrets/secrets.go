// Package secrets removes credentials from text that others wrote.
package secrets

import (
	"bytes"
	"encoding/base64"
	"errors"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Set holds the credentials that a client sends. They must not come back in
// what others say: the peer, a proxy, net/http.
type Set struct {
	mu       sync.Mutex
	fixed    []secret // of Options and of the URL
	earlier  []secret // of the attempt before
	current  []secret // of this attempt
	recently []secret // tokens of subscriptions since then
	keys     []secret // of the session
	renewed  []secret // tokens for the connection since then
	inUse    uint64   // the connection that this attempt is to replace; 0: none
	open     []secret // of the attempt that made it
}

// secret is one credential. Its forms are made when a text may hold one of them, which is
// rare: a process may have many clients.
type secret struct {
	value  string
	key    bool   // of a session: bytes, which are sent in base64
	starts string // the first minSecret bytes of each form, one after the other
}

func newSecret(value string, key bool) secret {
	s := secret{value: value[:min(len(value), maxStart)], key: key}
	var buf [16]string
	for _, form := range s.appendForms(buf[:0]) {
		if len(form) >= minSecret && !s.mayBeIn(form[:minSecret]) {
			s.starts += form[:minSecret]
		}
	}
	s.value = value
	return s
}

// maxStart is a length of which base64 has no padding, and a form at least minSecret bytes
// even if it ends within a character.
const maxStart = 9

// mayBeIn reports whether text may hold a form of the secret, or the beginning of one at
// its end.
func (s secret) mayBeIn(text string) bool {
	for i := 0; i < len(s.starts); i += minSecret {
		if strings.Contains(text, s.starts[i:i+minSecret]) {
			return true
		}
	}
	return false
}

// appendForms appends the secret as it is and as net/http would quote or escape it.
// Hide knows what others do.
func (s secret) appendForms(forms []string) []string {
	values := []string{s.value}
	if s.key {
		b := []byte(s.value)
		values = append(values, base64.StdEncoding.EncodeToString(b), base64.RawStdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b))
	}
	first := len(forms)
	for _, v := range values {
		for _, form := range []string{v, url.QueryEscape(v), url.PathEscape(v), strings.Trim(strconv.Quote(v), `"`)} {
			if !slices.Contains(forms[first:], form) {
				forms = append(forms, form)
			}
		}
	}
	return forms
}

const (
	minSecret  = 4   // bytes: to hide less would make texts unreadable
	minHead    = 16  // bytes at the beginning of a secret of twice the length that are not shown alone
	minTicket  = 16  // bytes of a part of a path: a shorter one is a word
	maxSecrets = 256 // that are remembered of each kind
	maxKeys    = 16  // of sessions
)

// Begin forgets the credentials of the attempt before the last one. An answer to the last one
// may still come. While connection inUse is there, which is not 0, those that it has got are
// kept.
func (s *Set) Begin(rawURL string, h http.Header, inUse uint64) {
	s.mu.Lock()
	if inUse == 0 {
		s.earlier, s.open = slices.Concat(s.current, s.recently, s.renewed, s.open), nil
		s.recently, s.renewed = nil, nil
	} else {
		if inUse != s.inUse { // the last attempt made it
			s.open = slices.Concat(s.fixed, s.current)
		}
		s.earlier = s.current
	}
	s.inUse, s.current, s.fixed = inUse, nil, nil
	s.mu.Unlock()
	s.AddRequest(rawURL, h)
	s.mu.Lock()
	s.fixed, s.current = s.current, nil
	s.mu.Unlock()
}

// AddKey adds the key of a session, which may outlive many attempts.
func (s *Set) AddKey(key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = remember(s.keys, newSecret(string(key), true), maxKeys)
}

// remember appends v to known, of which it keeps the last ones, at most most.
func remember(known []secret, v secret, most int) []secret {
	if len(v.value) < minSecret || slices.Contains(known, v) {
		return known
	}
	return append(known[max(0, len(known)+1-most):], v)
}

// AddRequest adds what is secret in a request: the values of its headers and of its
// query, a password in its URL, and long parts of its path, which may be tickets.
func (s *Set) AddRequest(rawURL string, h http.Header) {
	for _, values := range h {
		for _, v := range values {
			_, word, _ := strings.Cut(v, " ") // of "Bearer word"
			s.Add(v, word)
			if pair, err := base64.StdEncoding.DecodeString(word); err == nil {
				_, password, _ := strings.Cut(string(pair), ":") // of "Basic word"
				s.Add(password)
			}
		}
	}
	for _, line := range h["Cookie"] {
		for _, cookie := range strings.Split(line, ";") {
			_, value, _ := strings.Cut(cookie, "=")
			s.Add(value)
		}
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return
	}
	s.Add(u.RawQuery)
	for pair := range strings.SplitSeq(u.RawQuery, "&") { // not u.Query, which lacks what it cannot read
		_, value, _ := strings.Cut(pair, "=")
		plain, _ := url.QueryUnescape(value)
		s.Add(value, plain)
	}
	if password, ok := u.User.Password(); ok { // of a dialect's URL; net/http sends it as Basic
		s.Add(password, base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	for _, part := range strings.Split(u.Path, "/") {
		if len(part) >= minTicket {
			s.Add(part)
		}
	}
}

// AddSubprotocols adds names of subprotocols that hold a credential: as a whole, and their
// long parts between dots, as they are and decoded.
func (s *Set) AddSubprotocols(names []string) {
	s.Add(names...)
	for _, name := range names {
		for _, part := range strings.Split(name, ".") {
			if len(part) >= minTicket {
				plain, _ := base64.RawURLEncoding.DecodeString(part)
				s.Add(part, string(plain))
			}
		}
	}
}

// AddCookies adds the cookies that jar has for a request to rawURL.
func (s *Set) AddCookies(jar http.CookieJar, rawURL string) {
	u, err := url.Parse(rawURL)
	if err != nil || jar == nil {
		return
	}
	u.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
	for _, cookie := range jar.Cookies(u) {
		s.Add(cookie.Value)
	}
}

// Add adds secrets.
func (s *Set) Add(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range values {
		s.add(newSecret(v, false))
	}
}

// add is Add for one; mu is held.
func (s *Set) add(v secret) {
	if len(v.value) >= minSecret && len(s.current) < maxSecrets && !slices.Contains(s.current, v) {
		s.current = append(s.current, v)
	}
}

// AddSubscription adds the token of a subscription.
func (s *Set) AddSubscription(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recently = remember(s.recently, newSecret(token, false), maxSecrets)
}

// maxRenewed is how many tokens of one connection are remembered: what a peer repeats is one
// of the last.
const maxRenewed = 16

// AddRefreshed adds a token that is sent on an open connection.
func (s *Set) AddRefreshed(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed = remember(s.renewed, newSecret(token, false), maxRenewed)
}

// Hide replaces each secret in text, and the beginning of one at its end: who
// repeats a secret may have cut it. Of a long one the beginning is replaced wherever it is.
func (s *Set) Hide(text string) string {
	if len(text) < minSecret {
		return text
	}
	s.mu.Lock()
	known := slices.Concat(s.fixed, s.keys, s.earlier, s.current, s.recently, s.renewed, s.open)
	s.mu.Unlock()
	escaped := strings.ContainsAny(text, `\&%`)
	var all []string
	for _, secret := range known {
		if escaped || secret.mayBeIn(text) {
			all = secret.appendForms(all)
		}
	}
	if len(all) == 0 {
		return text
	}
	secret := make([]bool, len(text))
	if escaped {
		markEscaped(text, all, secret)
	}
	for _, s := range all {
		mark(text, s, secret)
	}
	return replaceMarked(text, secret)
}

// mark marks the bytes of text that repeat s: all of it, its beginning at the end of text, and
// the beginning of a long one anywhere.
func mark(text, s string, secret []bool) {
	head := s
	if len(s) >= 2*minHead {
		head = s[:minHead]
	}
	for from := 0; ; from++ {
		i := strings.Index(text[from:], head)
		if i < 0 {
			break
		}
		from += i
		n := 0
		for ; n < len(s) && from+n < len(text) && text[from+n] == s[n]; n++ {
			secret[from+n] = true
		}
		from += n - len(head) // not once for each byte of a text that repeats itself
	}
	for n := min(len(s)-1, len(text)); n >= minSecret; n-- {
		if strings.HasSuffix(text, s[:n]) {
			for i := range n {
				secret[len(text)-1-i] = true
			}
			return
		}
	}
}

// replaceMarked returns text with each run of marked bytes replaced.
func replaceMarked(text string, secret []bool) string {
	if !slices.Contains(secret, true) {
		return text
	}
	var b strings.Builder
	for i := range len(text) {
		if !secret[i] {
			b.WriteByte(text[i])
		} else if i == 0 || !secret[i-1] {
			b.WriteString(hidden)
		}
	}
	return b.String()
}

// HideHeader returns a copy of h, which the peer sent, without secrets in its values and
// without its cookies, which are credentials themselves.
func (s *Set) HideHeader(h http.Header) http.Header {
	h = h.Clone()
	h.Del("Set-Cookie")
	for _, values := range h {
		for i, v := range values {
			values[i] = s.Hide(v)
		}
	}
	return h
}

const hidden = "[secret]"

// escapes are how JSON, HTML and URLs write a character: \\/, \\u003d, &#43;, &amp;, %2f.
var escapes = regexp.MustCompile(`\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\[/"'\\]|&#[0-9]{1,7};|&#[xX][0-9a-fA-F]{1,6};|&[a-z]{2,6};|%[0-9a-fA-F]{2}`)

// markEscaped marks each secret that text holds with some of its characters escaped.
func markEscaped(text string, all []string, secret []bool) {
	found := escapes.FindAllStringIndex(text, -1)
	if len(found) == 0 {
		return
	}
	var plain []byte
	var origin []int // of each byte of plain, in text
	at := 0
	for _, f := range append(found, []int{len(text), len(text)}) {
		for ; at < f[0]; at++ {
			plain, origin = append(plain, text[at]), append(origin, at)
		}
		for _, b := range []byte(unescape(text[f[0]:f[1]])) {
			plain, origin = append(plain, b), append(origin, f[0])
		}
		at = f[1]
	}
	origin = append(origin, len(text))
	for _, s := range all {
		for from := 0; ; from++ {
			i := bytes.Index(plain[from:], []byte(s))
			if i < 0 {
				break
			}
			from += i
			first, end := origin[from], origin[from+len(s)]
			for i := first; i < end && end-first > len(s); i++ {
				secret[i] = true
			}
		}
	}
}

// unescape returns the character that an escape stands for.
func unescape(escape string) string {
	switch {
	case escape == "":
		return ""
	case escape[0] == '&':
		return html.UnescapeString(escape)
	case escape[0] == '%':
		b, _ := strconv.ParseUint(escape[1:], 16, 8)
		return string([]byte{byte(b)})
	}
	if len(escape) == 2 {
		return escape[1:]
	}
	r, _ := strconv.ParseUint(escape[2:], 16, 32)
	return string(rune(r))
}

// HideError returns err without secrets in its text.
func (s *Set) HideError(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if safe := s.Hide(text); safe != text {
		return &safeError{safe, err}
	}
	return err
}

// safeError is an error whose text held a secret. It does not unwrap, so that
// nothing prints that text; errors.Is and errors.As still find what is in it.
type safeError struct {
	text string
	err  error
}

func (e *safeError) Error() string        { return e.text }
func (e *safeError) Is(target error) bool { return errors.Is(e.err, target) }
func (e *safeError) As(target any) bool   { return errors.As(e.err, target) }
