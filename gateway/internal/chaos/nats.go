package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet/gateway/jetstream"
)

// natsEngine is three servers of NATS with JetStream.
type natsEngine struct {
	servers []*natsServer
	urls    string
	conn    *nats.Conn
}

// natsServer is one of them.
type natsServer struct {
	*process
	dir  string // of its stream
	addr string
}

const natsConfig = `server_name: %[1]s
listen: "%[2]s"
jetstream { store_dir: "%[3]s", max_file: 1GB, limits { batch { max_inflight_per_stream: 1000, max_inflight_total: 5000 } } }
cluster { name: chaos, listen: "%[4]s", routes: [%[5]s], no_advertise: true }
`

// startNATS starts a cluster with its files in dir.
func startNATS(ctx context.Context, at *places, dir string) (_ *natsEngine, err error) {
	if _, err := os.Stat(at.nats); err != nil {
		return nil, errors.New("nats-server is missing: run gateway/install.sh")
	}
	e := &natsEngine{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	var clients, routes, urls, quoted []string
	for range 3 {
		a, err := freeAddr()
		if err != nil {
			return nil, err
		}
		b, err := freeAddr()
		if err != nil {
			return nil, err
		}
		clients, routes = append(clients, a), append(routes, b)
		urls, quoted = append(urls, "nats://"+a), append(quoted, fmt.Sprintf("%q", "nats://"+b))
	}
	e.urls = strings.Join(urls, ",")
	for i, name := range []string{"nats1", "nats2", "nats3"} {
		config := filepath.Join(dir, name+".conf")
		s := &natsServer{addr: clients[i], dir: filepath.Join(dir, name), process: &process{name: name, log: filepath.Join(dir, name+".log"), command: []string{at.nats, "-c", config}}}
		text := fmt.Sprintf(natsConfig, name, clients[i], s.dir, routes[i], strings.Join(quoted, ", "))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		e.servers = append(e.servers, s)
		if err := s.again(ctx); err != nil {
			return nil, err
		}
	}
	e.conn, err = nats.Connect(e.urls, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	return e, err
}

func (s *natsServer) again(ctx context.Context) error { return s.start(ctx, listens(s.addr)) }

func (e *natsEngine) flags(via func(string) string) []string {
	var urls []string
	for _, s := range e.servers {
		urls = append(urls, "nats://"+via(s.addr))
	}
	return []string{"-engine", "jetstream", "-nats-url", strings.Join(urls, ",")}
}

func (e *natsEngine) open(ctx context.Context) (store, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return jetstream.Open(ctx, e.urls, &jetstream.Options{Log: logName})
}

// call asks JetStream something.
func (e *natsEngine) call(ctx context.Context, api string, body any, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	m, err := e.conn.RequestWithContext(ctx, "$JS.API.STREAM."+api+"."+logName, b)
	if err != nil {
		return fmt.Errorf("%s of the stream: %w", api, err)
	}
	var failed struct{ Error *struct{ Description string } }
	if err := errors.Join(json.Unmarshal(m.Data, &failed), json.Unmarshal(m.Data, answer)); err != nil {
		return err
	}
	if failed.Error != nil {
		return fmt.Errorf("%s of the stream: %s", api, failed.Error.Description)
	}
	return nil
}

func (e *natsEngine) purge(ctx context.Context) (int, error) {
	var done struct{ Purged int }
	err := e.call(ctx, "PURGE", map[string]string{"filter": logName + ".s.*"}, &done)
	return done.Purged, err
}

// leader returns the server that leads the stream. It waits until one that runs does.
func (e *natsEngine) leader(ctx context.Context) (*natsServer, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		var info struct{ Cluster struct{ Leader string } }
		err := e.call(ctx, "INFO", nil, &info)
		for _, s := range e.servers {
			if err == nil && s.name == info.Cluster.Leader && s.cmd != nil {
				return s, nil
			}
		}
		if pass(ctx, 20*time.Millisecond) != nil {
			return nil, fmt.Errorf("the stream has no leader: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// rewind has two servers lead with files that lack what the third one has: one that was down, and one that comes back with
// an older copy of its files, as a power failure leaves them.
func (e *natsEngine) rewind(ctx context.Context, during time.Duration) error {
	a, err := e.leader(ctx)
	if err != nil {
		return err
	}
	var others []*natsServer
	for _, s := range e.servers {
		if s != a {
			others = append(others, s)
		}
	}
	b, c := others[0], others[1]
	copied := b.dir + ".copy"
	if err := errors.Join(c.kill(), b.kill(), os.CopyFS(copied, os.DirFS(b.dir)), b.again(ctx)); err != nil {
		return err
	}
	if _, err := e.leader(ctx); err != nil {
		return err
	}
	if err := errors.Join(pass(ctx, during), a.kill(), b.kill(), os.RemoveAll(b.dir), os.Rename(copied, b.dir), b.again(ctx), c.again(ctx)); err != nil {
		return err
	}
	if _, err := e.leader(ctx); err != nil {
		return err
	}
	return errors.Join(pass(ctx, time.Second), a.again(ctx))
}

func (e *natsEngine) pids() []int {
	return pidsOf(e.servers[0].process, e.servers[1].process, e.servers[2].process)
}

func (e *natsEngine) close() {
	if e.conn != nil {
		e.conn.Close()
	}
	for _, s := range e.servers {
		s.kill()
	}
}
