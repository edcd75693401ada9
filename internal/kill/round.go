package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
	"github.com/limpet-go/limpet/server"
)

// patience is how long a victim may take for anything.
const patience = 20 * time.Second

// result is what a round, or several, have shown.
type result struct {
	Round    int
	Seed     uint64
	Kills    int // those that count
	Idle     int // those at which no message was without an outcome
	Messages int // in the log of the server
	Phases   [phases]int
}

// round is one outbox and one server, and victims that are killed one after the other.
type round struct {
	dir, url, fault string
	address         string // of the servers, if they are killed
	random          *rand.Rand
	trace           *trace
	store           *seenStore
	result          result
}

// run makes kills and drains the outbox. step is called after each kill.
func run(base, fault string, number int, seed uint64, kills int, step func(result)) (res result, err error) {
	dir, err := os.MkdirTemp(base, "round")
	if err != nil {
		return res, err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w (files in %s)", err, dir)
		}
	}()
	t := newTrace()
	store := &seenStore{Store: server.NewMemoryStore(&server.MemoryStoreOptions{Retention: server.Retention{Count: -1, Bytes: -1}}), trace: t}
	backend, err := server.New(&server.Options{Store: store})
	if err != nil {
		return res, err
	}
	defer backend.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return res, err
	}
	web := &http.Server{Handler: backend, ReadHeaderTimeout: patience}
	go func() { _ = web.Serve(listener) }()
	defer web.Close()
	r := &round{dir: dir, url: "ws://" + listener.Addr().String(), fault: fault, random: rand.New(rand.NewPCG(seed, uint64(number))), trace: t, store: store, result: result{Round: number, Seed: seed}}
	for r.result.Kills < kills {
		if r.result.Idle > 10*kills+10 {
			return r.result, errors.New("hardly any kill finds a message without an outcome: this proves nothing")
		}
		if err := r.life(); err != nil {
			return r.result, fmt.Errorf("round %d of seed %d, after %d kills: %w", number, seed, r.result.Kills, err)
		}
		step(r.result)
	}
	err = r.drain()
	r.result.Messages = t.messages()
	return r.result, err
}

func (r *round) outbox() string { return filepath.Join(r.dir, "outbox") }

// process is a running victim.
type process struct {
	cmd    *exec.Cmd
	killed atomic.Bool
	dead   chan struct{} // closed when it has ended
	once   sync.Once
}

func (p *process) kill() {
	p.once.Do(func() {
		p.killed.Store(true)
		_ = p.cmd.Process.Kill()
	})
}

// life starts a victim and kills it.
func (r *round) life() error {
	aim := phase(r.random.IntN(int(phases) + 1))
	if aim == phases {
		aim = anywhere
	}
	o := orders{URL: r.url, Dir: r.outbox(), First: r.trace.newest + 1, Fault: r.fault, Aim: aim, After: 1 + r.random.IntN(12)}
	err := r.start(o)
	if wrong := r.trace.err(); wrong != nil {
		return wrong
	}
	if err != nil {
		return err
	}
	content, err := r.left()
	if err != nil {
		return fmt.Errorf("the outbox after a kill: %w", err)
	}
	in := r.trace.after(content)
	if err := r.trace.err(); err != nil {
		return err
	}
	where := aim
	if aim == anywhere || !in[aim] {
		for where = unwritten; where < phases && !in[where]; where++ {
		}
	}
	if where == phases {
		r.result.Idle++
	} else {
		r.result.Kills++
		r.result.Phases[where]++
	}
	return r.restore()
}

// start runs a victim until it is dead, and takes what it tells.
func (r *round) start(o orders) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	p := &process{cmd: exec.CommandContext(context.Background(), program), dead: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), victimKey+"="+string(text))
	errText := new(strings.Builder)
	p.cmd.Stderr = errText
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	pause := time.Duration(r.random.IntN(1500)) * time.Microsecond
	commits, before := o.After, r.random.IntN(2) == 0
	if err := p.cmd.Start(); err != nil {
		return err
	}
	if o.Aim == unacked && !o.Drain {
		r.store.set(func(b bool) {
			if b != before {
				return
			}
			if commits--; commits == 0 {
				p.kill()
				<-p.dead // before anything is acknowledged
			}
		})
		defer r.store.set(nil)
	}
	if o.Aim == anywhere && !o.Drain {
		defer time.AfterFunc(time.Duration(r.random.IntN(60))*time.Millisecond, p.kill).Stop()
	}
	late := r.watch(p, bufio.NewScanner(out), o.Aim, pause)
	err = p.cmd.Wait()
	close(p.dead)
	switch {
	case late:
		return fmt.Errorf("a victim with the aim %d made no progress for %v: %s", o.Aim, patience, errText)
	case o.Drain && err == nil, !o.Drain && p.killed.Load():
		return nil
	}
	return fmt.Errorf("the client ended by itself: %v: %s", err, strings.TrimSpace(errText.String()))
}

// watch takes what a process says until it is dead, and kills it where it says that it is at its aim. It is
// late if that took longer than patience.
func (r *round) watch(p *process, lines *bufio.Scanner, aim phase, pause time.Duration) bool {
	var late atomic.Bool
	defer time.AfterFunc(patience, func() { late.Store(true); p.kill() }).Stop()
	for lines.Scan() {
		var what string
		var n int
		if _, err := fmt.Sscan(lines.Text(), &what, &n); err != nil {
			what = lines.Text()
		}
		r.trace.line(what, n)
		if what == "at" {
			if aim == unsynced {
				<-time.After(pause)
			}
			p.kill()
		}
	}
	return late.Load()
}

// left returns what the outbox holds. It opens a copy: the next victim gets the directory as the kill has
// left it.
func (r *round) left() (*outbox.Content, error) {
	dir := filepath.Join(r.dir, "copy")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.CopyFS(dir, os.DirFS(r.outbox())); errors.Is(err, os.ErrNotExist) {
		return &outbox.Content{}, nil // it was killed before it made the directory
	} else if err != nil {
		return nil, err
	}
	s, err := file.Open(dir, &file.Options{SegmentSize: segmentSize})
	if err != nil {
		return nil, err
	}
	c, err := s.Load(context.Background())
	return c, errors.Join(err, s.Close())
}

// restore exchanges the directory for an older one, if that is the fault.
func (r *round) restore() error {
	old := filepath.Join(r.dir, "old")
	if _, err := os.Stat(r.outbox()); r.fault != "old" || err != nil {
		return nil
	}
	if _, err := os.Stat(old); err != nil {
		return os.CopyFS(old, os.DirFS(r.outbox()))
	}
	if err := os.RemoveAll(r.outbox()); err != nil {
		return err
	}
	return os.Rename(old, r.outbox())
}

// drain starts a victim that is not killed, and compares all.
func (r *round) drain() error {
	err := r.start(orders{URL: r.url, Dir: r.outbox(), Drain: true, Fault: r.fault, Aim: anywhere})
	if wrong := r.trace.err(); wrong != nil {
		return wrong
	}
	if err != nil {
		return err
	}
	c, err := r.left()
	if err != nil {
		return err
	}
	for _, m := range c.Messages {
		if !m.Settled && !m.Void {
			return fmt.Errorf("after Flush and Close the outbox holds message %d", numberOf(m.ID))
		}
	}
	return r.trace.drained(c)
}
