package server

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// A record comes back from a store as it was; one that is cut or longer is refused.
func TestRecordComesBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		r := record{sid: "s", window: 64, principal: "who"[:rnd.IntN(4)], cn: rnd.Uint64(), se: rnd.Uint64(), carried: rnd.Uint64(), ttl: time.Duration(rnd.Int64())}
		r.rotate([]byte("key"))
		if rnd.IntN(2) == 0 {
			r.prev, r.bound, r.conflicts[2] = keyHash{}, true, rnd.Int64()
		}
		for seq := uint64(1); seq <= rnd.Uint64N(100); seq++ {
			var id wire.ID
			id[0] = byte(seq)
			code := rnd.Uint64N(3) * 5
			r.mark(seq, id, code, code != 0 || seq%4 == 0)
		}
		if rnd.IntN(2) == 0 {
			r.mark(r.ack+2+rnd.Uint64N(20), wire.ID{9}, 0, false)
		}
		data := r.append(nil)
		got, err := decodeRecord("s", 64, data)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, r)
		}
		for n := range data {
			if _, err := decodeRecord("s", 64, data[:n]); err == nil {
				t.Fatalf("a record of %d bytes is good with %d", len(data), n)
			}
		}
		if _, err := decodeRecord("s", 64, append(data, 0)); err == nil {
			t.Fatal("a record is good with a byte more")
		}
		if data[0]++; len(data) > 0 {
			if _, err := decodeRecord("s", 64, data); err == nil {
				t.Fatal("another version is read")
			}
		}
	}
}

// What comes from a store may be anything: it is refused, and takes no memory.
func FuzzDecodeRecord(f *testing.F) {
	r := record{principal: "who", rejected: []native.Reject{{S: 1, Code: 2}}}
	f.Add(r.append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := decodeRecord("s", 64, data); err == nil && len(r.rejected) > len(data) {
			t.Fatalf("%d rejections from %d bytes", len(r.rejected), len(data))
		}
	})
}

// Stores keep hashes, so these never change.
func TestHashesStayTheSame(t *testing.T) {
	for _, tc := range []struct {
		topic, payload string
		want           uint64
	}{
		{"", "", 0x4f329cadfaf7c73c}, {"t", "x", 0x4e566e336801a791}, {"orders/eu", "a longer payload than eight bytes", 0x2bb12b5654b3b662},
	} {
		if got := HashOf(tc.topic, []byte(tc.payload)); got != tc.want {
			t.Errorf("%q %q: %#x, want %#x", tc.topic, tc.payload, got, tc.want)
		}
	}
	seen := map[uint64]string{}
	for _, texts := range [][2]string{{"a", "b"}, {"ab", ""}, {"", "ab"}, {"a", "b\x00"}, {"a", "\x00b"}, {"a\x00", "b"}, {"a", ""}, {"", "a"}, {"a", "bbbbbbbb"}, {"a", "bbbbbbbbb"}} {
		h := HashOf(texts[0], []byte(texts[1]))
		if other, ok := seen[h]; ok || h == 0 {
			t.Errorf("%q has the hash of %q, %#x", texts, other, h)
		}
		seen[h] = texts[0] + "|" + texts[1]
	}
}
