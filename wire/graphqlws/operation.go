package graphqlws

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// operation is an Operation as it is sent. It is immutable.
type operation struct {
	kind      string // query, mutation or subscription
	head      []byte // the payload of a subscribe message up to the variables
	variables []byte // a JSON object, or nil
	cursor    *Cursor
	path      []string // of the cursor
}

func newOperation(kind, query, name string) *operation {
	head := []byte("{")
	if name != "" {
		head = append(head, `"operationName":"`+name+`",`...)
	}
	head = append(head, `"query":`...)
	return &operation{kind: kind, head: appendString(head, query)}
}

// appendString appends s, which is UTF-8, as a JSON string.
func appendString(b []byte, s string) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)
	return append(b, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

// resolve returns the operation that a topic stands for, and its variables in the
// topic, a JSON object or nil.
func (d *dialect) resolve(use wire.Use, topic string) (op *operation, variables []byte, err error) {
	op, variables, problem := d.find(topic)
	switch {
	case problem != "":
	case use == wire.UsePublish && op.kind != "mutation":
		problem = "is a " + op.kind + "; publish to a mutation, and pass this to Subscribe"
	case use == wire.UseSubscribe && op.kind == "mutation":
		problem = "is a mutation, which would be executed with each reconnect; pass it to Publish"
	}
	if problem != "" {
		return nil, nil, &TopicError{strings.ToValidUTF8(topic[:min(len(topic), maxTopic)], ""), problem}
	}
	return op, variables, nil
}

func (d *dialect) find(topic string) (op *operation, variables []byte, problem string) {
	if len(topic) > maxQuery {
		return nil, nil, "has more than 64 KiB; put the query into graphqlws.Options.Operations"
	}
	n := nameLength(topic)
	if op = d.operations[topic[:n]]; op == nil {
		if n == len(topic) || topic[n] == ':' {
			return nil, nil, "is not in graphqlws.Options.Operations, and is no query; add it there"
		}
		kind, problem := selectOperation(topic, "")
		if problem != "" {
			return nil, nil, problem
		}
		return newOperation(kind, topic, ""), nil, ""
	}
	if n == len(topic) {
		return op, nil, ""
	}
	text, found := strings.CutPrefix(topic[n:], ":")
	if variables = []byte(text); !found || !isObject(variables) {
		return nil, nil, `has no JSON object behind its name; use a topic such as trades:{"symbol":"PEARL"}`
	}
	return op, variables, ""
}

// isObject reports whether text is one JSON object of UTF-8.
func isObject(text []byte) bool {
	text = bytes.TrimLeft(text, " \t\r\n")
	return len(text) > 0 && text[0] == '{' && json.Valid(text) && utf8.Valid(text)
}

var errVariables = errors.New("graphqlws: the payload is no JSON object of UTF-8; publish the variables of the mutation as one, or nothing")

// merge returns one JSON object with the members of objects, each a valid one or
// empty. A later one takes precedence. One alone is not changed.
func merge(objects ...[]byte) []byte {
	objects = slices.DeleteFunc(objects, func(o []byte) bool { return len(o) == 0 })
	if len(objects) == 0 {
		return nil
	}
	if len(objects) == 1 {
		return objects[0]
	}
	members := map[string]json.RawMessage{}
	for _, o := range objects {
		_ = json.Unmarshal(o, &members)
	}
	b := []byte("{")
	for i, name := range slices.Sorted(maps.Keys(members)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, name), ':')
		b = append(b, members[name]...)
	}
	return append(b, '}')
}

// request appends the message that requests op under id.
func (op *operation) request(out *wire.Frames, id string, variables []byte) {
	b := out.Buffer(64 + len(op.head) + len(variables))
	b = append(append(b, `{"id":"`...), id...)
	b = append(append(b, `","type":"subscribe","payload":`...), op.head...)
	if len(variables) > 0 {
		b = append(append(b, `,"variables":`...), variables...)
	}
	out.Append(wire.Text, append(b, "}}"...))
}

// position returns the place of a result in its stream, and whether it has a number.
func (op *operation) position(result []byte) (p wire.Position, numbered bool) {
	if op.cursor == nil {
		return p, false
	}
	token := op.token(result)
	if len(token) == 0 || string(token) == "null" {
		return p, false
	}
	if !op.cursor.Number {
		return wire.Position{Tag: string(token)}, false
	}
	digits := string(token)
	if token[0] == '"' {
		if json.Unmarshal(token, &digits) != nil {
			return p, false
		}
		p.Tag = string(token) // it goes out as it came in
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return wire.Position{}, false
	}
	if p.Offset = n; n == 0 {
		p.Tag = string(token) // otherwise it would be no position
	}
	return p, true
}

// maxCursor bounds a cursor: it is kept, and sent with the next request.
const maxCursor = 4 << 10

// token returns the cursor in a result as JSON, or nil.
func (op *operation) token(result []byte) []byte {
	if op.cursor.Read != nil {
		token := op.cursor.Read(result)
		if len(token) > maxCursor || !json.Valid(token) || !utf8.Valid(token) {
			return nil
		}
		return token
	}
	at := struct{ Data json.RawMessage }{}
	if json.Unmarshal(result, &at) != nil {
		return nil
	}
	for _, name := range op.path {
		var members map[string]json.RawMessage
		if json.Unmarshal(at.Data, &members) != nil {
			return nil
		}
		at.Data = members[name]
	}
	if len(at.Data) > maxCursor {
		return nil
	}
	return at.Data
}

// cursorFor returns the cursor of a position as JSON, or nil if it has none for op.
func (op *operation) cursorFor(p wire.Position) []byte {
	switch {
	case op.cursor == nil || p.IsZero():
		return nil
	case p.Tag == "" && op.cursor.Number:
		return strconv.AppendUint(nil, p.Offset, 10)
	case json.Valid([]byte(p.Tag)) && utf8.ValidString(p.Tag):
		return []byte(p.Tag)
	}
	return nil
}
