package wire

import (
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	at := time.Date(2021, 3, 21, 3, 47, 27, 112041000, time.UTC).UnixNano()
	for text, want := range map[string]int64{
		"2021-03-21T03:47:27.112041Z":      at,
		"2021-03-21T04:47:27.112041+01:00": at,
		"2021-03-21T03:47:27.112041123Z":   at + 123,
		"2021-03-21T03:47:27Z":             at - 112041000,
		"1616298447":                       at - 112041000,
		"1616298447.112041":                at,
		"1616298447.1120411234567":         at + 123, // beyond nanoseconds there is nothing
		"1616298447112":                    at - 41000,
		"1616298447112.041":                at,
		"1616298447112041":                 at,
		"1616298447112041.5":               at + 500,
		"1616298447112041000":              at,
		"1616298447112041000.9":            at,
		"99999999999":                      0, // seconds of the year 5138
		"100000000000":                     100_000_000_000 * int64(time.Millisecond),
		"9223372036854775807":              1<<63 - 1,
		"9223372036854775808":              0,
		"99999999999999999999":             0,
		"1":                                int64(time.Second),
		"0":                                0,
		"0.5":                              int64(time.Second / 2),
		"":                                 0,
		"-1616298447":                      0,
		"1.6e9":                            0,
		"1616298447.":                      0,
		".5":                               0,
		"0x16":                             0,
		"2021-03-21 03:47:27Z":             0,
		"2021-03-21":                       0,
		"2021-13-21T03:47:27Z":             0,
		"1969-12-31T23:59:59Z":             0,
		"1970-01-01T00:00:00Z":             0, // the same as none
		"2300-01-01T00:00:00Z":             0,
		"now":                              0,
		"2021-03-21T03:47:27.Z":            0,
		"2021-03-21T24:00:00Z":             0,
		"2021-02-29T00:00:00Z":             0,
		"20a1-03-21T03:47:27Z":             0,
		"2021-03-21T03:47:6zZ":             0,
		"2021-03-21T03:47:27":              0,
	} {
		if got := ParseTime([]byte(text)); got != want {
			t.Errorf("%s: got %d, want %d", text, got, want)
		}
	}
}

// TestTimeOf: a time that nanoseconds cannot count, such as one in a wrong unit, is none.
func TestTimeOf(t *testing.T) {
	last := time.Date(2262, 4, 11, 0, 0, 0, 0, time.UTC)
	for at, want := range map[time.Time]int64{
		{}: 0, time.Unix(-1, 999): 0, time.Unix(0, 0): 0, time.Unix(1, 2): 1_000_000_002, last: last.UnixNano(),
		last.AddDate(0, 0, 1): 0, time.Unix(1_700_000_000_000, 0): 0, time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC): 0,
	} {
		if got := TimeOf(at); got != want {
			t.Errorf("%v: %d, want %d", at, got, want)
		}
	}
}

// Each day is what the library says of it.
func TestParseTimeOfEachDay(t *testing.T) {
	for day := time.Date(1970, 1, 1, 0, 0, 1, 5000, time.UTC); day.Year() < 2262; day = day.AddDate(0, 0, 1) {
		text, _ := day.MarshalText()
		if got := ParseTime(text); got != day.UnixNano() {
			t.Fatalf("%s: got %d, want %d", text, got, day.UnixNano())
		}
	}
}

// A time is in every message of some feeds.
func TestParseTimeAllocatesNothing(t *testing.T) {
	for _, text := range []string{"2021-03-21T03:47:27.112041Z", "1616298447112", "1616298447.112041", "soon"} {
		data := []byte(text)
		if n := testing.AllocsPerRun(100, func() { ParseTime(data) }); n != 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}

func BenchmarkParseTime(b *testing.B) {
	for _, text := range []string{"2021-03-21T03:47:27.112041Z", "1616298447112"} {
		b.Run(text, func(b *testing.B) {
			data := []byte(text)
			b.ReportAllocs()
			for b.Loop() {
				ParseTime(data)
			}
		})
	}
}
