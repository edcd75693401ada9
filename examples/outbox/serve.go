package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/limpet-go/limpet/server"
)

// init adds the flag -serve, so that main.go is a whole program without it.
func init() {
	flag.Func("serve", "be a server at this `address`, with its log in memory", serve)
}

func serve(address string) error {
	backend, err := server.New(nil)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("ws://" + listener.Addr().String())
	web := http.Server{Handler: backend, ReadHeaderTimeout: 5 * time.Second}
	return web.Serve(listener)
}
