// Livefeed replays a week of real earthquakes through a network that keeps
// breaking, and shows that the consumer receives each event once, in order, and
// that the server receives each alert once.
//
//	go run ./examples/livefeed
//
// It runs everything in one process, over real loopback sockets:
//
//	file -> server <-> fault proxy <-> client -> score
//	           ^------ alerts ----------'
//
// The last line of its output is the result. The exit status is 0 only if the run
// was exact: see README.md in this folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := livefeed(ctx, os.Args[1:], os.Stdout, os.Stderr, onTerminal(os.Stdout))
	stop()
	os.Exit(code)
}

// livefeed is main with its environment as arguments. It returns the exit status:
// 0 for an exact run, 1 for any other, 2 for a wrong flag.
func livefeed(ctx context.Context, args []string, out, errOut io.Writer, live bool) int {
	quakes, err := loadQuakes()
	if err != nil {
		fmt.Fprintln(errOut, "livefeed:", err)
		return 1
	}
	cfg, err := parseFlags(args, errOut, len(quakes))
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(errOut, "livefeed:", err)
		return 2
	}
	r := run(ctx, cfg, quakes, out, live)
	for _, why := range r.why() {
		fmt.Fprintln(out, "livefeed: not exact:", why)
	}
	fmt.Fprintln(out, r.line())
	if len(r.why()) > 0 {
		return 1
	}
	return 0
}

// config holds the flags.
type config struct {
	seed     uint64
	speed    float64
	level    level
	addr     *url.URL // nil: a server in this process
	sabotage sabotage
	durable  string // directory of the server; "": in memory
	picture  string
}

func parseFlags(args []string, errOut io.Writer, quakes int) (config, error) {
	var cfg config
	f := flag.NewFlagSet("livefeed", flag.ContinueOnError)
	f.SetOutput(errOut)
	f.Uint64Var(&cfg.seed, "seed", 1, "`number` that determines the faults of the run")
	f.Float64Var(&cfg.speed, "speed", 1, "1: the week in about 10 s; 2: twice as fast")
	faults := f.String("faults", "harsh", "none, mild (cut, refuse) or harsh (cut, reset, blackhole, refuse)")
	addr := f.String("addr", "", "`URL` (ws://host:port/path) of a running limpet.v1 server; default: one in this process")
	broken := f.String("sabotage", "", "break the server's log at quake n: `lose:n`, dup:n or swap:n. The run must fail")
	f.StringVar(&cfg.durable, "durable", "", "`directory` in which the server keeps sessions, messages and ids; default: in memory")
	f.StringVar(&cfg.picture, "picture", "", "`file` for a picture of the run, SVG")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	if f.NArg() > 0 {
		return cfg, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if !(cfg.speed >= 0.001 && cfg.speed <= 1e6) {
		return cfg, fmt.Errorf("-speed %v: want 0.001 to 1000000", cfg.speed)
	}
	var err error
	if cfg.level, err = findLevel(*faults); err != nil {
		return cfg, err
	}
	if cfg.sabotage, err = parseSabotage(*broken, quakes); err != nil {
		return cfg, err
	}
	if cfg.durable != "" && (*broken != "" || *addr != "") {
		return cfg, errors.New("-durable is for a server in this process with its log unbroken: leave -addr and -sabotage out")
	}
	if *addr == "" {
		return cfg, nil
	}
	if *broken != "" {
		return cfg, errors.New("-sabotage needs the server in this process: leave -addr out")
	}
	// The proxy breaks connections inside WebSocket frames, so it must see the frames.
	if cfg.addr, err = url.Parse(*addr); err != nil || cfg.addr.Scheme != "ws" || cfg.addr.Hostname() == "" {
		return cfg, errors.New("-addr: want ws://host:port/path; the fault proxy cannot look into wss://")
	}
	if cfg.addr.Port() == "" {
		cfg.addr.Host = net.JoinHostPort(cfg.addr.Hostname(), "80")
	}
	return cfg, nil
}
