package frame

import "unicode/utf8"

// checkText validates a text that grows. b[:done] is known to be valid; the result
// is how much is valid now. A character that is cut at the end of b is accepted
// unless last is set.
func checkText(b []byte, done int, last bool) (int, bool) {
	end := len(b)
	if !last {
		end -= cut(b[done:])
	}
	if !utf8.Valid(b[done:end]) {
		return done, false
	}
	return end, true
}

// cut returns how many bytes at the end of b are an incomplete character.
func cut(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// Text checks that a text which comes in parts is UTF-8. The zero value is ready for use.
type Text struct{ rest []byte } // an incomplete character at the end of the last part

// Valid reports whether the text is valid up to p, the next part. The last part must not end
// within a character.
func (t *Text) Valid(p []byte, last bool) bool {
	for len(t.rest) > 0 && len(p) > 0 && !utf8.FullRune(t.rest) {
		t.rest, p = append(t.rest, p[0]), p[1:]
	}
	if utf8.FullRune(t.rest) {
		if !utf8.Valid(t.rest) {
			return false
		}
		t.rest = t.rest[:0]
	}
	if len(t.rest) == 0 {
		n := cut(p)
		t.rest = append(t.rest, p[len(p)-n:]...)
		p = p[:len(p)-n]
	}
	return utf8.Valid(p) && !(last && len(t.rest) > 0)
}
