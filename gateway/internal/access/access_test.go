package access_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/limpet-go/limpet/gateway/internal/access"
	"github.com/limpet-go/limpet/server"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

func signed(t *testing.T, m jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(m, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func in(d time.Duration) int64 { return time.Now().Add(d).Unix() }

// publicPEM returns the public half of a key.
func publicPEM(t *testing.T, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestTokens(t *testing.T) {
	elliptical, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	public, edwards, _ := ed25519.GenerateKey(rand.Reader)
	rsaPEM := publicPEM(t, &rsaKey.PublicKey)
	keys := [][]byte{secret, publicPEM(t, &elliptical.PublicKey), rsaPEM, publicPEM(t, public)}
	v, err := access.NewTokens(keys, "issuer", "feed")
	if err != nil {
		t.Fatal(err)
	}
	good := func(change func(jwt.MapClaims)) jwt.MapClaims {
		c := jwt.MapClaims{"sub": "anna", "exp": in(time.Hour), "iss": "issuer", "aud": "feed"}
		if change != nil {
			change(c)
		}
		return c
	}
	for name, x := range map[string]struct {
		token string
		want  string // part of the reason; "": it is good
	}{
		"HS256":             {signed(t, jwt.SigningMethodHS256, secret, good(nil)), ""},
		"ES256":             {signed(t, jwt.SigningMethodES256, elliptical, good(nil)), ""},
		"RS256":             {signed(t, jwt.SigningMethodRS256, rsaKey, good(nil)), ""},
		"EdDSA":             {signed(t, jwt.SigningMethodEdDSA, edwards, good(nil)), ""},
		"none":              {signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good(nil)), "not valid"},
		"public as secret":  {signed(t, jwt.SigningMethodHS256, rsaPEM, good(nil)), "not valid"},
		"another secret":    {signed(t, jwt.SigningMethodHS256, append([]byte("x"), secret...), good(nil)), "not valid"},
		"expired":           {signed(t, jwt.SigningMethodHS256, secret, good(func(c jwt.MapClaims) { c["exp"] = in(-time.Hour) })), "expired"},
		"not yet valid":     {signed(t, jwt.SigningMethodHS256, secret, good(func(c jwt.MapClaims) { c["nbf"] = in(time.Hour) })), "not valid"},
		"clocks differ":     {signed(t, jwt.SigningMethodHS256, secret, good(func(c jwt.MapClaims) { c["nbf"] = in(20 * time.Second) })), ""},
		"without an end":    {signed(t, jwt.SigningMethodHS256, secret, good(func(c jwt.MapClaims) { delete(c, "exp") })), "not valid"},
		"without a subject": {signed(t, jwt.SigningMethodHS256, secret, good(func(c jwt.MapClaims) { delete(c, "sub") })), "sub"},
		"another issuer":    {signed(t, jwt.SigningMethodHS256, secret, good(func(c jwt.MapClaims) { c["iss"] = "x" })), "not valid"},
		"another audience":  {signed(t, jwt.SigningMethodHS256, secret, good(func(c jwt.MapClaims) { c["aud"] = "x" })), "not valid"},
		"empty":             {"", "needed"},
		"no token":          {"a.b.c", "not valid"},
	} {
		who, err := v.Verify(t.Context(), nil, x.token)
		var refused *server.Error
		switch {
		case x.want == "" && (err != nil || who.ID != "anna" || who.Expires.IsZero()):
			t.Errorf("%s: %+v, %v", name, who, err)
		case x.want != "" && (!errors.As(err, &refused) || refused.Code != 4101 || !strings.Contains(refused.Reason, x.want)):
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
}

func TestWrongKeys(t *testing.T) {
	for name, x := range map[string]struct{ data, want string }{
		"short":   {"secret", "too short"},
		"private": {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})), "no public key"},
		"damaged": {"-----BEGIN PUBLIC KEY-----\nxx", "damaged"},
		"not DER": {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})), "key 2"},
	} {
		if _, err := access.NewTokens([][]byte{secret, []byte(x.data)}, "", ""); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
}

// fixed is a Verifier with one answer.
type fixed access.Identity

func (f fixed) Verify(context.Context, *http.Request, string) (access.Identity, error) {
	return access.Identity(f), nil
}

func TestRights(t *testing.T) {
	policy := &access.Policy{Default: access.Rights{Subscribe: []string{"public/**", "users/{id}/*", "exact"}, Publish: []string{"users/{id}/in"}}}
	may := func(who access.Identity, verb server.Verb, topic string) bool {
		t.Helper()
		policy.Verifier = fixed(who)
		p, err := policy.Authenticate(t.Context(), httptest.NewRequest("GET", "/", nil), "x")
		if err != nil {
			t.Fatal(err)
		}
		return policy.Authorize(p, verb, topic) == nil
	}
	id := func(s string) access.Identity { return access.Identity{Principal: server.Principal{ID: s}} }
	own := access.Identity{Principal: server.Principal{ID: "bob"}, Rights: access.Rights{Subscribe: []string{"**"}, Publish: []string{}}}
	for _, x := range []struct {
		who   access.Identity
		verb  server.Verb
		topic string
		want  bool
	}{
		{id("anna"), server.VerbSubscribe, "public/a", true},
		{id("anna"), server.VerbSubscribe, "public/a/**", true},
		{id("anna"), server.VerbSubscribe, "public/**", true},
		{id("anna"), server.VerbSubscribe, "**", false},
		{id("anna"), server.VerbSubscribe, "public", false},
		{id("anna"), server.VerbSubscribe, "users/anna/x", true},
		{id("anna"), server.VerbSubscribe, "users/anna/*", true},
		{id("anna"), server.VerbSubscribe, "users/anna/**", false},
		{id("anna"), server.VerbSubscribe, "users/*/x", false},
		{id("anna"), server.VerbSubscribe, "users/bob/x", false},
		{id("anna"), server.VerbSubscribe, "exact", true},
		{id("anna"), server.VerbSubscribe, "*", false},
		{id("anna"), server.VerbPublish, "users/anna/in", true},
		{id("anna"), server.VerbPublish, "users/bob/in", false},
		{id("anna"), server.VerbPublish, "public/a", false},
		{id("anna"), server.VerbCall, "users/anna/in", true},
		{id("anna"), server.VerbCall, "public/a", false},
		{id("*"), server.VerbSubscribe, "users/bob/x", false},
		{id("**"), server.VerbSubscribe, "users/bob/x", false},
		{id("bob/x"), server.VerbPublish, "users/bob/x/in", false},
		{id(""), server.VerbPublish, "users//in", false},
		{own, server.VerbSubscribe, "users/anna/x", true},
		{own, server.VerbPublish, "users/bob/in", false}, // an empty list is one
	} {
		if got := may(x.who, x.verb, x.topic); got != x.want {
			t.Errorf("%q may %v %q: %v", x.who.ID, x.verb, x.topic, got)
		}
	}
}

func TestCallback(t *testing.T) {
	answers := map[string]struct {
		status int
		body   string
	}{
		"good":      {200, `{"id": "anna", "expires": "2100-01-01T00:00:00Z", "subscribe": ["a"]}`},
		"refused":   {403, ""},
		"unknown":   {401, ""},
		"busy":      {503, ""},
		"elsewhere": {302, ""},
		"no JSON":   {200, "<html>"},
		"no id":     {200, `{}`},
		"long":      {200, `{"id": "` + strings.Repeat("a", 70_000) + `"}`},
	}
	var last struct{ Token, Path, Host string }
	desk := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&last); err != nil {
			t.Error(err)
		}
		a, known := answers[last.Token]
		if !known {
			<-r.Context().Done() // hangs
			return
		}
		if a.status == 302 {
			w.Header().Set("Location", "/other")
		}
		w.WriteHeader(a.status)
		w.Write([]byte(a.body))
	}))
	defer desk.Close()
	v := access.NewCallback(desk.URL, 300*time.Millisecond)
	request := httptest.NewRequest("GET", "http://feed.example/path", nil)
	who, err := v.Verify(t.Context(), request, "good")
	if err != nil || who.ID != "anna" || who.Expires.Year() != 2100 || len(who.Subscribe) != 1 || who.Publish != nil {
		t.Errorf("%+v, %v", who, err)
	}
	if last.Path != "/path" || last.Host != "feed.example" {
		t.Errorf("asked about %+v", last)
	}
	for token, want := range map[string]uint64{"refused": 4101, "unknown": 4101, "busy": 7, "elsewhere": 7, "no JSON": 7, "no id": 7, "long": 7} {
		var refused *server.Error
		if _, err := v.Verify(t.Context(), request, token); !errors.As(err, &refused) || refused.Code != want {
			t.Errorf("%s: %v, want code %d", token, err, want)
		}
	}
	var timeout interface{ Timeout() bool }
	if _, err := v.Verify(t.Context(), request, "hangs"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("hangs: %v", err)
	}
}

func TestBearer(t *testing.T) {
	var got string
	policy := &access.Policy{Verifier: verifier(func(token string) { got = token })}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "bearer  abc")
	for hello, want := range map[string]string{"": "abc", "first": "first"} {
		if policy.Authenticate(t.Context(), r, hello); got != want {
			t.Errorf("HELLO has %q: %q", hello, got)
		}
	}
}

type verifier func(token string)

func (v verifier) Verify(_ context.Context, _ *http.Request, token string) (access.Identity, error) {
	v(token)
	return access.Identity{}, nil
}
