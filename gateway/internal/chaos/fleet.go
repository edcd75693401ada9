package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const gateways = 3

// places are what is built or looked up once.
type places struct {
	root    string // of the repository
	dir     string // for files of the runs
	gateway string // the program
	nats    string // the program
}

// gateway is one in a process.
type gateway struct {
	*process
	clients, admin string   // addresses
	links          []*relay // to the engine, if it can be cut off
}

// fleet is gateways behind a proxy.
type fleet struct {
	gateways []*gateway
	proxy    *process
	url      string // for clients
}

// startFleet starts gateways on an engine, and a proxy before them: haproxy or nginx. linked means that each gateway has
// a way to the engine of its own.
func startFleet(ctx context.Context, at *places, dir, proxy string, e engine, linked bool) (_ *fleet, err error) {
	f := &fleet{}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	for n := range gateways {
		var links []*relay
		via := func(addr string) string {
			if !linked {
				return addr
			}
			link, failed := newRelay(addr)
			if failed != nil {
				err = failed
				return addr
			}
			links = append(links, link)
			return link.addr()
		}
		flags := e.flags(via)
		if err != nil {
			return nil, err
		}
		g, err := newGateway(at, dir, fmt.Sprint("gateway ", n+1), append([]string{"-log", logName, "-log-level", "debug",
			"-drain-wait", "1500ms", "-drain-spread", "1s"}, flags...))
		if err != nil {
			return nil, err
		}
		g.links = links
		f.gateways = append(f.gateways, g)
		if err := g.again(ctx); err != nil {
			return nil, err
		}
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	f.url = "ws://" + addr
	if proxy == "nginx" {
		err = f.startNginx(ctx, at, dir, addr)
	} else {
		err = f.startHAProxy(ctx, at, dir, addr)
	}
	return f, err
}

// newGateway returns a gateway that is yet to be started.
func newGateway(at *places, dir, name string, flags []string) (*gateway, error) {
	clients, err := freeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return &gateway{clients: clients, admin: admin, process: &process{name: name, log: filepath.Join(dir, strings.ReplaceAll(name, " ", "")+".log"),
		command: append([]string{at.gateway, "-listen", clients, "-admin-listen", admin}, flags...)}}, nil
}

// again starts the gateway, and waits until it takes clients.
func (g *gateway) again(ctx context.Context) error {
	return g.start(ctx, func() error {
		_, err := get("http://" + g.clients + "/healthz")
		return err
	})
}

// healthy waits until the gateway takes clients again.
func (g *gateway) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := get("http://" + g.clients + "/healthz")
		if err == nil {
			return nil
		}
		if err := errors.Join(err, pass(ctx, 50*time.Millisecond)); ctx.Err() != nil {
			return fmt.Errorf("%s does not become healthy again: %w", g.name, err)
		}
	}
}

// startHAProxy runs docs/deploying/haproxy.cfg with other addresses and times, without TLS, and without the limit for
// one address, which all clients share here.
func (f *fleet) startHAProxy(ctx context.Context, at *places, dir, addr string) error {
	path := filepath.Join(dir, "haproxy.cfg")
	changes := []string{
		"bind :443 ssl crt /etc/haproxy/feed.example.com.pem alpn http/1.1", "bind " + addr,
		"gt 100", "gt 1000000", "maxconn 20000", "maxconn 2000", "GET /readyz", "GET /healthz",
		"inter 1s fall 1 rise 1", "inter 500ms fall 1 rise 1 on-marked-down shutdown-sessions",
	}
	for i, g := range f.gateways {
		changes = append(changes, fmt.Sprintf("node%d 10.0.0.%d:8080", i+1, i+1), fmt.Sprintf("node%d %s", i+1, g.clients))
	}
	if err := configure(filepath.Join(at.root, "docs/deploying/haproxy.cfg"), path, changes...); err != nil {
		return err
	}
	f.proxy = &process{name: "haproxy", log: filepath.Join(dir, "haproxy.log"), command: []string{"/usr/sbin/haproxy", "-db", "-f", path}}
	return f.proxy.start(ctx, listens(addr))
}

// startNginx runs docs/deploying/nginx.conf in the same way. With max_fails=0 a gateway that has failed is tried again at once.
func (f *fleet) startNginx(ctx context.Context, at *places, dir, addr string) error {
	path, servers := filepath.Join(dir, "nginx.conf"), ""
	for _, g := range f.gateways {
		servers += "server " + g.clients + " max_fails=0; "
	}
	if err := configure(filepath.Join(at.root, "docs/deploying/nginx.conf"), path,
		"listen 443 ssl;", "listen "+addr+";",
		"ssl_certificate     /etc/ssl/feed.example.com.pem;", "", "ssl_certificate_key /etc/ssl/feed.example.com.key;", "",
		"/var/log/nginx/access.log", filepath.Join(dir, "access.log"), "server_name feed.example.com;", "",
		"server 10.0.0.1:8080;", servers, "server 10.0.0.2:8080;", "", "worker_connections 20000", "worker_connections 2000",
		"proxy_next_upstream_tries 2", "proxy_next_upstream_tries 3", "rate=10r/s", "rate=10000r/s", "burst=50", "burst=10000"); err != nil {
		return err
	}
	f.proxy = &process{name: "nginx", log: filepath.Join(dir, "nginx.log"), command: []string{"/usr/sbin/nginx", "-e", "stderr", "-p", dir, "-c", path,
		"-g", "daemon off; worker_processes 1; pid " + filepath.Join(dir, "nginx.pid") + ";"}}
	return f.proxy.start(ctx, listens(addr))
}

// close ends all processes.
func (f *fleet) close() {
	if f.proxy != nil && f.proxy.cmd != nil {
		f.proxy.leave(5 * time.Second) // it ends its workers
	}
	for _, g := range f.gateways {
		g.kill()
		for _, link := range g.links {
			link.close()
		}
	}
}

// busiest returns the gateway with the most clients, and how many it has.
func (f *fleet) busiest() (found *gateway, clients int, err error) {
	for _, g := range f.gateways {
		n, err := g.metric("limpet_server_connections{", `state="ready"`)
		if err != nil {
			return nil, 0, err
		}
		if n > clients || found == nil {
			found, clients = g, n
		}
	}
	if clients == 0 {
		return nil, 0, errors.New("no gateway has clients")
	}
	return found, clients, nil
}

// metric returns the sum of the metrics of a gateway whose lines have all the texts.
func (g *gateway) metric(has ...string) (sum int, err error) {
	text, err := get("http://" + g.admin + "/metrics")
	if err != nil {
		return 0, fmt.Errorf("%s: %w", g.name, err)
	}
	found := false
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || slices.ContainsFunc(has, func(s string) bool { return !strings.Contains(line, s) }) {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %q: %w", g.name, line, err)
		}
		found, sum = true, sum+int(value)
	}
	if !found {
		return 0, fmt.Errorf("%s has no metric with %q", g.name, has)
	}
	return sum, nil
}

var web = &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get returns the body of an answer with status 200.
func get(url string) (string, error) {
	r, err := web.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %s", r.StatusCode, bytes.TrimSpace(b))
	}
	return string(b), nil
}

// prepare finds the repository, from the directory of the program upwards, and builds the gateway.
func prepare(ctx context.Context, dir string) (*places, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "docs/deploying/haproxy.cfg")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			return nil, errors.New("run this in the folder gateway of the repository")
		}
		root = filepath.Dir(root)
	}
	at := &places{root: root, dir: dir, gateway: filepath.Join(dir, "gateway"), nats: filepath.Join(root, "gateway/servers/bin/nats-server")}
	build := exec.CommandContext(ctx, "go", "build", "-o", at.gateway, ".")
	build.Dir = filepath.Join(root, "gateway")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the gateway cannot be built: %w: %s", err, out)
	}
	return at, nil
}
