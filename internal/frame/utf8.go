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
