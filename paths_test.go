package limpet

import "flag"

func init() {
	flag.BoolVar(&plainByDefault, "plain", false, "run every test on the frames of the WebSocket library")
}
