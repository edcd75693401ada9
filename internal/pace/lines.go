package pace

import "time"

// Lines bounds how many lines of each kind a log gets: 10 within 10 seconds. The zero Lines is
// ready for use. It is not safe for concurrent use.
type Lines struct{ kinds map[string]*lineLimit }

const (
	maxLines   = 10 // of one kind within lineWindow
	lineWindow = 10 * time.Second
)

// lineLimit counts the lines of one kind.
type lineLimit struct {
	began      time.Time // of the window
	lines      int       // in it
	suppressed int       // since the last line
}

// Allow reports whether there may be one more line of kind, and how many were
// suppressed before it.
func (l *Lines) Allow(kind string, now time.Time) (ok bool, suppressed int) {
	k := l.kinds[kind]
	if k == nil {
		if l.kinds == nil {
			l.kinds = make(map[string]*lineLimit)
		}
		k = &lineLimit{began: now}
		l.kinds[kind] = k
	}
	if now.Sub(k.began) >= lineWindow {
		k.began, k.lines = now, 0
	}
	if k.lines >= maxLines {
		k.suppressed++
		return false, 0
	}
	k.lines++
	suppressed, k.suppressed = k.suppressed, 0
	return true, suppressed
}

// Suppressed returns how many lines were suppressed and not reported.
func (l *Lines) Suppressed() (sum int) {
	for _, k := range l.kinds {
		sum += k.suppressed
	}
	return sum
}
