package graphqlws

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Result is the payload of a message: a GraphQL execution result (GraphQL, section
// 7.1).
type Result struct {
	Data       json.RawMessage `json:"data"`       // null or empty if there is none
	Errors     []Error         `json:"errors"`     // empty if the result is whole
	Extensions json.RawMessage `json:"extensions"` // of the server
}

// Error is one GraphQL error.
type Error struct {
	Message    string          `json:"message"`    // for people
	Path       json.RawMessage `json:"path"`       // of the field, a list
	Extensions json.RawMessage `json:"extensions"` // of the server; see Code
}

// Code returns extensions.code, by which servers name an error, or an empty string.
func (e *Error) Code() string {
	var x struct{ Code string }
	_ = json.Unmarshal(e.Extensions, &x)
	return x.Code
}

// ResultError means that a result has errors.
type ResultError struct {
	Errors []Error // at least one
}

// Error returns the text of the first error, and how many there are.
func (e *ResultError) Error() string {
	if len(e.Errors) == 1 {
		return "graphqlws: " + e.Errors[0].Message
	}
	return fmt.Sprintf("graphqlws: %s (first of %d errors)", e.Errors[0].Message, len(e.Errors))
}

// Unmarshal decodes the data of a message's payload into v, as json.Unmarshal does. If
// the result has errors, Unmarshal returns a *ResultError; v then has what the server
// could give. Any other error means that the payload or v does not fit.
func Unmarshal(payload []byte, v any) error {
	var r Result
	if err := json.Unmarshal(payload, &r); err != nil {
		return fmt.Errorf("graphqlws: not an execution result: %w", err)
	}
	var err error
	if len(r.Data) > 0 {
		err = json.Unmarshal(r.Data, v)
	}
	if len(r.Errors) > 0 {
		return &ResultError{r.Errors}
	}
	if err != nil {
		return fmt.Errorf("graphqlws: the data does not fit: %w", err)
	}
	return nil
}

// hasData reports whether the operation was executed.
func (r *Result) hasData() bool { return len(r.Data) > 0 && string(r.Data) != "null" }

// partial reports whether a field of a result with errors has a value: a part of the
// operation was executed.
func (r *Result) partial() bool {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(r.Data, &fields)
	for _, value := range fields {
		if string(value) != "null" {
			return true
		}
	}
	return false
}

// readErrors reads the payload of an error message.
func readErrors(payload []byte) (errs []Error) {
	_ = json.Unmarshal(payload, &errs)
	return errs
}

// errorsAlone returns the errors of a result without data.
func errorsAlone(payload []byte) []Error {
	var r Result
	if json.Unmarshal(payload, &r) != nil || r.hasData() {
		return nil
	}
	return r.Errors
}

// The codes of refusals, after the names that servers use in extensions.code.
const (
	codeRefused         = 400 // anything else
	codeUnauthenticated = 401 // UNAUTHENTICATED
	codeForbidden       = 403 // FORBIDDEN
)

func codeOf(errs []Error) uint16 {
	if len(errs) > 0 {
		switch errs[0].Code() {
		case "UNAUTHENTICATED":
			return codeUnauthenticated
		case "FORBIDDEN":
			return codeForbidden
		}
	}
	return codeRefused
}

// reasonOf returns the text of the first error.
func reasonOf(errs []Error) string {
	if len(errs) == 0 || errs[0].Message == "" {
		return "the server gives no reason"
	}
	text := errs[0].Message
	if code := errs[0].Code(); code != "" {
		text += " (" + code + ")"
	}
	return shorten(text)
}

// shorten cuts text to maxReason bytes of UTF-8.
func shorten(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}
