// Gateway is a server of limpet.v1 as one program: for one machine, or as one of many that share a
// NATS JetStream or a Redis.
//
//	cd gateway && go run . -engine memory
//
// README.md in this folder says how to run it, and gateway.example.yaml has all settings.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/limpet-go/limpet/gateway/internal/config"
	"github.com/limpet-go/limpet/gateway/internal/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its environment as arguments. It returns the exit status: 0 after a shutdown in order, 1 after a
// failure, 2 if a setting cannot be used.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	cfg, err := config.Load(args, out)
	switch {
	case errors.Is(err, config.ErrHelp):
		return 0
	case err != nil:
		return fail(errOut, err)
	}
	log := newLogger(cfg, errOut)
	n, err := node.Start(ctx, cfg, log)
	if err != nil {
		return fail(errOut, err)
	}
	clients, admin := n.Addresses()
	log.Info("serving", "clients", clients, "admin", admin, "engine", cfg.Engine, "auth", cfg.Auth)
	if err := n.Run(ctx); err != nil {
		fmt.Fprintln(errOut, "gateway:", err)
		return 1
	}
	return 0
}

// fail prints an error and returns the exit status: 2 if a setting is wrong.
func fail(out io.Writer, err error) int {
	fmt.Fprintln(out, "gateway:", err)
	var setting *config.Error
	if errors.As(err, &setting) {
		return 2
	}
	return 1
}

// newLogger returns one with the level and the format of the settings, which have been checked.
func newLogger(cfg *config.Config, out io.Writer) *slog.Logger {
	level := slog.LevelInfo
	level.UnmarshalText([]byte(cfg.LogLevel))
	o := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(out, o))
	}
	return slog.New(slog.NewTextHandler(out, o))
}
