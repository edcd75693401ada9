package limpet_test

import (
	"flag"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

var plainFlag = flag.Bool("plain", false, "run every test on the frames of the WebSocket library")

// options has a client of a test follow the flag -plain. Every call of
// limpet.New and limpet.Dial in a test passes its options through here.
func options(o *limpet.Options) *limpet.Options {
	if o == nil {
		o = new(limpet.Options)
	}
	o.PlainFrames = o.PlainFrames || *plainFlag
	return o
}

// A flag that nothing obeys would run all tests on limpet's own frames twice.
func TestPlainFlagIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, limpettest.NewServer(t, nil), nil)
		got := c.Stats().PlainFrames
		if got != *plainFlag {
			t.Errorf("PlainFrames is %v with -plain=%v", got, *plainFlag)
		}
		t.Logf("frame layer: %s", map[bool]string{false: "limpet", true: "library"}[got])
	})
}
