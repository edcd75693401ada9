package wire

import (
	"math"
	"time"
)

// TimeOf returns t in nanoseconds since 1970, as in Message.Time: 0 for the zero Time, for
// times before 1970 and for times after April 2262.
func TimeOf(t time.Time) int64 {
	if s := t.Unix(); s < 0 || s >= math.MaxInt64/int64(time.Second) {
		return 0
	}
	return t.UnixNano()
}

// ParseTime returns the time that text is, in nanoseconds since 1970 as in Message.Time.
// text is RFC 3339, "2021-03-21T03:47:27.112041Z", or a decimal number, with or without
// a fraction, of seconds, milliseconds, microseconds or nanoseconds since 1970. The size
// of the number tells the unit: below 1e11 it counts seconds, below 1e14 milliseconds,
// below 1e17 microseconds. This holds for every time from March 1973 to 2262. ParseTime returns 0
// for any other text, for times before 1970 and for times after April 2262. It allocates
// nothing, unless the text has an offset from UTC or is wrong in the form of RFC 3339.
func ParseTime(text []byte) int64 {
	if len(text) > len("2006-01-02T") && text[4] == '-' {
		return parseDate(text)
	}
	return parseNumber(text)
}

// parseDate reads RFC 3339. The usual form, in UTC, is read by hand: that takes less than half of the
// library's time, and this is done for each message. The library knows how long months are, so the days
// from the 29th on are left to it.
func parseDate(text []byte) int64 {
	const form = "2006-01-02T15:04:05"
	if len(text) > len(form) && text[len(text)-1] == 'Z' {
		year, month, day := two(text)*100+two(text[2:]), two(text[5:]), two(text[8:])
		hour, minute, second := two(text[11:]), two(text[14:]), two(text[17:])
		nano, ok := fraction(text[len(form):len(text)-1], uint64(time.Second))
		if ok && text[7] == '-' && text[10] == 'T' && text[13] == ':' && text[16] == ':' && 1970 <= year && year <= 2261 &&
			1 <= month && month <= 12 && 1 <= day && day <= 28 && hour <= 23 && minute <= 59 && second <= 59 {
			return (days(year, month, day)*24*3600+int64(hour*3600+minute*60+second))*int64(time.Second) + int64(nano)
		}
	}
	var t time.Time
	if t.UnmarshalText(text) != nil || t.Unix() < 0 || t.Year() > 2261 {
		return 0
	}
	return t.UnixNano()
}

// two returns the number that two digits are, 1000 or more if they are none.
func two(text []byte) int {
	high, low := text[0]-'0', text[1]-'0'
	if high > 9 || low > 9 {
		return 1e6
	}
	return int(high)*10 + int(low)
}

// days returns how many days after 1970-01-01 a date is. A year begins in March, so that a leap day is
// its last one.
func days(year, month, day int) int64 {
	if month <= 2 {
		year, month = year-1, month+12
	}
	return int64(365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 719469)
}

// parseNumber reads a number of seconds or of parts of a second since 1970.
func parseNumber(text []byte) int64 {
	var n uint64
	i := 0
	for ; i < len(text) && text[i]-'0' <= 9; i++ {
		if n > math.MaxInt64/10 {
			return 0
		}
		n = n*10 + uint64(text[i]-'0')
	}
	if i == 0 {
		return 0
	}
	unit := unitOf(n)
	if n > math.MaxInt64/unit {
		return 0
	}
	part, ok := fraction(text[i:], unit)
	if n = n*unit + part; !ok || n > math.MaxInt64 {
		return 0
	}
	return int64(n)
}

// fraction returns the part of unit that a point with digits after it is; none is 0.
func fraction(text []byte, unit uint64) (part uint64, ok bool) {
	if len(text) == 0 {
		return 0, true
	}
	if text[0] != '.' || len(text) == 1 {
		return 0, false
	}
	for _, c := range text[1:] {
		if c-'0' > 9 {
			return 0, false
		}
		unit /= 10
		part += uint64(c-'0') * unit
	}
	return part, true
}

// unitOf returns how many nanoseconds the unit of a time of that size has.
func unitOf(n uint64) uint64 {
	switch {
	case n < 1e11:
		return uint64(time.Second)
	case n < 1e14:
		return uint64(time.Millisecond)
	case n < 1e17:
		return uint64(time.Microsecond)
	}
	return 1
}
