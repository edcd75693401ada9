package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// process is a program in a process of its own, which can be started again.
type process struct {
	name    string
	command []string
	log     string // file with what it prints
	cmd     *exec.Cmd
	ended   chan struct{}
}

// start starts the process and waits until ready returns no error.
func (p *process) start(ctx context.Context, ready func() error) error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd, ended := exec.Command(p.command[0], p.command[1:]...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w; run gateway/install.sh", p.name, err)
	}
	p.cmd, p.ended = cmd, ended
	go func() {
		cmd.Wait() // its state says how it ended
		close(ended)
	}()
	within, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for err = ready(); err != nil; err = ready() {
		select {
		case <-ended:
			return fmt.Errorf("%s has ended: %s", p.name, p.tail())
		default:
		}
		if pass(within, 20*time.Millisecond) != nil {
			return fmt.Errorf("%s is not ready: %w: %s", p.name, err, p.tail())
		}
	}
	return nil
}

// tail returns the end of what the process has printed.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b[max(0, len(b)-2000):]))
}

// signal sends a signal to a process that runs.
func (p *process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%s: signal %v: %w", p.name, s, err)
	}
	return nil
}

// kill ends the process with SIGKILL, if it runs. It returns an error if something else has ended it.
func (p *process) kill() error {
	if p.cmd == nil {
		return nil
	}
	err := p.signal(syscall.SIGKILL)
	<-p.ended
	state := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	p.cmd = nil
	if err == nil && (!state.Signaled() || state.Signal() != syscall.SIGKILL) {
		err = fmt.Errorf("%s has ended by itself: %s", p.name, p.tail())
	}
	return err
}

// leave ends the process with SIGTERM. The exit status must be 0.
func (p *process) leave(within time.Duration) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-p.ended:
	case <-late.C:
		return errors.Join(fmt.Errorf("%s has not ended %v after SIGTERM", p.name, within), p.kill())
	}
	status := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	if status != 0 {
		return fmt.Errorf("%s: exit status %d after SIGTERM: %s", p.name, status, p.tail())
	}
	return nil
}

// pidsOf returns the pids of those that run.
func pidsOf(all ...*process) (pids []int) {
	for _, p := range all {
		if p != nil && p.cmd != nil {
			pids = append(pids, p.cmd.Process.Pid)
		}
	}
	return pids
}

// pass waits. It returns an error if ctx ends first.
func pass(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// freeAddr returns an address of this machine where nothing listens, below the ports that the system gives to
// connections, so that none of them takes it in the meantime.
func freeAddr() (string, error) {
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10_000+rand.N(20_000))); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", fmt.Errorf("no port is free: %w", err)
}

// listens returns what tells whether addr accepts connections.
func listens(addr string) func() error {
	return func() error {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// configure writes a copy of a configuration to path in which each old text, which must be there once, is replaced by
// the new one after it.
func configure(file, path string, oldNew ...string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text := string(b)
	for i := 0; i < len(oldNew); i += 2 {
		if n := strings.Count(text, oldNew[i]); n != 1 {
			return fmt.Errorf("%s has %q %d times, want once", file, oldNew[i], n)
		}
		text = strings.Replace(text, oldNew[i], oldNew[i+1], 1)
	}
	return os.WriteFile(path, []byte(text), 0o600)
}
