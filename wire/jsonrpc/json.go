package jsonrpc

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"

	"github.com/limpet-go/limpet/wire"
)

// members calls member with the name and the value of each member of object, a valid JSON
// object. Names are compared as they are: case counts, unlike in encoding/json. It makes
// no recursive call, however deep the values are. Values alias object.
func members(object []byte, member func(name string, value []byte)) {
	rest := skipSpace(object[1:])
	for len(rest) > 0 && rest[0] != '}' {
		name := rest[:valueEnd(rest)]
		rest = skipSpace(skipSpace(rest[len(name):])[1:]) // the colon
		value := rest[:valueEnd(rest)]
		member(text(name), value)
		if rest = skipSpace(rest[len(value):]); len(rest) > 0 && rest[0] == ',' {
			rest = skipSpace(rest[1:])
		}
	}
}

// elements calls element with each element of array, a valid JSON array, until it returns
// false. It reports whether it has seen all.
func elements(array []byte, element func(value []byte) bool) bool {
	rest := skipSpace(array[1:])
	for len(rest) > 0 && rest[0] != ']' {
		value := rest[:valueEnd(rest)]
		if !element(value) {
			return false
		}
		if rest = skipSpace(rest[len(value):]); len(rest) > 0 && rest[0] == ',' {
			rest = skipSpace(rest[1:])
		}
	}
	return true
}

func skipSpace(s []byte) []byte { return bytes.TrimLeft(s, " \t\r\n") }

// valueEnd returns the length of the value at the head of s, which is valid JSON.
func valueEnd(s []byte) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return min(i+1, len(s))
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i
			} else if depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n', ':':
			if depth == 0 {
				return i
			}
		}
	}
	return len(s)
}

// text returns the content of a JSON string, empty if value is none.
func text(value []byte) (s string) {
	switch {
	case len(value) < 2 || value[0] != '"':
		return ""
	case bytes.IndexByte(value, '\\') < 0:
		return string(value[1 : len(value)-1])
	}
	_ = json.Unmarshal(value, &s)
	return s
}

// idName returns by what an id that the server has made is found: the content of a string,
// or a number as it is written. Anything else, and what is too long, is empty.
func idName(value []byte) string {
	switch {
	case len(value) == 0 || len(value) > maxID:
		return ""
	case value[0] == '"' && len(value) > 2:
		return "s" + text(value)
	case value[0] == '-' || value[0] >= '0' && value[0] <= '9':
		return "n" + string(value)
	}
	return ""
}

// isNull reports whether a member is missing or null.
func isNull(value []byte) bool { return len(value) == 0 || string(value) == "null" }

// saysNone reports whether the error beside a result says that there is none, as
// servers of older versions write it.
func saysNone(value []byte) bool {
	switch string(value) {
	case `""`, "0", "false", "[]", "{}":
		return true
	}
	return false
}

// readError reads an error object.
func readError(value []byte) (e Error) {
	if value[0] != '{' {
		e.Message = cut(text(value)) // JSON-RPC 1.0
		return e
	}
	members(value, func(name string, value []byte) {
		switch name {
		case "code":
			e.Code, _ = strconv.ParseInt(string(value), 10, 64)
		case "message":
			e.Message = text(value)
		case "data":
			e.Data = value
		}
	})
	e.Message = cut(e.Message)
	return e
}

// wireCodes returns the code without its sign as Code and PeerCode of an event.
func (e *Error) wireCodes() (code uint16, peer int64) {
	n := e.Code
	if n < 0 {
		n = -max(n, -math.MaxInt64)
	}
	if n < 1 || n >= wire.CodeRefused {
		return wire.CodeRefused, n
	}
	return uint16(n), 0
}

// reason is the code as the server wrote it, if there is one, and the text.
func (e *Error) reason() string {
	if e.Code == 0 {
		return e.Message
	}
	return strconv.FormatInt(e.Code, 10) + ": " + e.Message
}
