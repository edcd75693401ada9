package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	client "github.com/redis/go-redis/v9"

	"github.com/limpet-go/limpet/gateway/redis"
	"github.com/limpet-go/limpet/server"
)

// logName is that of the log in the engine.
const logName = "chaos"

// engine is what the gateways share.
type engine interface {
	// flags returns those with which a gateway uses the engine. via makes another address of each one.
	flags(via func(addr string) string) []string

	// open returns a store of its own.
	open(ctx context.Context) (store, error)

	// purge removes the records of all sessions and returns how many there were.
	purge(ctx context.Context) (int, error)

	// rewind makes the engine lose messages that were acknowledged during the time.
	rewind(ctx context.Context, during time.Duration) error

	// pids returns its processes, of those that run.
	pids() []int

	close()
}

// direct is the address itself.
func direct(addr string) string { return addr }

// store is a Store that can be closed.
type store interface {
	server.Store
	Close() error
}

// redisEngine is a Redis, or one with a replica.
type redisEngine struct {
	primary, replica *process
	primaryAddr      string
	replicaAddr      string
	link             *relay // from the replica to the primary
	entry            *relay // to whichever is the primary
}

// startRedis starts one in dir, with a replica if the run needs one.
func startRedis(ctx context.Context, dir string, withReplica bool) (_ *redisEngine, err error) {
	e := &redisEngine{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if e.primary, e.primaryAddr, err = e.process(ctx, dir, "redis"); err != nil || !withReplica {
		return e, err
	}
	if e.link, err = newRelay(e.primaryAddr); err != nil {
		return nil, err
	}
	if e.entry, err = newRelay(e.primaryAddr); err != nil {
		return nil, err
	}
	if e.replica, e.replicaAddr, err = e.process(ctx, dir, "replica"); err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(e.link.addr(), ":")
	if _, err := e.do(ctx, e.replicaAddr, "REPLICAOF", host, port); err != nil {
		return nil, err
	}
	return e, e.inStep(ctx)
}

// process starts a Redis.
func (e *redisEngine) process(ctx context.Context, dir, name string) (*process, string, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	_, port, _ := strings.Cut(addr, ":")
	p := &process{name: name, log: filepath.Join(dir, name+".log"), command: []string{"redis-server", "--port", port, "--bind", "127.0.0.1",
		"--dir", dir, "--dbfilename", name + ".rdb", "--save", "", "--daemonize", "no", "--repl-diskless-sync-delay", "0"}}
	return p, addr, p.start(ctx, listens(addr))
}

// inStep waits until the replica follows the primary.
func (e *redisEngine) inStep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		info, err := e.do(ctx, e.replicaAddr, "INFO", "replication")
		if err == nil && strings.Contains(fmt.Sprint(info), "master_link_status:up") {
			return nil
		}
		if err := pass(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("the replica does not follow: %w", err)
		}
	}
}

// do runs a command.
func (e *redisEngine) do(ctx context.Context, addr string, args ...any) (any, error) {
	c := client.NewClient(&client.Options{Addr: addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1})
	defer c.Close()
	v, err := c.Do(ctx, args...).Result()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", args[0], err)
	}
	return v, nil
}

func (e *redisEngine) addr() string {
	if e.entry != nil {
		return e.entry.addr()
	}
	return e.primaryAddr
}

func (e *redisEngine) flags(via func(string) string) []string {
	return []string{"-engine", "redis", "-redis-url", "redis://" + via(e.addr())}
}

func (e *redisEngine) open(ctx context.Context) (store, error) {
	return redis.Open(ctx, "redis://"+e.addr(), &redis.Options{Log: logName})
}

func (e *redisEngine) purge(ctx context.Context) (int, error) {
	c := client.NewClient(&client.Options{Addr: e.primaryAddr, Protocol: 2, DisableIdentity: true})
	defer c.Close()
	n := 0
	records := c.Scan(ctx, 0, "{"+logName+"}:s:*", 1000).Iterator()
	for records.Next(ctx) {
		gone, err := c.Del(ctx, records.Val()).Result()
		if err != nil {
			return n, err
		}
		n += int(gone)
	}
	return n, records.Err()
}

// rewind promotes the replica, which is behind.
func (e *redisEngine) rewind(ctx context.Context, during time.Duration) error {
	e.link.freeze()
	if err := errors.Join(pass(ctx, during), e.primary.kill()); err != nil {
		return err
	}
	if _, err := e.do(ctx, e.replicaAddr, "REPLICAOF", "NO", "ONE"); err != nil {
		return err
	}
	e.entry.lead(e.replicaAddr)
	return nil
}

func (e *redisEngine) pids() []int { return pidsOf(e.primary, e.replica) }

func (e *redisEngine) close() {
	for _, p := range []*process{e.primary, e.replica} {
		if p != nil {
			p.kill()
		}
	}
	for _, r := range []*relay{e.link, e.entry} {
		if r != nil {
			r.close()
		}
	}
}
