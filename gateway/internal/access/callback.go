package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// maxAnswer bounds an answer of a callback, in bytes.
const maxAnswer = 64 << 10

// Callback is a Verifier that asks a URL about each token.
type Callback struct {
	URL     string
	Timeout time.Duration
	Client  *http.Client
}

// NewCallback returns a Callback. It follows no redirect: they would carry tokens elsewhere.
func NewCallback(url string, timeout time.Duration) *Callback {
	return &Callback{URL: url, Timeout: timeout, Client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// question is the body of the request.
type question struct {
	Token  string `json:"token"`
	Path   string `json:"path"`
	Host   string `json:"host"`
	Origin string `json:"origin,omitempty"`
}

// answer is the body of a response with the status 200.
type answer struct {
	ID        string    `json:"id"`
	Expires   time.Time `json:"expires"`
	Subscribe []string  `json:"subscribe"`
	Publish   []string  `json:"publish"`
}

// Verify implements Verifier. 401 and 403 refuse the client. Whatever else is not 200 decides nothing: the client backs off
// and comes back.
func (c *Callback) Verify(ctx context.Context, r *http.Request, token string) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	body, err := json.Marshal(question{Token: token, Path: r.URL.Path, Host: r.Host, Origin: r.Header.Get("Origin")})
	if err != nil {
		return Identity{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return Identity{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.Client.Do(request)
	if err != nil {
		return Identity{}, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return Identity{}, refusal("the credential was refused")
	default:
		return Identity{}, undecided(fmt.Errorf("auth-url answered %d", response.StatusCode))
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return Identity{}, undecided(err)
	}
	var a answer
	switch err := json.Unmarshal(data, &a); {
	case len(data) > maxAnswer:
		return Identity{}, undecided(fmt.Errorf("auth-url answered more than %d bytes", maxAnswer))
	case err != nil:
		return Identity{}, undecided(fmt.Errorf("auth-url answered with something that is not the JSON of docs: %w", err))
	case a.ID == "":
		return Identity{}, undecided(errors.New("auth-url answered without an id"))
	}
	return Identity{Principal: server.Principal{ID: a.ID, Expires: a.Expires}, Rights: Rights{Subscribe: a.Subscribe, Publish: a.Publish}}, nil
}

// Undecided is a failure of the callback itself.
type Undecided struct{ Err error }

// Error returns what has failed.
func (e *Undecided) Error() string { return e.Err.Error() }

// Unwrap returns what has failed, and what the server tells the client.
func (e *Undecided) Unwrap() []error {
	return []error{&server.Error{Code: native.CodeUnavailable, Reason: "the credential cannot be checked now"}, e.Err}
}

func undecided(err error) error { return &Undecided{err} }
