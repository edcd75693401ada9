package endpoint

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// credentialKey matches names of query parameters that hold credentials.
var credentialKey = regexp.MustCompile(`(?i)token|key|auth|secret|password|sig|ticket|jwt|credential`)

// CredentialKeys returns the query parameters of urls whose names suggest a credential, each
// once, in order.
func CredentialKeys(urls ...*url.URL) []string {
	var found []string
	for _, u := range urls {
		// Not u.Query, which lacks what it cannot read: a server may read it.
		for pair := range strings.FieldsFuncSeq(u.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
			if key := nameOf(pair); credentialKey.MatchString(key) {
				found = append(found, key)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// CredentialKeysIn is CredentialKeys of raw; it returns nothing if raw is no URL.
func CredentialKeysIn(raw string) []string {
	u, err := url.Parse(raw)
	if err != nil {
		return nil
	}
	return CredentialKeys(u)
}

// nameOf returns the name of a query parameter.
func nameOf(pair string) string {
	name, _, _ := strings.Cut(pair, "=")
	if plain, err := url.QueryUnescape(name); err == nil {
		return plain
	}
	return name
}

// maxQuery bounds what WithQuery adds, in bytes: servers refuse much longer URLs.
const maxQuery = 8 << 10

// WithQuery returns u with values in its query, in the place of parameters of the same
// names. The others stay as they are written. The text of the error holds no value.
func WithQuery(u *url.URL, values url.Values) (string, error) {
	added := values.Encode()
	switch _, nameless := values[""]; {
	case nameless:
		return "", errors.New("returned a value without a name; use the name of the query parameter")
	case len(added) > maxQuery:
		return "", fmt.Errorf("returned %d bytes; use %d or less", len(added), maxQuery)
	}
	var pairs []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		if _, replaced := values[nameOf(pair)]; !replaced && pair != "" {
			pairs = append(pairs, pair)
		}
	}
	if added != "" {
		pairs = append(pairs, added)
	}
	with := *u
	with.RawQuery = strings.Join(pairs, "&")
	return with.String(), nil
}
