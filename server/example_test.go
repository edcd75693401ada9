package server_test

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/limpet-go/limpet/server"
)

// A server for the pages of one site, with tokens and an orderly shutdown.
func Example() {
	srv, err := server.New(&server.Options{
		Hosts:     []string{"feed.example.com"},
		Origins:   []string{"https://app.example.com"},
		Retention: server.Retention{Count: 1_000_000, Age: time.Hour},
		Hooks: server.Hooks{
			Authenticate: func(ctx context.Context, r *http.Request, token string) (server.Principal, error) {
				if token != "let me in" {
					return server.Principal{}, errors.New("unknown token")
				}
				return server.Principal{ID: "ann"}, nil
			},
			Authorize: func(who server.Principal, verb server.Verb, topic string) error {
				if verb == server.VerbPublish && topic != "alerts/"+who.ID {
					return errors.New("not yours")
				}
				return nil
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	web := &http.Server{Addr: "127.0.0.1:8080", Handler: srv, ReadHeaderTimeout: 5 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		srv.Shutdown(bounded) // first the upgraded connections, which the http.Server does not track
		web.Shutdown(bounded)
	}()
	if _, err := srv.Publish(ctx, "news/today", []byte(`{"hello":"world"}`), nil); err != nil {
		log.Print(err)
	}
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}
