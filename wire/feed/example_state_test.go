package feed_test

import (
	"encoding/json"
	"fmt"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// lagoon is a dialect whose server gives each subscription a number that holds for one
// connection. Open makes the functions, and what they remember, again for each.
type lagoon struct{ wire.Dialect }

func (lagoon) Open(r wire.Resume) (wire.Codec, error) {
	own, err := feed.NewFuncs(lagoonFuncs())
	if err != nil {
		return nil, err
	}
	return own.Open(r)
}

func lagoonFuncs() feed.Funcs {
	topics := map[int]string{} // Read alone uses it: one goroutine at a time
	return feed.Funcs{
		Name: "lagoon", Confirms: true,
		Subscribe: func(a feed.Ask) ([]byte, error) { return json.Marshal(map[string]string{"sub": a.Topic}) },
		Read: func(data []byte, say func(feed.Item)) error {
			var m struct {
				Sub string
				As  int
			}
			if err := json.Unmarshal(data, &m); err != nil {
				return err
			}
			if m.Sub != "" {
				topics[m.As] = m.Sub
				say(feed.Item{Kind: feed.Answered, Topic: m.Sub})
				return nil
			}
			say(feed.Item{Topic: topics[m.As]})
			return nil
		},
	}
}

// State of one connection belongs to functions that are made for it: here the numbers that
// the server gives to topics. A program passes lagoon as limpet.Options.Dialect.
func ExampleNewFuncs_stateOfAConnection() {
	shared, err := feed.NewFuncs(lagoonFuncs())
	if err != nil {
		fmt.Println(err)
		return
	}
	dialect := lagoon{shared}
	for _, texts := range [][]string{{`{"sub":"pearls","as":1}`, `{"as":1}`}, {`{"sub":"shells","as":1}`, `{"as":1}`}} {
		codec, err := dialect.Open(wire.Resume{})
		if err != nil {
			fmt.Println(err)
			return
		}
		var events wire.Events
		for _, text := range texts {
			if err := codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &events); err != nil {
				fmt.Println(err)
			}
		}
		fmt.Println("a message of", events.List[1].Name)
	}
	// Output:
	// a message of pearls
	// a message of shells
}
