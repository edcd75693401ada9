package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// word is what a placeholder of a request stands for.
type word uint8

const (
	wordNone word = iota // text as it is
	wordChannel
	wordProduct
	wordStream
	wordParam
	wordID
	wordCursor
	wordNumber
	wordTime
	wordMillis
	wordList // an element that is repeated
)

// words are the placeholders of requests. "$x" stands for a string, "#x" for a number.
var words = map[string]word{
	"channel": wordChannel, "product": wordProduct, "stream": wordStream, "param": wordParam, "id": wordID, "cursor": wordCursor,
	"time": wordTime, "time_ms": wordMillis,
}

// Those of Table.PingText, and of Table.Answer.
var (
	pingWords   = map[string]word{"time": wordTime, "time_ms": wordMillis}
	answerWords = map[string]word{"n": wordNumber, "time": wordTime, "time_ms": wordMillis}
)

// quoted reports whether "$x" stands for w.
func (w word) quoted() bool { return w != wordNumber }

// bare reports whether "#x" stands for w.
func (w word) bare() bool {
	return w == wordID || w == wordParam || w == wordNumber || w == wordTime || w == wordMillis
}

// placeholders lists what a template may have.
func placeholders(words map[string]word) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(words)) {
		if words[name].quoted() {
			list = append(list, strconv.Quote("$"+name))
		}
		if words[name].bare() {
			list = append(list, strconv.Quote("#"+name))
		}
	}
	return strings.Join(list, ", ")
}

// piece is a part of a template.
type piece struct {
	word   word
	bare   bool    // without quotes
	text   string  // of wordNone
	pieces []piece // of wordList
}

// template is a compiled JSON text with placeholders.
type template struct {
	pieces []piece
	has    map[word]bool // what is used outside of lists
	lists  []map[word]bool
}

// newTemplate compiles a JSON text.
func newTemplate(text string, words map[string]word) (*template, error) {
	var valid json.RawMessage
	if err := json.Unmarshal([]byte(text), &valid); err != nil {
		return nil, fmt.Errorf(`is not JSON: %w; "#id" and the like stand in quotes`, err)
	}
	p := templateParser{text: text, words: words, t: &template{has: map[word]bool{}}}
	pieces, err := p.parse(0)
	if err != nil {
		return nil, err
	}
	p.t.pieces = pieces
	return p.t, nil
}

// templateParser cuts a valid JSON text into pieces.
type templateParser struct {
	text  string
	words map[string]word
	at    int
	t     *template
}

// parse cuts what is left of the text, up to the end of the list at that depth.
func (p *templateParser) parse(depth int) ([]piece, error) {
	var pieces []piece
	from := p.at
	flush := func(end int) {
		if end > from {
			pieces = append(pieces, piece{text: p.text[from:end]})
		}
	}
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case '[':
			end, repeated := p.repeated()
			if !repeated {
				p.at++
				continue
			}
			if depth > 0 {
				return nil, errors.New(`has a list with "..." in another one`)
			}
			flush(p.at + 1)
			element := p.text[p.at+1 : end]
			inner := templateParser{text: strings.TrimRight(strings.TrimSpace(element), ", \t\r\n"), words: p.words, t: &template{has: map[word]bool{}}}
			list, err := inner.parse(depth + 1)
			if err != nil {
				return nil, err
			}
			p.t.lists = append(p.t.lists, inner.t.has)
			pieces = append(pieces, piece{word: wordList, pieces: list})
			p.at = end + strings.IndexByte(p.text[end:], ']')
			from = p.at
		case '"':
			end := p.at + stringEnd(p.text[p.at:])
			w, bare, err := p.word(p.text[p.at+1 : end-1])
			if err != nil {
				return nil, err
			}
			if w != wordNone {
				flush(p.at)
				pieces = append(pieces, piece{word: w, bare: bare})
				p.t.has[w] = true
				from = end
			}
			p.at = end
		default:
			p.at++
		}
	}
	flush(p.at)
	return pieces, nil
}

// word returns what a string stands for.
func (p *templateParser) word(s string) (w word, bare bool, err error) {
	if s == "..." {
		return 0, false, errors.New(`has a "..." that is not the second and last element of a list`)
	}
	if s == "" || s[0] != '$' && s[0] != '#' {
		return wordNone, false, nil
	}
	w = p.words[s[1:]]
	bare = s[0] == '#'
	if w == wordNone || bare && !w.bare() || !bare && !w.quoted() {
		return 0, false, fmt.Errorf("has %q, which stands for nothing; want one of %s", s, placeholders(p.words))
	}
	return w, bare, nil
}

// repeated reports whether the list at p.at is an element and "...", and where the
// latter is.
func (p *templateParser) repeated() (end int, ok bool) {
	depth, elements := 0, 0
	for i := p.at; i < len(p.text); i++ {
		switch p.text[i] {
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth == 0 {
				return 0, false
			}
		case ',':
			if depth == 1 {
				elements++
			}
		case '"':
			n := stringEnd(p.text[i:])
			if depth == 1 && elements == 1 && p.text[i:i+n] == `"..."` {
				return i, strings.HasPrefix(strings.TrimSpace(p.text[i+n:]), "]")
			}
			i += n - 1
		}
	}
	return 0, false
}

// stringEnd is where the JSON string at the beginning of s ends.
func stringEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// values is what a template is filled with.
type values struct {
	id, n    uint64
	one      target   // outside of lists
	lists    []target // in lists of topics
	channels []target // in lists of channels
	products []target // in lists of products
	now      int64    // in milliseconds; zero until it is asked for
}

// number returns the number that w stands for.
func (v *values) number(w word) uint64 {
	switch w {
	case wordID:
		return v.id
	case wordNumber:
		return v.n
	}
	if v.now == 0 {
		v.now = max(1, time.Now().UnixMilli()) // one time for the whole message
	}
	if w == wordTime {
		return uint64(v.now / 1000)
	}
	return uint64(v.now)
}

// target is one topic as requests name it.
type target struct{ channel, product, stream, param, cursor string }

// write appends the text of t.
func (t *template) write(b []byte, v *values) []byte { return write(b, t.pieces, v, &v.one) }

func write(b []byte, pieces []piece, v *values, at *target) []byte {
	for i := range pieces {
		p := &pieces[i]
		switch p.word {
		case wordNone:
			b = append(b, p.text...)
		case wordChannel:
			b = quote(b, at.channel)
		case wordProduct:
			b = quote(b, at.product)
		case wordStream:
			b = quote(b, at.stream)
		case wordCursor:
			if at.cursor == "" {
				b = append(b, "null"...)
			} else {
				b = quote(b, at.cursor)
			}
		case wordParam:
			if p.bare {
				b = append(b, at.param...)
			} else {
				b = quote(b, at.param)
			}
		case wordID, wordNumber, wordTime, wordMillis:
			n := v.number(p.word)
			if p.bare {
				b = strconv.AppendUint(b, n, 10)
			} else {
				b = quote(b, strconv.FormatUint(n, 10))
			}
		case wordList:
			list := v.of(p.pieces)
			for j := range list {
				if j > 0 {
					b = append(b, ',')
				}
				b = write(b, p.pieces, v, &list[j])
			}
		}
	}
	return b
}

// of returns what a list with these pieces repeats.
func (v *values) of(pieces []piece) []target {
	over := wordNone
	for _, p := range pieces {
		if p.word == wordNone {
			continue
		}
		if over != wordNone && over != p.word {
			return v.lists
		}
		over = p.word
	}
	switch over {
	case wordChannel:
		return v.channels
	case wordProduct:
		return v.products
	}
	return v.lists
}

// quote appends s, which must be UTF-8, as a JSON string.
func quote(b []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...) // unreachable: a string always has a JSON form
	}
	return append(b, text...)
}
