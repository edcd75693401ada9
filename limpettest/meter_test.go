package limpettest

import (
	"bytes"
	"testing"
)

// FuzzMeter: whatever passes, every byte is counted once, however the bytes are cut
// into writes.
func FuzzMeter(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x03one\x89\x00\x02\x7e\x00\x80"), byte(1))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n\x82\x83\x01\x02\x03\x04abc\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff"), byte(3))
	f.Fuzz(func(t *testing.T, data []byte, piece byte) {
		whole, cut := meter{capture: true}, meter{capture: true}
		run := func(m *meter, size int) (messages [][]byte) {
			for rest := data; len(rest) > 0; {
				p := rest[:min(size, len(rest))]
				n, k := m.step(p)
				if n == 0 && k == markNone || n > len(p) {
					t.Fatalf("took %d of %d bytes in state %d", n, len(p), m.state)
				}
				rest = rest[n:]
				switch k {
				case markHead:
					m.upgrade()
				case markMessage:
					messages = append(messages, m.payload)
					m.payload = nil
				}
			}
			return messages
		}
		a, b := run(&whole, len(data)), run(&cut, int(piece)+1)
		if whole.bytes != int64(len(data)) || cut.bytes != whole.bytes || cut.frames != whole.frames || len(a) != len(b) {
			t.Fatalf("whole %d bytes %d frames %d messages, cut %d %d %d, of %d bytes",
				whole.bytes, whole.frames, len(a), cut.bytes, cut.frames, len(b), len(data))
		}
		for i := range a {
			if !bytes.Equal(a[i], b[i]) {
				t.Fatalf("message %d: %q and %q", i, a[i], b[i])
			}
		}
	})
}
