package access

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/limpet-go/limpet/server"
)

// leeway is by how much the clocks of an issuer and of this machine may differ.
const leeway = 30 * time.Second

// minSecret is the least length of a shared secret: RFC 7518, section 3.2.
const minSecret = 32

// Tokens is a Verifier of JSON Web Tokens (RFC 7519). A token needs the claims sub, which is the id of the client, and exp.
// The claim limpet may have the patterns: {"subscribe": [...], "publish": [...]}.
type Tokens struct {
	keys   []key
	parser *jwt.Parser
}

// key is one that may have signed a token.
type key struct {
	methods []string // algorithms that fit it
	value   any
}

// claims are those of a token.
type claims struct {
	jwt.RegisteredClaims
	Limpet *struct {
		Subscribe []string `json:"subscribe"`
		Publish   []string `json:"publish"`
	} `json:"limpet"`
}

// NewTokens returns a Verifier that accepts a token which one of keys has signed: a public key in PEM, or a
// shared secret. An empty issuer or audience is not compared.
func NewTokens(keys [][]byte, issuer, audience string) (*Tokens, error) {
	t := &Tokens{}
	var methods []string
	for i, data := range keys {
		k, err := parseKey(data)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		t.keys = append(t.keys, k)
		methods = append(methods, k.methods...)
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(methods), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway)}
	if issuer != "" {
		options = append(options, jwt.WithIssuer(issuer))
	}
	if audience != "" {
		options = append(options, jwt.WithAudience(audience))
	}
	t.parser = jwt.NewParser(options...)
	return t, nil
}

// parseKey returns the key in data, with the algorithms that it may be used with: a public key never counts as a
// secret, which a token with another algorithm could ask for.
func parseKey(data []byte) (key, error) {
	data = bytes.TrimSpace(data)
	block, _ := pem.Decode(data)
	switch {
	case block == nil && bytes.HasPrefix(data, []byte("-----BEGIN")):
		return key{}, errors.New("the PEM block is damaged")
	case block == nil && len(data) < minSecret:
		return key{}, fmt.Errorf("a secret of %d bytes is too short; use at least %d random bytes", len(data), minSecret)
	case block == nil:
		return key{[]string{"HS256", "HS384", "HS512"}, data}, nil
	}
	public, err := publicKey(block)
	if err != nil {
		return key{}, err
	}
	switch public := public.(type) {
	case *rsa.PublicKey:
		return key{[]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, public}, nil
	case *ecdsa.PublicKey:
		return key{[]string{fmt.Sprintf("ES%d", min(public.Curve.Params().BitSize, 512))}, public}, nil
	case ed25519.PublicKey:
		return key{[]string{"EdDSA"}, public}, nil
	}
	return key{}, fmt.Errorf("a public key of the type %T is not supported; use RSA, ECDSA or Ed25519", public)
}

// publicKey returns the key in a block: a public key, or that of a certificate.
func publicKey(block *pem.Block) (crypto.PublicKey, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, fmt.Errorf("a PEM block %q is no public key; use PUBLIC KEY", block.Type)
}

// Verify implements Verifier.
func (t *Tokens) Verify(_ context.Context, _ *http.Request, token string) (Identity, error) {
	var c claims
	_, err := t.parser.ParseWithClaims(token, &c, func(tok *jwt.Token) (any, error) {
		set := jwt.VerificationKeySet{}
		for _, k := range t.keys {
			for _, m := range k.methods {
				if m == tok.Method.Alg() {
					set.Keys = append(set.Keys, k.value)
				}
			}
		}
		return set, nil
	})
	switch {
	case token == "":
		return Identity{}, refusal("a token is needed")
	case errors.Is(err, jwt.ErrTokenExpired):
		return Identity{}, refusal("the token has expired")
	case err != nil:
		return Identity{}, refusal("the token is not valid here")
	case c.Subject == "":
		return Identity{}, refusal("the token has no claim sub")
	}
	who := Identity{Principal: server.Principal{ID: c.Subject, Expires: c.ExpiresAt.Time}}
	if c.Limpet != nil {
		who.Rights = Rights{Subscribe: c.Limpet.Subscribe, Publish: c.Limpet.Publish}
	}
	return who, nil
}

// closeUnauthorized is the close code of a credential that is refused: docs/protocol.md, section 7.
const closeUnauthorized = 4101

func refusal(reason string) error {
	return &server.Error{Code: closeUnauthorized, Reason: reason}
}
