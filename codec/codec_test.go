package codec

import (
	"errors"
	"testing"
)

type price struct {
	Symbol string `json:"symbol"`
	Price  float64
}

func TestJSON(t *testing.T) {
	c := JSON[price]()
	if got := c.ContentTypes()[0]; got != "application/json" {
		t.Errorf("content type %s", got)
	}
	for _, test := range []struct {
		payload string
		want    price
		fails   bool
	}{
		{`{"symbol":"AB","Price":1.5}`, price{"AB", 1.5}, false},
		{`{"symbol":"AB","more":{}}`, price{"AB", 0}, false},
		{`null`, price{}, false},
		{``, price{}, true},
		{`{"symbol":"AB"} {}`, price{}, true},
	} {
		got, err := c.Decode([]byte(test.payload))
		if (err != nil) != test.fails || !test.fails && got != test.want {
			t.Errorf("%s: %v, %v", test.payload, got, err)
		}
	}
	payload, err := c.Encode(price{"AB", 1.5})
	if got, second := c.Decode(payload); err != nil || second != nil || got != (price{"AB", 1.5}) {
		t.Errorf("%s: %v, %v", payload, got, errors.Join(err, second))
	}
	if payload, err := JSON[func()]().Encode(nil); err == nil {
		t.Errorf("a function was encoded as %s", payload)
	}
}
