package frame

import "unicode/utf8"

// checkText validates text as it grows. b[:done] was found valid before; the
// result is how much is now. A character cut at the end of b is valid until
// last.
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

// cut is how many bytes at the end of b begin a character that b does not end.
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
