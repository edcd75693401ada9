// Package access decides who a client is and what it may do.
package access

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// Rights are patterns of the topics that a client may use. In a pattern, {id} stands for the id
// of the client.
type Rights struct {
	Subscribe []string
	Publish   []string
}

// Identity is what a token says. Nil patterns mean that it does not say.
type Identity struct {
	server.Principal
	Rights
}

// Verifier decides who has sent a token. Its errors are those of server.Hooks.Authenticate.
type Verifier interface {
	Verify(ctx context.Context, r *http.Request, token string) (Identity, error)
}

// Anonymous is a Verifier for which each client is the same one, without an id.
type Anonymous struct{}

// Verify implements Verifier.
func (Anonymous) Verify(context.Context, *http.Request, string) (Identity, error) {
	return Identity{}, nil
}

// Policy has the hooks of a server.
type Policy struct {
	Verifier Verifier
	Default  Rights // of clients whose token does not say
}

// Authenticate is a hook of the server. The token is that of HELLO, or else a bearer token of the request.
func (p *Policy) Authenticate(ctx context.Context, r *http.Request, token string) (server.Principal, error) {
	if token == "" {
		token = bearer(r)
	}
	who, err := p.Verifier.Verify(ctx, r, token)
	if err != nil {
		return server.Principal{}, err
	}
	if who.Subscribe == nil {
		who.Subscribe = p.Default.Subscribe
	}
	if who.Publish == nil {
		who.Publish = p.Default.Publish
	}
	who.Value = &Rights{Subscribe: resolve(who.Subscribe, who.ID), Publish: resolve(who.Publish, who.ID)}
	return who.Principal, nil
}

// Authorize is a hook of the server.
func (p *Policy) Authorize(who server.Principal, verb server.Verb, topic string) error {
	rights, _ := who.Value.(*Rights)
	if rights != nil {
		patterns := rights.Publish
		if verb == server.VerbSubscribe {
			patterns = rights.Subscribe
		}
		if slices.ContainsFunc(patterns, func(pattern string) bool { return covers(pattern, topic) }) {
			return nil
		}
	}
	return &server.Error{Code: native.CodeForbidden, Reason: "no pattern of this client covers the topic"}
}

// bearer returns the token in the header Authorization.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

const placeholder = "{id}"

// resolve returns the patterns for a client. Those with {id} are left out if the id cannot be one
// level of a topic: another client must not get rights by an id with a slash or a wildcard.
func resolve(patterns []string, id string) []string {
	resolved := make([]string, 0, len(patterns))
	usable := id != "" && !strings.Contains(id, "/") && native.CheckTopic(wire.UsePublish, id) == nil
	for _, p := range patterns {
		if strings.Contains(p, placeholder) {
			if !usable {
				continue
			}
			p = strings.ReplaceAll(p, placeholder, id)
		}
		if native.CheckTopic(wire.UseSubscribe, p) == nil {
			resolved = append(resolved, p)
		}
	}
	return resolved
}

// covers reports whether all topics of a topic or pattern are also topics of pattern.
func covers(pattern, topic string) bool {
	const rest = "**"
	deep := func(p string) bool { return p == rest || strings.HasSuffix(p, "/"+rest) }
	return native.Match(pattern, topic) && (deep(pattern) || !deep(topic))
}
