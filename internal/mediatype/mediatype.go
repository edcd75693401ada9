// Package mediatype compares content types.
package mediatype

import (
	"mime"
	"slices"
	"strings"
)

// Names reports whether name, which a message has, stands for one of types: their
// parameters and the case of letters do not count. A name without a slash is not a media
// type and stands for any: some languages call a kind of message by it.
func Names(name string, types []string) bool {
	if !strings.Contains(name, "/") {
		return true
	}
	if slices.Contains(types, name) {
		return true
	}
	bare, known := withoutParameters(name)
	return known && slices.ContainsFunc(types, func(t string) bool {
		of, known := withoutParameters(t)
		return known && of == bare
	})
}

// withoutParameters returns the media type of name in lower case. It is not known if name
// is malformed; parameters may be.
func withoutParameters(name string) (bare string, known bool) {
	name, _, _ = strings.Cut(name, ";")
	bare, _, err := mime.ParseMediaType(name)
	return bare, err == nil
}
