package graphqlws

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// keywords begin a definition of an executable document (GraphQL, section 2.3).
var keywords = []string{"query", "mutation", "subscription", "fragment"}

// definition is one operation of a document.
type definition struct{ kind, name string }

var errDocument = errors.New("is no GraphQL document; begin it with subscription, query or mutation, and close every brace and string")

// selectOperation returns the kind of the operation to execute, or what is wrong with
// the document.
func selectOperation(query, name string) (kind, problem string) {
	if len(query) > maxQuery {
		return "", "has more than 64 KiB; shorten it"
	}
	if !utf8.ValidString(query) {
		return "", "is not UTF-8"
	}
	definitions, err := operations(query)
	if err != nil {
		return "", err.Error()
	}
	if name == "" && len(definitions) == 1 {
		return definitions[0].kind, ""
	}
	for _, d := range definitions {
		if d.name == name && name != "" {
			return d.kind, ""
		}
	}
	if name == "" {
		return "", "has no operation, or several; set Operation.Name to one of them"
	}
	return "", "has no operation with the name of Operation.Name"
}

// operations lists the operations of a document. It follows brackets, strings and
// comments and leaves the rest to the server.
func operations(document string) ([]definition, error) {
	s := scanner{rest: strings.TrimPrefix(document, "\ufeff")}
	var found []definition
	depth, inside, body, named := 0, false, false, false
	for {
		token := s.next()
		switch {
		case s.broken:
			return nil, errDocument
		case token == "":
			if depth != 0 || inside {
				return nil, errDocument
			}
			return found, nil
		case depth > 0:
		case !inside && token == "{":
			found = append(found, definition{kind: "query"})
			inside = true
		case !inside:
			if token != "fragment" {
				found = append(found, definition{kind: token})
			}
			if token != "fragment" && token != "query" && token != "mutation" && token != "subscription" {
				return nil, errDocument
			}
			inside, named = true, token != "fragment"
			continue
		case named && isName(token):
			found[len(found)-1].name = token
		}
		named = false
		switch token {
		case "{", "(", "[":
			body = body || depth == 0 && token == "{"
			depth++
		case "}", ")", "]":
			if depth--; depth < 0 {
				return nil, errDocument
			}
			if depth == 0 && body {
				inside, body = false, false
			}
		}
	}
}

// scanner splits a document into tokens: names, punctuation and strings.
type scanner struct {
	rest   string
	broken bool // a string is not closed
}

// next returns the next token, a string as `"`, and empty after the last one.
func (s *scanner) next() string {
	for s.rest != "" {
		switch c := s.rest[0]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',':
			s.rest = s.rest[1:]
		case c == '#':
			s.rest = s.rest[lineEnd(s.rest):]
		case c == '"':
			return s.text()
		case isNameByte(c):
			n := 1
			for n < len(s.rest) && isNameByte(s.rest[n]) {
				n++
			}
			token := s.rest[:n]
			s.rest = s.rest[n:]
			return token
		default:
			token := s.rest[:1]
			s.rest = s.rest[1:]
			return token
		}
	}
	return ""
}

// text skips a string or a block string (GraphQL, section 2.9.4).
func (s *scanner) text() string {
	quote := `"`
	if strings.HasPrefix(s.rest, `"""`) {
		quote = `"""`
	}
	for i := len(quote); i < len(s.rest); i++ {
		switch {
		case strings.HasPrefix(s.rest[i:], quote):
			s.rest = s.rest[i+len(quote):]
			return `"`
		case quote == `"` && s.rest[i] == '\\':
			i++
		case quote == `"` && (s.rest[i] == '\n' || s.rest[i] == '\r'):
			s.broken = true
			return `"`
		case strings.HasPrefix(s.rest[i:], `\"""`):
			i += 3
		}
	}
	s.rest, s.broken = "", true
	return `"`
}

func lineEnd(text string) int {
	if i := strings.IndexAny(text, "\r\n"); i >= 0 {
		return i
	}
	return len(text)
}

func isNameByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// isName reports whether text is a name (GraphQL, section 2.1.9).
func isName(text string) bool {
	return text != "" && (text[0] < '0' || text[0] > '9') && nameLength(text) == len(text)
}

// nameLength returns how many bytes of a name text begins with.
func nameLength(text string) (n int) {
	for n < len(text) && isNameByte(text[n]) {
		n++
	}
	return n
}
