package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/limpet-go/limpet/server"
)

// init adds the flag -serve, so that main.go is a whole program without it.
func init() {
	flag.Func("serve", "be a server at this `address` that has a new job every 10 milliseconds", serve)
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
	go func() {
		for n := 1; ; n++ {
			<-time.After(10 * time.Millisecond)
			if _, err := backend.Publish(context.Background(), "jobs/print", fmt.Append(nil, n), nil); err != nil {
				log.Fatal(err)
			}
		}
	}()
	web := http.Server{Handler: backend, ReadHeaderTimeout: 5 * time.Second}
	return web.Serve(listener)
}
